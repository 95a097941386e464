"""Batches, and chunks of several batches, made by indexing the samples once."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from src.data.loading.placement import copy_ahead
from src.data.loading.samples import Samples


class Batches:
    """An iterable over batches of samples; each batch is made by a single indexing operation.

    ``batch_size`` counts the samples of one optimiser step over all processes. The process of rank ``rank`` gets every
    ``world_size``-th sample of each batch, so that the steps are the same for any number of processes. If a training
    batch has fewer samples than there are processes, the ranks without a sample get the batch's first one, with weight
    0, because every rank must take part in each step. `count_samples` returns the numbers that this weight is
    computed from.

    Args:
        samples: the N samples to iterate over.
        batch_size: samples per step, ≥ 1.
        order: a function that returns this epoch's order, (N,) int64; ``None`` keeps the order of the samples.
        train: give every rank at least one sample of each batch.
        drop_last: leave out a last batch that is smaller than the others.
        rank, world_size: this process's rank and the number of processes.
        device: where to copy batches before they are used; ``None`` yields them on the samples' device.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        order: Callable[[], Tensor] | None = None,
        train: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.samples, self.batch_size, self.order, self.device = samples, batch_size, order, device
        self.train, self.drop_last = train, drop_last
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        batches = self.samples.size / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def __iter__(self) -> Iterator[Samples]:
        return self.gather() if self.device is None else copy_ahead(self.gather(), self.device)

    def gather(self) -> Iterator[Samples]:
        """Yield the batches on the device that stores the samples."""
        return self.samples.take_each(self._list_indices())

    def _list_indices(self) -> Iterator[Tensor | slice]:
        order = self.draw_order() if self.order or self.train or self.world_size > 1 else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield batch if order is None else self.select_shard(order[batch])  # a slice copies nothing

    def draw_order(self) -> Tensor:
        """Return this epoch's order on the samples' device, so that it is copied there only once."""
        order = self.order() if self.order else torch.arange(self.samples.size)
        return order.to(self.samples.device)

    def select_shard(self, indices: Tensor) -> Tensor:
        """Return this rank's shard of a batch's indices."""
        shard = indices[self.rank :: self.world_size]
        return indices[:1] if self.train and not len(shard) else shard

    def count_samples(self, batch_index: int) -> tuple[int, int]:
        """Return the number of samples of a batch (counted from 0) that this rank gets, and the size of the batch."""
        whole = min(self.batch_size, self.samples.size - batch_index * self.batch_size)
        return len(range(self.rank, whole, self.world_size)), whole


def _make_contiguous(samples: Samples) -> Samples:
    return Samples(samples.inputs.contiguous(), samples.targets)


class Chunk:
    """The samples of several consecutive batches.

    Args:
        samples: the samples of all these batches.
        batch_size: samples per batch; the last batch may have fewer.
        prepare: the transform of a batch, applied when the batch is used.
    """

    def __init__(
        self, samples: Samples, batch_size: int, prepare: Callable[[Samples], Samples] = _make_contiguous
    ) -> None:
        self.samples, self.batch_size, self.prepare = samples, batch_size, prepare

    def to(self, device: torch.device, non_blocking: bool = False) -> "Chunk":
        return Chunk(self.samples.to(device, non_blocking), self.batch_size)

    def pin(self) -> "Chunk":
        return Chunk(self.samples.pin(), self.batch_size)

    def split_batches(self) -> Iterator[Samples]:
        """Yield the batches as they are stored, before ``prepare``."""
        columns = [part.split(self.batch_size) for part in self.samples]
        return (Samples(*part) for part in zip(*columns, strict=True))


class Chunks:
    """An iterable over chunks of ``length`` batches each; for a single process."""

    def __init__(self, batches: Batches, length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.length)

    def __iter__(self) -> Iterator[Chunk]:
        gathered = self.gather()
        return gathered if self.batches.device is None else copy_ahead(gathered, self.batches.device)

    def gather(self) -> Iterator[Chunk]:
        """Yield the chunks on the device that stores the samples."""
        samples, size, index = self.batches.samples, self.batches.batch_size, self.batches.draw_order()
        index = index[: min(len(self.batches) * size, samples.size)]
        return (Chunk(part, size) for part in samples.take_each(index.split(self.length * size)))
