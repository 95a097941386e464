"""The data module that every data set shares: split, batch, and what happens to a batch on the device.

After loading, a set is a few tensors. A batch is one indexing of them, and what is done to a batch
(normalising, augmenting) is done to the whole of it, on the device that trains.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from src.core.errors import InputError
from src.data.placement import Placement, copy_ahead

Task = Literal["multiclass", "binary", "regression"]
EVAL_BATCH = 500  # samples; no gradients are kept, so evaluation takes larger batches than training


class Samples(NamedTuple):
    """Inputs (N, ...) and their targets (N,): int64 classes, or float32 values for regression."""

    inputs: Tensor
    targets: Tensor

    def take(self, index: Tensor | slice) -> "Samples":
        if isinstance(index, slice):
            return Samples(self.inputs[index], self.targets[index])
        return Samples(rows(self.inputs, index), rows(self.targets, index))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Samples":
        """Return them on a device."""
        return Samples(*(part.to(device, non_blocking=non_blocking) for part in self))

    def pin(self) -> "Samples":
        """Return them in pinned memory, from where copies to a GPU wait for nothing."""
        return Samples(*(part.pin_memory() for part in self))

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.targets.device

    @property
    def size(self) -> int:
        """How many samples: N."""
        return len(self.targets)


def rows(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]`` for numbers (B,) or truth values (N,), ten times as fast for images: a row is one copy."""
    return values.index_select(0, index) if index.dtype == torch.long else values[index]


class Batches:
    """An iterable over the batches of some samples; each batch is one indexing.

    ``batch_size`` counts the samples of one optimiser step over all processes: of ``world_size``
    processes, number ``rank`` gets every ``world_size``-th sample of each batch, so that the steps
    are the same however many processes share them. Where a training batch has fewer samples than
    there are processes, those left without one get its first, which counts for nothing: all take
    part in each step. `counts` tells whoever trains what a share weighs.

    Args:
        samples: what to iterate over, N samples.
        batch_size: samples per step, ≥ 1.
        order: a function that returns this epoch's order, (N,) int64; ``None`` keeps the samples' own.
        train: leave no process without a sample, and leave out the last batch if ``drop_last`` says so.
        rank, world_size: this process's number and how many there are.
        device: where to copy batches ahead of their use; ``None``: they are handed over where the samples lie.
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
        """Yield the batches where the samples lie."""
        order = self.draw_order() if self.order or self.train or self.world_size > 1 else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = slice(start, start + self.batch_size)
            if order is not None:
                yield self.samples.take(self.share(order[batch]))
            else:
                yield self.samples.take(batch)  # a view: nothing is copied

    def draw_order(self) -> Tensor:
        """Return this epoch's order, where the samples lie: one copy for all batches."""
        order = self.order() if self.order else torch.arange(self.samples.size)
        return order.to(self.samples.device)

    def share(self, indices: Tensor) -> Tensor:
        """This process's part of a batch's indices."""
        own = indices[self.rank :: self.world_size]
        return indices[:1] if self.train and not len(own) else own

    def counts(self, batch: int) -> tuple[int, int]:
        """Return how many samples of a batch, numbered from 0, are this process's own, and how many it has in all."""
        whole = min(self.batch_size, self.samples.size - batch * self.batch_size)
        return len(range(self.rank, whole, self.world_size)), whole


class Chunk:
    """The samples of several batches in a row.

    Args:
        samples: of all of them.
        batch_size: of each, but for the last.
        prepare: what is done to a batch's inputs.
    """

    def __init__(
        self, samples: Samples, batch_size: int, prepare: Callable[[Tensor], Tensor] = Tensor.contiguous
    ) -> None:
        self.samples, self.batch_size, self.prepare = samples, batch_size, prepare

    def to(self, device: torch.device, non_blocking: bool = False) -> "Chunk":
        return Chunk(self.samples.to(device, non_blocking), self.batch_size)

    def pin(self) -> "Chunk":
        return Chunk(self.samples.pin(), self.batch_size)

    def parts(self) -> Iterator[Samples]:
        """Yield the batches as they are kept."""
        parts = [part.split(self.batch_size) for part in self.samples]
        return (Samples(*part) for part in zip(*parts, strict=True))


