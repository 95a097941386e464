"""Where a data set lies: on the device that trains if it fits there; else its batches are copied ahead of their use.

A set on the device costs a step neither work on the CPU nor a copy: order, indexing and augmentation happen there.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

import torch

from src.core.devices import is_main_process

log = logging.getLogger(__name__)
MOST = 0.5  # share of a device's free memory that a data set may take


class Movable(Protocol):
    """Samples that can be copied to a device."""

    @property
    def device(self) -> torch.device: ...

    def pin(self) -> Self: ...

    def to(self, device: torch.device, non_blocking: bool = False) -> Self: ...


T = TypeVar("T", bound=Movable)


class Placement:
    """Where a data set lies while it is used.

    Attributes:
        asked: whether on the device where it is used; ``None``: if it fits there.
    """

    def __init__(self) -> None:
        self.asked: bool | None = None
        self.stays: dict[torch.device, bool] = {}  # whether batches alone come to a device
        self.copies: dict[str, tuple[Any, Any]] = {}  # parts of the set, each with its copy on a device

    def place(self, part: str, samples: T, device: torch.device, size: Callable[[], int]) -> T:
        """Return samples as they are to be used: on the device, if the data set is to lie there.

        Args:
            part: the name of this part of the set, such as "train"; its copy is made once.
            samples: what the part holds.
            device: where it is used.
            size: returns the bytes of the whole set.
        """
        if device.type == "cpu":
            return samples
        if device not in self.stays:
            self.stays[device] = self._decide(size(), device)
        if self.stays[device]:
            return samples
        source, copy = self.copies.get(part, (None, None))
        if source is not samples or copy.device != device:
            self.copies[part] = samples, samples.to(device)
        return self.copies[part][1]

    def _decide(self, size: int, device: torch.device) -> bool:
        """Return whether a data set of so many bytes is to stay where it is, and say so."""
        fits = size <= MOST * measure_free(device)
        stays = not (fits if self.asked is None else self.asked)
        if is_main_process():
            why = "data_on_device=false" if self.asked is False else "more than half of the memory that is free there"
            how = f"copied to it batch by batch ({why})" if stays else "kept on it"
            log.info("data: %.3g MB for %s, %s", size / 1e6, device, how)
        return stays


def measure_free(device: torch.device) -> float:
    """Return how many bytes of a device's memory are free."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return math.inf


def copy_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield batches copied to a device, each while the one before it is computed with.

    The copies have a stream of their own and begin in pinned memory: from other memory they would wait.

    Args:
        batches: `Movable` ones.
        device: a CUDA device; the CPU, whose streams do nothing, yields the same.
    """
    module: Any = torch.get_device_module(device)
    copying, ahead = module.Stream(), None
    for batch in batches:
        # What the last batch but one took may be given to this one: wait until it has been read.
        copying.wait_stream(module.current_stream())
        with module.stream(copying):
            coming = _copy(batch, device), copying.record_event()
        if ahead is not None:
            yield _wait_for(*ahead, module)
        ahead = coming
    if ahead is not None:
        yield _wait_for(*ahead, module)


def _copy(batch: Movable, device: torch.device) -> Movable:
    return (batch.pin() if device.type == "cuda" else batch).to(device, non_blocking=True)


def _wait_for(batch: Movable, copied: Any, module: Any) -> Movable:
    """Return a batch; what is computed with it from now on begins once it is copied."""
    module.current_stream().wait_event(copied)
    return batch
