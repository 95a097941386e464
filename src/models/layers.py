"""Layers shared by several networks, and the initialisation of their weights."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.init import dirac_, kaiming_normal_, normal_, xavier_uniform_, zeros_

from src.core.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
INITIALISATIONS = ("default", "xavier", "he", "normal", "zeros", "dirac")
BATCH_NORMS = (False, True, "before", "after")  # its position relative to the activation; True: before

BatchNorm = bool | str


def _expand_widths(hidden_size: int | Sequence[int]) -> list[int]:
    """Return ``hidden_size`` as a list of layer widths: an int is one hidden layer, an empty list none."""
    return [hidden_size] if isinstance(hidden_size, int) else list(hidden_size)


def build_norm_act(linear: nn.Module, norm: nn.Module, activation: nn.Module, batch_norm: BatchNorm) -> list[nn.Module]:
    """Return a linear layer or convolution, batch norm if asked for, and the activation, in order."""
    if not batch_norm:
        return [linear, activation]
    return [linear, activation, norm] if batch_norm == "after" else [linear, norm, activation]


def has_bias(batch_norm: BatchNorm) -> bool:
    """Return True if a layer needs a bias."""
    # A batch norm right after the layer would cancel its bias, and has its own.
    return batch_norm in (False, "after")


def _build_hidden_layer(
    in_features: int, out_features: int, activation: str, dropout: float, batch_norm: BatchNorm
) -> nn.Sequential:
    """Return a hidden layer: linear, batch norm, activation, dropout; (B, in_features) → (B, out_features)."""
    linear = nn.Linear(in_features, out_features, bias=has_bias(batch_norm))
    layers = build_norm_act(linear, nn.BatchNorm1d(out_features), ACTIVATIONS[activation](), batch_norm)
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


def build_mlp(
    in_features: int,
    hidden_size: int | Sequence[int],
    out_features: int,
    activation: str,
    dropout: float,
    batch_norm: BatchNorm,
    output_bias: bool = True,
) -> nn.Sequential:
    """Return hidden layers and a linear output layer; (B, in_features) → (B, out_features)."""
    sizes = [in_features, *_expand_widths(hidden_size)]
    hidden = [_build_hidden_layer(a, b, activation, dropout, batch_norm) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], out_features, bias=output_bias))


class PairwiseProducts(nn.Module):
    """A fixed feature map: the inputs and all products of two of them; (B, D) → (B, D + D(D−1)/2)."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(in_features, in_features, offset=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.out_features = in_features + len(first)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x[:, self.first] * x[:, self.second]], dim=1)  # type: ignore[index]


def init_weights(net: nn.Module, scheme: str, std: float) -> None:
    """Draw the initial weights of all linear layers and convolutions, and set their biases to 0.

    Args:
        net: the network.
        scheme: "default" keeps torch's initial values, of biases too; "xavier": uniform (Glorot & Bengio,
            2010); "he": normal, for ReLU (He et al., 2015); "normal": N(0, std²); "zeros"; "dirac" keeps
            torch's too, but makes the first filters of each convolution pass its inputs through unchanged.
        std: standard deviation for "normal".

    Raises:
        InputError: for "dirac", if the network has no convolution with an odd kernel.
    """
    if scheme == "default":
        return
    if scheme == "dirac":
        _init_dirac(net)
        return
    schemes: dict[str, Callable[[Tensor], Tensor]] = {
        "xavier": xavier_uniform_,
        "he": partial(kaiming_normal_, nonlinearity="relu"),
        "normal": partial(normal_, std=std),
        "zeros": zeros_,
    }
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            schemes[scheme](module.weight)
            if module.bias is not None:
                zeros_(module.bias)


@torch.no_grad()
def _init_dirac(net: nn.Module) -> None:
    """Initialise filter i of each k×k convolution, k odd, as the identity on input channel i.

    Filters beyond the number of input channels stay as they are.

    Raises:
        InputError: if there is no such convolution.
    """
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] % 2]
    if not convolutions:
        raise InputError(
            f"model.init=dirac is for convolutions: {type(net).__name__} has none with an odd kernel; choose another "
            f"of {', '.join(INITIALISATIONS)}"
        )
    for convolution in convolutions:
        dirac_(convolution.weight[: convolution.in_channels])
