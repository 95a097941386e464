"""Stack k networks of the same shape into one, along the channels, so that one operation computes all of them.

Inputs and outputs of every layer hold all jobs in dimension 1: (B, k·C, …). Pooling and activations support this
layout directly, convolutions and batch norms through groups and flattened parameters, linear layers through a batched
product. The networks' own ``forward`` runs unchanged: only their leaf modules are replaced.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.vectorized.random_numbers import BatchedRandomNumbers


class StackedLayer(nn.Module):
    """k layers as one; each of their parameters and buffers is stacked: (k, …)."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.k = len(layers)
        # stride, eps …; the layer itself would be registered as a submodule
        self.layer_settings: Any = vars(layers[0])
        for name, first in layers[0].named_parameters(recurse=False):
            stacked = torch.stack([layer.get_parameter(name).detach() for layer in layers])
            self.register_parameter(name, nn.Parameter(stacked, first.requires_grad))
        for name, _ in layers[0].named_buffers(recurse=False):
            self.register_buffer(name, torch.stack([layer.get_buffer(name) for layer in layers]))

    def get_flat(self, name: str) -> Tensor | None:
        """Return a view of a parameter or buffer in the layout (k·C, …); ``None`` if it does not exist."""
        found: Tensor | None = getattr(self, name, None)
        return None if found is None else found.flatten(0, 1)


class StackedLinear(StackedLayer):
    """Stacked linear layers: (B, k·in), or (B, in) shared by all jobs → (B, k·out)."""

    weight: Tensor  # (k, out, in)

    def forward(self, x: Tensor) -> Tensor:
        k, width, features = self.weight.shape
        if x.shape[1] == features:  # all jobs share the inputs: one product
            return F.linear(x, self.weight.flatten(0, 1), self.get_flat("bias"))  # (B, in) → (B, k·out)
        x = x.view(len(x), k, features).transpose(0, 1)  # (k, B, in)
        weight, bias = self.weight.transpose(1, 2), getattr(self, "bias", None)
        y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)  # (k, B, out)
        return y.transpose(0, 1).reshape(-1, k * width)


class StackedConv2d(StackedLayer):
    """Stacked convolutions: (B, k·C, H, W), or (B, C, H, W) shared by all jobs → (B, k·out, H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        conv, weight = self.layer_settings, self.get_flat("weight")
        assert weight is not None
        groups = conv["groups"] if x.shape[1] == conv["in_channels"] else self.k * conv["groups"]
        return F.conv2d(x, weight, self.get_flat("bias"), conv["stride"], conv["padding"], conv["dilation"], groups)


class StackedBatchNorm(StackedLayer):
    """Stacked batch norms, with separate statistics for each job: (B, k·C, …) → the same shape."""

    num_batches_tracked: Tensor  # (k,)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        mean, variance, weight, bias = map(self.get_flat, ("running_mean", "running_var", "weight", "bias"))
        momentum, eps = self.layer_settings["momentum"], self.layer_settings["eps"]
        return F.batch_norm(x, mean, variance, weight, bias, self.training, momentum, eps)


class StackedDropout(StackedLayer):
    """Stacked dropout, with each job's own probability and masks from its own seed: (B, k·C) → the same shape.

    On a CPU each job has a generator and draws the same masks as if it were trained alone; on other devices one
    generator draws for all jobs at once.
    """

    def __init__(self, layers: Sequence[nn.Dropout]) -> None:
        super().__init__(layers)
        self.keep_probabilities = [1 - layer.p for layer in layers]
        self.generators: list[torch.Generator] = []
        self.random_numbers: BatchedRandomNumbers | None = None  # if given, replaces the generators

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        masks = x.new_empty(self.k, len(x), x.shape[1] // self.k)
        if self.random_numbers is not None:
            kept_fractions = x.new_tensor(self.keep_probabilities).view(-1, 1, 1)
            masks = (self.random_numbers.draw(masks[0].numel()).view_as(masks) < kept_fractions).to(
                x.dtype
            ) / kept_fractions
            return x * masks.transpose(0, 1).reshape(x.shape)
        for mask, kept, generator in zip(masks, self.keep_probabilities, self.generators, strict=True):
            mask.bernoulli_(kept, generator=generator).div_(kept)
        return x * masks.transpose(0, 1).reshape(x.shape)


STACKED_LAYERS: dict[type[nn.Module], Callable[[Any], StackedLayer]] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
    nn.Dropout: StackedDropout,
}
CHANNELWISE_LAYERS = (  # layers that process each channel separately and have no parameters
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.Tanh,
    nn.Sigmoid,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Identity,
)


def find_unsupported_layer(net: nn.Module) -> str | None:
    """Return the class name of the first layer that cannot be stacked; ``None`` if all can."""
    leaves = [module for module in net.modules() if not list(module.children())]
    return next(
        (type(leaf).__name__ for leaf in leaves if type(leaf) not in (*STACKED_LAYERS, *CHANNELWISE_LAYERS)), None
    )


def stack_networks(nets: Sequence[nn.Module]) -> nn.Module:
    """Return one network that computes all given ones; their weights are copied."""
    wide = copy.deepcopy(nets[0])
    for name, leaf in nets[0].named_modules():
        if type(leaf) in STACKED_LAYERS:
            wide.set_submodule(name, STACKED_LAYERS[type(leaf)]([net.get_submodule(name) for net in nets]))
    return wide
