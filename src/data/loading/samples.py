"""Samples: inputs and their targets, and what inputs of each kind become for a network."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.own.streaming import StreamedImages, gather_rows, read_ahead, select_rows


class Samples(NamedTuple):
    """Inputs (N, ...) and their targets (N,): int64 classes, or float32 values for regression.

    Inputs that are too large for memory are `StreamedImages`, which become tensors when they are indexed.
    Targets are (N, K) for several labels, 0 or 1, or values, and (N, H, W) for a class per pixel.
    """

    inputs: Tensor
    targets: Tensor

    def take(self, index: Tensor | slice) -> "Samples":
        """Return some of the samples in memory."""
        if isinstance(index, slice):
            return Samples(self.inputs[index], self.targets[index])
        return Samples(gather_rows(self.inputs, index), gather_rows(self.targets, index))

    def take_each(self, indices: Iterable[Tensor | slice]) -> "Iterator[Samples]":
        """Yield what `take` returns for each index; streamed inputs are read ahead."""
        is_streamed = isinstance(self.inputs, StreamedImages)
        return read_ahead(self.take, indices) if is_streamed else map(self.take, indices)

    def select(self, index: Tensor | slice) -> "Samples":
        """Return some of the samples; streamed inputs stay where they are."""
        return Samples(select_rows(self.inputs, index), select_rows(self.targets, index))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Samples":
        """Return the samples on a device."""
        return Samples(*(values.to(device, non_blocking=non_blocking) for values in self))

    def pin(self) -> "Samples":
        """Return the samples in pinned memory, from which copies to a GPU are asynchronous."""
        return Samples(*(values.pin_memory() for values in self))

    @property
    def device(self) -> torch.device:
        """The device that stores the samples."""
        return self.targets.device

    @property
    def size(self) -> int:
        """The number of samples N."""
        return len(self.targets)


def flatten_targets(targets: Tensor) -> Tensor:
    """Return targets (N,), given as (N,) or, as a table's column often is, (N, 1)."""
    # With outputs (N,), targets (N, 1) would give N × N losses without any error.
    return targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets


def check_tokens(inputs: Tensor, num_tokens: int) -> None:
    """Check that inputs are tokens, if they should be: whole numbers from 0 to below ``num_tokens``.

    Raises:
        InputError: if they are not.
    """
    if not num_tokens or not inputs.numel():
        return
    low, high = inputs.aminmax()
    if not 0 <= low <= high < num_tokens or (inputs.is_floating_point() and not (inputs == inputs.round()).all()):
        raise InputError(f"inputs must be tokens, whole numbers from 0 to {num_tokens - 1}, and these are none")


def cast_inputs(inputs: Tensor, dtype: str | torch.dtype, num_tokens: int) -> Tensor:
    """Return a network's inputs in its precision, or as int64 if they are tokens."""
    return inputs.long() if num_tokens else inputs.to(dtype)
