"""Layers of several networks, one that is fitted to the images instead of trained, and initial weights."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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

VARIANCE_FLOOR = 5e-4  # added to the variances, so that components of nearly no variance are not amplified
CHUNK_SIZE = 100  # images whose patches are in memory at the same time

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


class Whitening(nn.Conv2d):
    """Convolution with the principal components of the images' patches, each divided by its standard deviation.

    (B, C, H, W) → (B, 2·C·s², H−s+1, W−s+1). Every component occurs with both signs, so that an activation
    such as ReLU loses neither half of it. The filters are fixed after fitting, the bias is trained (Jordan,
    2024, arXiv:2404.00498).

    Args:
        in_channels: C.
        size: side s of the patches in pixels, ≥ 1.
    """

    fitted: Tensor

    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__(in_channels, 2 * in_channels * size**2, size)
        self.weight.requires_grad_(False)
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Fit the filters to the network's input images (N, C, H, W); each channel's mean must be about 0."""
        size = self.kernel_size[0]
        variances, components = torch.linalg.eigh(compute_covariance(images, size))
        filters = (components / (variances + VARIANCE_FLOOR).sqrt()).T.view(-1, self.in_channels, size, size)
        self.weight.copy_(torch.cat([filters, -filters]))
        self.fitted.fill_(True)


def compute_covariance(images: Tensor, size: int) -> Tensor:
    """Return the second moments of all size×size patches of images (N, C, H, W), in float64: (C·s², C·s²)."""
    width, count = images.shape[1] * size**2, 0
    total = images.new_zeros(width, width, dtype=torch.float64)
    for part in images.split(CHUNK_SIZE):
        patches = F.unfold(part, size).transpose(1, 2).flatten(0, 1).double()  # (n·L, C·s²)
        total += patches.T @ patches
        count += len(patches)
    return total / count


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