class Chunks:
    """The same batches in chunks of ``length``; for one process."""

    def __init__(self, batches: Batches, length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.length)

    def __iter__(self) -> Iterator[Chunk]:
        gathered = self.gather()
        return gathered if self.batches.device is None else copy_ahead(gathered, self.batches.device)

    def gather(self) -> Iterator[Chunk]:
        """Yield the chunks where the samples lie."""
        samples, size, index = self.batches.samples, self.batches.batch_size, self.batches.draw_order()
        count = min(len(self.batches) * size, samples.size)
        for start in range(0, count, self.length * size):
            yield Chunk(samples.take(index[start : min(start + self.length * size, count)]), size)


def count_of(size: int | float, total: int, setting: str) -> int:
    """``size`` as a number of samples: an int is one already, a float in [0, 1] a share of ``total``."""
    count = round(size * total) if isinstance(size, float) and size <= 1 else int(size)
    if count > total:
        raise InputError(f"{setting}={size}: there are only {total} samples to take from")
    return count


def count_share(share: float, total: int) -> int:
    """Return how many samples a share of all comes to, in [0, 1]."""
    return round(share * total)


def stratified(targets: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``count`` of N samples so that each class keeps its share to within one sample.

    Returns:
        The indices drawn (count,) and those left (N − count,), both shuffled.
    """
    total = len(targets)
    shuffled = torch.randperm(total, generator=generator)
    by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
    # Taking every (total / count)-th of the samples sorted by class gives each class its share.
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    at = ((torch.arange(count, dtype=torch.float64) + offset) * (total / max(count, 1))).long().clamp(max=total - 1)
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[by_class[at]] = True
    return shuffled[chosen[shuffled]], shuffled[~chosen[shuffled]]


class TensorDataModule(LightningDataModule):
    """What every data set shares; a set of its own says what it is and implements ``load``.

    A subclass declares ``task``, ``in_shape`` (one input's shape, without the batch) and
    ``class_names`` (empty for regression), and ``load`` returns the samples to train and validate
    on, and those to test on.

    Args:
        batch_size: samples per optimiser step, over all processes together, ≥ 1.
        val_size: validation samples: a count, or a share (float below 1). 0: train on all.
        train_size: how many of the remaining samples to train on, a stratified part: a count or a
            share; ``None``: all of them.
        split_seed: seed of the train/validation split; apart from the run's, so that runs with
            different seeds validate on the same samples.
        order_seed: seed of the batches' order, which also depends on the epoch; ``None``: the global one.
        shuffle: draw a new order each epoch.
        drop_last: leave out a last training batch that is smaller than the others.
    """

    task: Task
    in_shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        batch_size: int,
        val_size: int | float,
        train_size: int | float | None = None,
        split_seed: int = 0,
        order_seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size, self.val_size, self.train_size = batch_size, val_size, train_size
        self.split_seed, self.shuffle, self.drop_last = split_seed, shuffle, drop_last
        self.order_seed = torch.initial_seed() % 2**32 if order_seed is None else order_seed
        self.chunk = 1  # training batches handed over at a time, see src/models/steps.py
        self.placement = Placement()
        self.shares: dict[str, float] = {}  # of the samples of "val" and "test", the first, to evaluate alone
        self.train_set: Samples | None = None
        self.val_set: Samples | None = None
        self.test_set: Samples | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 for regression."""
        return len(self.class_names)

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that chooses, and its direction ("min" or "max")."""
        return ("val/loss", "min") if self.task == "regression" else ("val/acc", "max")

    @property
    def note(self) -> str:
        """What whoever reads the results must know about these data; told when a run begins."""
        return ""

    def load(self) -> tuple[Samples, Samples]:
        """Read or make the samples: those to train and validate on, and those to test on."""
        raise AttributeError(f"{type(self).__name__} must define load()")

    def split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Part the samples into training and validation samples, class by class."""
        generator = torch.Generator().manual_seed(self.split_seed)
        classes = samples.targets if self.task != "regression" else torch.zeros(samples.size)
        val_count = count_of(self.val_size, samples.size, "data.val_size")
        val, train = stratified(classes, val_count, generator)
        if self.train_size is not None:
            train_count = count_of(self.train_size, len(train), "data.train_size")
            train = train[stratified(classes[train], train_count, generator)[0]]
        if not len(train):
            raise InputError(f"data.val_size={self.val_size} leaves none of {samples.size} samples to train on")
        return samples.take(train), samples.take(val)

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            samples, self.test_set = self.load()
            self.train_set, self.val_set = self.split(samples)

    def epoch_order(self) -> Tensor:
        """The training samples' order in this epoch: a function of the seed and the epoch alone."""
        assert self.train_set is not None
        trainer = self.trainer
        if getattr(trainer, "overfit_batches", 0):  # the same few batches, again and again
            return torch.arange(self.train_set.size)
        return self.order(self.order_seed, trainer.current_epoch if trainer is not None else 0)

    def order(self, seed: int, epoch: int) -> Tensor:
        """An order of the training samples, (N,) int64."""
        assert self.train_set is not None
        return torch.randperm(self.train_set.size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))

    def batches(self, samples: Samples | None, train: bool = False) -> Batches:
        """Return batches of samples of this set, for the device of the trainer."""
        assert samples is not None, "call setup() first"
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        if self.batch_size % world:
            raise InputError(f"data.batch_size={self.batch_size} does not divide over {world} processes")
        size = self.batch_size if train else max(self.batch_size, EVAL_BATCH)
        order = self.epoch_order if train and self.shuffle else None
        ahead = self.used if self.used.type == "cuda" and samples.device != self.used else None
        return Batches(samples, size, order, train, train and self.drop_last, rank, world, ahead)

    @property
    def used(self) -> torch.device:
        """The device where batches are used."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def place(self, stage: str, samples: Samples | None) -> Samples:
        """Return the samples of a stage ("train", "val" or "test") as they are to be used, see `Placement`."""
        assert samples is not None, "call setup() first"
        return self.placement.place(stage, samples, self.used, self.count_bytes)

    def count_bytes(self) -> int:
        """Return the bytes of all samples."""
        parts = [part for part in (self.train_set, self.val_set, self.test_set) if part is not None]
        return sum(values.nbytes for part in parts for values in part)

    def train_dataloader(self) -> Batches | Chunks:
        batches = self.batches(self.place("train", self.train_set), train=True)
        return batches if self.chunk == 1 else Chunks(batches, self.chunk)

    def val_dataloader(self) -> Batches | list[Batches]:
        val_set = self.place("val", self.val_set)
        return self.batches(self.take_share("val", val_set)) if val_set.size else []

    def test_dataloader(self) -> Batches:
        return self.batches(self.take_share("test", self.place("test", self.test_set)))

    def take_share(self, stage: str, samples: Samples) -> Samples:
        """Return the samples that a stage evaluates: all, or the first of them."""
        return samples.take(slice(0, count_share(self.shares.get(stage, 1.0), samples.size)))

    def predict_dataloader(self) -> Batches:
        return self.test_dataloader()

    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Turn a batch as it is kept into what a network takes; on the batch's device."""
        return inputs

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, Chunk) else super().transfer_batch_to_device(batch, device, 0)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        dtype = None if self.trainer is None else self.trainer.lightning_module.dtype  # what trainer.precision asks for
        training = self.trainer is not None and bool(self.trainer.training)

        def prepare(inputs: Tensor) -> Tensor:
            inputs = self.transform(inputs, augment=training)
            return inputs if dtype is None else inputs.to(dtype)

        if isinstance(batch, Tensor):  # a model's example inputs, which are what its network takes
            return batch.to(dtype) if dtype is not None and batch.is_floating_point() else batch
        if not isinstance(batch, (Samples, Chunk)):  # of a loader that is not this one's
            return batch
        if isinstance(batch, Samples):
            return Samples(prepare(batch.inputs), batch.targets)
        if type(self).transform is not TensorDataModule.transform:
            return Chunk(batch.samples, batch.batch_size, prepare)
        return Chunk(Samples(prepare(batch.samples.inputs), batch.samples.targets), batch.batch_size)  # at once
