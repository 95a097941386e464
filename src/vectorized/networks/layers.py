"""Stack the layers of k networks, along the channels, so that one operation computes all of them.

Inputs and outputs of every layer hold all jobs in dimension 1: (B, k·C, …). Pooling and activations support this
layout directly, convolutions and batch norms through groups and flattened parameters, linear layers through a batched
product.

Networks may have other widths than their neighbours: parameters are padded with zeros, which a mask keeps at zero
(see `parameters.py`), so that the further channels are 0 before each activation and count nowhere. A network may lack a
layer that others have; its channels then pass by.
"""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.vectorized.networks.random_numbers import BatchedRandomNumbers

Shapes = list[torch.Size | None]  # of each job's tensor; None: the job lacks it


class StackedLayer(nn.Module):
    """k layers as one; each of their parameters and buffers is stacked and padded to one shape: (k, …).

    Args:
        layers: the layer of each job; ``None``: it has none here.
    """

    lacks: Tensor | None

    def __init__(self, layers: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.k = len(layers)
        present = [layer for layer in layers if layer is not None]
        # stride, eps …; the layer itself would be registered as a submodule
        self.layer_settings: Any = vars(present[0])
        self.shapes: dict[str, Shapes] = {}
        _note_lacking(self, [layer is None for layer in layers])
        for own in ("_parameters", "_buffers"):
            for name in dict.fromkeys(name for layer in present for name, value in _list_tensors(layer, own)):
                tensors = [None if layer is None else getattr(layer, name) for layer in layers]
                self.shapes[name] = [None if each is None else each.shape for each in tensors]
                stacked = stack_tensors(tensors)
                if own == "_buffers":
                    self.register_buffer(name, stacked)
                else:
                    is_trained = any(each.requires_grad for each in tensors if each is not None)
                    self.register_parameter(name, nn.Parameter(stacked, is_trained))
        if "weight" in self.shapes:
            self.widen(self.get_parameter("weight").shape[1])

    def get_flat(self, name: str) -> Tensor | None:
        """Return a view of a parameter or buffer in the layout (k·C, …); ``None`` if it does not exist."""
        found: Tensor | None = getattr(self, name, None)
        return None if found is None else found.flatten(0, 1)

    def pass_by(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the layer's output y with the input x of the jobs that lack the layer, both (B, k·C, …)."""
        if self.lacks is None:
            return y
        return torch.where(self.lacks.repeat_interleave(y.shape[1] // self.k).view(-1, *[1] * (y.ndim - 2)), x, y)

    def make_mask(self, name: str) -> Tensor | None:
        """Return where a parameter holds a job's own values, (k, …) of True or False; ``None``: everywhere."""
        value, shapes = self.get_parameter(name), self.shapes[name]
        if all(shape == value.shape[1:] for shape in shapes):
            return None
        own = [None if shape is None else torch.ones(shape) for shape in shapes]
        return stack_tensors([*own, torch.ones(value.shape[1:])])[:-1].bool().to(value.device)

    def widen(self, width: int) -> None:
        """Pad what there is for each channel, (k, C): jobs without it may have more channels than those with it."""
        for _, value in [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]:
            if value.ndim == 2:
                value.data = F.pad(value.detach(), [0, width - value.shape[1]])

    def select(self, rows: Sequence[int]) -> None:
        """Keep the layers of some of the jobs."""
        chosen = list(rows)
        for name, parameter in list(self.named_parameters(recurse=False)):
            setattr(self, name, nn.Parameter(parameter.detach()[chosen], parameter.requires_grad))
        for name, buffer in list(self.named_buffers(recurse=False)):
            setattr(self, name, buffer[chosen])
        self.shapes = {name: [shapes[row] for row in chosen] for name, shapes in self.shapes.items()}
        self.k = len(chosen)


class StackedLinear(StackedLayer):
    """Stacked linear layers: (B, k·in), or (B, in) shared by all jobs → (B, k·out)."""

    weight: Tensor  # (k, out, in)

    def forward(self, x: Tensor) -> Tensor:
        k, width, features = self.weight.shape
        if x.shape[1] == features:  # all jobs share the inputs: one product
            return F.linear(x, self.weight.flatten(0, 1), self.get_flat("bias"))  # (B, in) → (B, k·out)
        x = x.view(len(x), k, -1)[:, :, :features].transpose(0, 1)  # (k, B, in)
        weight, bias = self.weight.transpose(1, 2), getattr(self, "bias", None)
        y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)  # (k, B, out)
        return y.transpose(0, 1).reshape(-1, k * width)


class StackedConv2d(StackedLayer):
    """Stacked convolutions: (B, k·C, H, W), or (B, C, H, W) shared by all jobs → (B, k·out, H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        conv, weight = self.layer_settings, self.get_flat("weight")
        assert weight is not None
        is_shared = x.shape[1] == weight.shape[1] * conv["groups"]
        groups = conv["groups"] if is_shared else self.k * conv["groups"]
        return F.conv2d(x, weight, self.get_flat("bias"), conv["stride"], conv["padding"], conv["dilation"], groups)


class StackedBatchNorm(StackedLayer):
    """Stacked batch norms, with separate statistics for each job: (B, k·C, …) → the same shape."""

    num_batches_tracked: Tensor  # (k,)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        mean, variance, weight, bias = map(self.get_flat, ("running_mean", "running_var", "weight", "bias"))
        momentum, eps = self.layer_settings["momentum"], self.layer_settings["eps"]
        return self.pass_by(x, F.batch_norm(x, mean, variance, weight, bias, self.training, momentum, eps))


class StackedDropout(StackedLayer):
    """Stacked dropout, with each job's own probability and masks from its own seed: (B, k·C) → the same shape.

    On a CPU each job has a generator and draws the same masks as if it were trained alone; on other devices one
    generator draws for all jobs at once.
    """

    def __init__(self, layers: Sequence[nn.Module | None]) -> None:
        super().__init__(layers)
        self.keep_probabilities: list[float] = [1 - getattr(layer, "p", 0.0) for layer in layers]
        self.widths: list[int] = []  # of each job's channels; empty: all have the same
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
        widths = self.widths or [masks.shape[2]] * self.k
        for mask, kept, width, generator in zip(masks, self.keep_probabilities, widths, self.generators, strict=True):
            if kept == 1:
                mask.fill_(1.0)
            elif width == masks.shape[2]:
                mask.bernoulli_(kept, generator=generator).div_(kept)
            else:  # as many numbers as the job draws alone
                drawn = mask.new_empty(len(x), width).bernoulli_(kept, generator=generator)
                mask[:, :width] = drawn.div_(kept)
                mask[:, width:] = 0.0
        return x * masks.transpose(0, 1).reshape(x.shape)

    def select(self, rows: Sequence[int]) -> None:
        super().select(rows)
        self.keep_probabilities = [self.keep_probabilities[row] for row in rows]
        self.widths = [self.widths[row] for row in rows] if self.widths else []


class StackedActivation(StackedLayer):
    """Activations of different kinds: each job's channels through its own; (B, k·C, …) → the same shape."""

    chosen: Tensor  # (k,): each job's kind

    def __init__(self, layers: Sequence[nn.Module | None]) -> None:
        super().__init__(layers)
        kinds: dict[type[nn.Module], nn.Module] = {type(layer): layer for layer in layers if layer is not None}
        self.kinds = list(kinds.values())  # no submodules: this is one layer, and they have no parameters
        numbers = {kind: number for number, kind in enumerate(kinds)}
        chosen = [0 if layer is None else numbers[type(layer)] for layer in layers]
        self.register_buffer("chosen", torch.tensor(chosen), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_along(x.unflatten(1, (self.k, -1)), 1).flatten(1, 2)

    def apply_along(self, x: Tensor, dim: int) -> Tensor:
        """Return the activations of values that hold the jobs in a dimension."""
        return self.combine([kind(x) for kind in self.kinds], dim)

    def combine(self, values: Sequence[Tensor], dim: int) -> Tensor:
        """Return each job's values of those that each kind has computed for all jobs."""
        found = values[0]
        for number, value in enumerate(values[1:], start=1):
            shape = [1] * found.ndim
            shape[dim] = self.k
            found = torch.where(self.chosen.eq(number).view(shape), value, found)
        return found


class StackedSequential(nn.Sequential):
    """Layers that some of the jobs have; the channels of the others pass by, padded to the width behind."""

    lacks: Tensor

    def __init__(self, layers: dict[str, nn.Module], lacking: Sequence[bool]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        _note_lacking(self, lacking)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        x, y = (each.unflatten(1, (len(self.lacks), -1)) for each in (x, y))
        width = max(x.shape[2], y.shape[2])
        x, y = (F.pad(each, [*[0, 0] * (each.ndim - 3), 0, width - each.shape[2]]) for each in (x, y))
        return torch.where(self.lacks.view(1, -1, *[1] * (x.ndim - 2)), x, y).flatten(1, 2)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the layers of some of the jobs; the layers within are selected on their own."""
        self.lacks = self.lacks[list(rows)]


STACKED_LAYERS: dict[type[nn.Module], Callable[[Any], StackedLayer]] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
    nn.Dropout: StackedDropout,
}
ACTIVATION_LAYERS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid)
CHANNELWISE_LAYERS = (*ACTIVATION_LAYERS, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Identity)  # they have no parameters


def find_unsupported_layer(net: nn.Module) -> str | None:
    """Return the class name of the first layer that cannot be stacked; ``None`` if all can."""
    leaves = [module for module in net.modules() if not list(module.children())]
    return next(
        (type(leaf).__name__ for leaf in leaves if type(leaf) not in (*STACKED_LAYERS, *CHANNELWISE_LAYERS)), None
    )


def stack_tensors(tensors: Sequence[Tensor | None]) -> Tensor:
    """Return tensors of as many dimensions as one (k, …), padded with zeros; a missing one is all zeros."""
    present = [each.detach() for each in tensors if each is not None]
    shape = [max(sizes) for sizes in zip(*(each.shape for each in present), strict=True)]
    if len(present) == len(tensors) and all(each.shape == present[0].shape for each in present):
        return torch.stack(present)
    whole = present[0].new_zeros(len(tensors), *shape)
    for row, each in zip(whole, tensors, strict=True):
        if each is not None:
            row[tuple(map(slice, each.shape))] = each.detach()
    return whole


def stack_networks(nets: Sequence[nn.Module | None]) -> nn.Module:
    """Return one network that computes all given ones; their weights are copied.

    The children of a `nn.Sequential` are aligned by `name_children`; other modules must have the same children. Their
    ``forward`` is that of the first network: only leaf modules and sequences are replaced.

    Args:
        nets: the module of each job; ``None``: it has none here.

    Raises:
        ValueError: if the networks cannot be aligned.
    """
    present = [net for net in nets if net is not None]
    first = present[0]
    if not list(first.children()):
        return _stack_leaf(nets)
    named = [{} if net is None else name_children(net) for net in nets]
    parts: dict[str, nn.Module] = {}
    for slot in _merge_orders([list(own) for own in named if own]):
        children = [
            None if net is None or slot not in own else net.get_submodule(own[slot])
            for net, own in zip(nets, named, strict=True)
        ]
        parts[slot] = stack_networks(children)
        is_missing = any(child is None and net is not None for child, net in zip(children, nets, strict=True))
        if is_missing and not isinstance(parts[slot], (StackedBatchNorm, StackedDropout, StackedSequential)):
            raise ValueError(f"some of the networks have no {slot}")
    lacking = [net is None for net in nets]
    if isinstance(first, nn.Sequential):
        _fit_widths(parts.values())
        return StackedSequential(parts, lacking) if any(lacking) else nn.Sequential(OrderedDict(parts))
    if any(lacking) or any(own != named[0] for own in named):
        raise ValueError(f"{type(first).__name__} has other parts in some of the networks")
    whole = copy.deepcopy(first)
    for name, part in parts.items():
        setattr(whole, name, part)
    return whole


def _note_lacking(module: nn.Module, lacking: Sequence[bool]) -> None:
    """Keep in a stacked module which jobs lack it: ``lacks``, (k,); ``None``: none does."""
    module.register_buffer("lacks", torch.tensor(lacking) if any(lacking) else None, persistent=False)


def _fit_widths(layers: Iterable[nn.Module]) -> None:
    """Fit the batch norms and dropouts of a sequence to the channels that the layer before them puts out."""
    widths: list[int] = []  # of each job
    for layer in layers:
        if isinstance(layer, (StackedLinear, StackedConv2d)):
            widths = [shape[0] if shape else 0 for shape in layer.shapes["weight"]]
        if isinstance(layer, StackedBatchNorm) and widths:
            layer.widen(max(widths))
        if isinstance(layer, StackedDropout):
            layer.widths = widths if len(set(widths)) > 1 else []


def _stack_leaf(layers: Sequence[nn.Module | None]) -> nn.Module:
    """Return layers without children as one.

    Raises:
        ValueError: if they are of kinds that cannot be combined.
    """
    kinds = {type(layer) for layer in layers if layer is not None}
    if len(kinds) > 1 and kinds <= set(ACTIVATION_LAYERS):
        return StackedActivation(layers)
    if len(kinds) > 1:
        raise ValueError(f"{', '.join(sorted(kind.__name__ for kind in kinds))} cannot be combined")
    kind = next(iter(kinds))
    if kind in STACKED_LAYERS:
        return STACKED_LAYERS[kind](layers)
    return copy.deepcopy(next(layer for layer in layers if layer is not None))


def name_children(module: nn.Module) -> dict[str, str]:
    """Return the names of a module's children: name in a stack → own name.

    In a sequence the name in a stack gives a child's kind and its number, which do not depend on the layers that other
    networks have: batch norms and dropouts are numbered by the activations before them, all others by their kind.
    """
    if not isinstance(module, nn.Sequential):
        return {name: name for name, _ in module.named_children()}
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for own, child in module.named_children():
        role = "activation" if type(child) in ACTIVATION_LAYERS else type(child).__name__
        passes_by = type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)
        name = f"{role}{counts.get('activation' if passes_by else role, 0)}"
        while name in found:
            name += "b"
        counts[role] = counts.get(role, 0) + 1
        found[name] = own
    return found


def _merge_orders(sequences: Sequence[Sequence[str]]) -> list[str]:
    """Return all names in an order that agrees with each of the sequences.

    Raises:
        ValueError: if there is none.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for sequence in dict.fromkeys(map(tuple, sequences)):
        sorter.add(sequence[0])
        for before, name in itertools.pairwise(sequence):
            sorter.add(name, before)
    return list(sorter.static_order())


def list_names(net: nn.Module) -> Iterator[tuple[str, str]]:
    """Generate the full name of each of a network's tensors in a stack, and its own: parameters and saved buffers."""
    slots = {"": ""}
    for own, module in net.named_modules():
        for slot, child in name_children(module).items():
            slots[f"{own}.{child}".lstrip(".")] = f"{slots[own]}.{slot}".lstrip(".")
    for own in net.state_dict():
        path, _, name = own.rpartition(".")
        yield f"{slots[path]}.{name}".lstrip("."), own


def select_networks(net: nn.Module, rows: Sequence[int]) -> nn.Module:
    """Return the networks of some of the jobs of a stack, as wide as before."""
    fewer = copy.deepcopy(net)
    for module in fewer.modules():
        if isinstance(module, (StackedLayer, StackedSequential)):
            module.select(rows)
    return fewer


def _list_tensors(layer: nn.Module, own: str) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in getattr(layer, own).items() if value is not None)
