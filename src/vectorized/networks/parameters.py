"""The parameters of a stack in a few tensors, and its state by name, whatever the tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.vectorized.networks.layers import StackedLayer

State = dict[str, Tensor]  # name → values (k, …)
LARGE = 2**14  # values of a job's parameter above which it is stored separately: one product then serves all jobs


class Block(NamedTuple):
    """Parameters that an optimiser changes together.

    Attributes:
        group: the index of their parameter group.
        names: their names in the stack's network.
        shapes: their shapes in it, without the jobs' dimension.
        theta: their values one after the other, (k, P); the network's parameters are views of it.
        mask: where a job has values of its own, (k, P) of 1 and 0; ``None``: everywhere.
    """

    group: int
    names: list[str]
    shapes: list[torch.Size]
    theta: Tensor
    mask: Tensor | None

    def split(self, values: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Generate the name and the part, (k, …), of each parameter in values (k, P); they are views."""
        parts = values.split([shape.numel() for shape in self.shapes], dim=1)
        for name, shape, part in zip(self.names, self.shapes, parts, strict=True):
            yield name, part.view(len(values), *shape)


def make_blocks(net: nn.Module, groups: Sequence[Sequence[str]]) -> list[Block]:
    """Return the trained parameters of a stacked network in blocks, and make them views of these.

    Args:
        net: the network.
        groups: the names of the parameters of each parameter group.
    """
    blocks = []
    for number, names in enumerate(groups):
        large = [name for name in names if net.get_parameter(name)[0].numel() > LARGE]
        parts = [[name] for name in large] + [[name for name in names if name not in large]]
        blocks += [_make_block(net, number, part) for part in parts if part]
    return blocks


def _make_block(net: nn.Module, group: int, names: list[str]) -> Block:
    parameters = [net.get_parameter(name) for name in names]
    masks = [_make_mask(net, name) for name in names]
    theta = torch.cat([each.detach().flatten(1) for each in parameters], dim=1)
    mask = None
    if any(each is not None for each in masks):
        own = [torch.ones_like(value) if each is None else each for each, value in zip(masks, parameters, strict=True)]
        mask = torch.cat([each.flatten(1) for each in own], dim=1).to(theta)
    block = Block(group, names, [each.shape[1:] for each in parameters], theta, mask)
    for parameter, (_, view) in zip(parameters, block.split(theta), strict=True):
        parameter.data = view
    return block


def _make_mask(net: nn.Module, name: str) -> Tensor | None:
    path, _, own = name.rpartition(".")
    layer = net.get_submodule(path)
    assert isinstance(layer, StackedLayer)
    return layer.make_mask(own)


def name_state(blocks: Sequence[Block], state: Mapping[str, Tensor]) -> State:
    """Return a stack's state by the names of its parameters, as views: it then fits stacks of other widths."""
    found: State = {}
    for key, values in state.items():
        kind, _, rest = key.partition(".")
        if kind == "net":
            found[key] = values
            continue
        number, _, name = rest.partition(".")
        prefix = "net" if kind == "theta" else name
        found |= {f"{prefix}.{each}": part for each, part in blocks[int(number)].split(values)}
    return found


def copy_common(target: Tensor, source: Tensor) -> None:
    """Copy values (k, …) to a tensor that may be wider or narrower; what it has beyond them becomes zero."""
    common = tuple(slice(min(sizes)) for sizes in zip(target.shape, source.shape, strict=True))
    if target.shape != source.shape:
        target.zero_()
    target[common] = source[common].to(target)


def select_rows(state: Mapping[str, Tensor], rows: Sequence[int]) -> State:
    """Return a copy of some jobs' rows of a state."""
    return {name: values.detach()[list(rows)] for name, values in state.items()}


def copy_rows(
    target: Mapping[str, Tensor], target_rows: Sequence[int], source: Mapping[str, Tensor], source_rows: Sequence[int]
) -> None:
    """Copy rows of a state to the rows ``target_rows`` of another; entries that the other lacks are ignored."""
    for name, values in target.items():
        values[list(target_rows)] = source[name].detach()[list(source_rows)]
