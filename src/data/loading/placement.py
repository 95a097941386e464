"""Placement of a data set: on the training device if it fits, else batches are copied there before they are used.

With the data set on the device a step needs no CPU work and no copy: shuffling, indexing and augmentation run there.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

import torch

from src.core.devices import is_main_process

log = logging.getLogger(__name__)
MAX_MEMORY_FRACTION = 0.5  # fraction of a device's free memory that a data set may take


class Movable(Protocol):
    """Samples that can be copied to a device."""

    @property
    def device(self) -> torch.device: ...

    def pin(self) -> Self: ...

    def to(self, device: torch.device, non_blocking: bool = False) -> Self: ...


T = TypeVar("T", bound=Movable)


class Placement:
    """The choice of where a data set is stored, and its copies on devices.

    Attributes:
        requested: True to store it on the device that uses it, False not to; ``None``: only if it fits there.
    """

    def __init__(self) -> None:
        self.requested: bool | None = None
        self.is_streamed: dict[torch.device, bool] = {}  # True: only batches are copied to that device
        self.copies: dict[str, tuple[Any, Any]] = {}  # part → its samples, and their copy on a device

    def move_samples(self, part: str, samples: T, device: torch.device, size: Callable[[], int]) -> T:
        """Return samples on the device if the data set is to be stored there, else as they are.

        Args:
            part: the name of this part of the data set, such as "train"; it is copied only once.
            samples: the samples of this part.
            device: the device that uses them.
            size: returns the size of the whole data set in bytes.
        """
        if device.type == "cpu":
            return samples
        if device not in self.is_streamed:
            self.is_streamed[device] = self._should_stream(size(), device)
        if self.is_streamed[device]:
            return samples
        source, copy = self.copies.get(part, (None, None))
        if source is not samples or copy.device != device:
            self.copies[part] = samples, samples.to(device)
        return self.copies[part][1]

    def _should_stream(self, size: int, device: torch.device) -> bool:
        """Return True if a data set of ``size`` bytes is not to be copied to a device; log the decision."""
        fits = size <= MAX_MEMORY_FRACTION * _measure_free_memory(device)
        stays = not (fits if self.requested is None else self.requested)
        if is_main_process():
            reason = "data_on_device=false" if self.requested is False else "larger than half of its free memory"
            where = f"copied to it batch by batch ({reason})" if stays else "kept on it"
            log.info("data: %.3g MB for %s, %s", size / 1e6, device, where)
        return stays


def _measure_free_memory(device: torch.device) -> float:
    """Return a device's free memory in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return math.inf


def copy_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield batches on a device, copying each one while the one before it is in use.

    The copies run in a separate stream and from pinned memory; from other memory they would block.

    Args:
        batches: `Movable` batches.
        device: a CUDA device; on the CPU, whose streams do nothing, the batches are the same.
    """
    module: Any = torch.get_device_module(device)
    stream, ahead = module.Stream(), None
    for batch in batches:
        # This copy may reuse the memory of the last batch but one: wait until that has been read.
        stream.wait_stream(module.current_stream())
        with module.stream(stream):
            latest = _copy(batch, device), stream.record_event()
        if ahead is not None:
            yield _wait_for(*ahead, module)
        ahead = latest
    if ahead is not None:
        yield _wait_for(*ahead, module)


def _copy(batch: Movable, device: torch.device) -> Movable:
    return (batch.pin() if device.type == "cuda" else batch).to(device, non_blocking=True)


def _wait_for(batch: Movable, copied: Any, module: Any) -> Movable:
    """Return a batch; later work of the current stream starts only when its copy is complete."""
    module.current_stream().wait_event(copied)
    return batch
