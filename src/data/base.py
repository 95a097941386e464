"""The base class of all data sets: the split, the batches, and the transform of a batch on the device.

After loading, a data set is a few tensors. A batch is made by indexing them once, and it is normalised and augmented as
a whole, on the device that trains.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from src.core.errors import InputError
from src.data.own.streaming import StreamedImages, gather_rows, read_ahead, select_rows
from src.data.placement import Placement, copy_ahead
from src.data.preprocessing import VALUES, Preprocessing
from src.data.tasks import check_targets, get_task

EVAL_BATCH_SIZE = 500  # samples; evaluation keeps no gradients, so its batches may be larger than in training


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


def resolve_count(size: int | float, total: int, setting: str) -> int:
    """Return ``size`` as a number of samples: an int is a count, a float in [0, 1] a fraction of ``total``.

    Raises:
        InputError: if there are not that many samples; it names ``setting``.
    """
    count = round(size * total) if isinstance(size, float) and size <= 1 else int(size)
    if count > total:
        raise InputError(f"{setting}={size}: there are only {total} samples to take from")
    return count


def count_fraction(fraction: float, total: int) -> int:
    """Return the number of samples in a fraction, in [0, 1], of ``total`` samples."""
    return round(fraction * total)


def split_stratified(targets: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``count`` of N samples so that each class keeps its fraction to within one sample.

    Returns:
        The indices drawn (count,) and the remaining ones (N − count,), both shuffled.
    """
    total = len(targets)
    shuffled = torch.randperm(total, generator=generator)
    by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
    # Taking every (total / count)-th of the samples sorted by class preserves the class fractions.
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    at = ((torch.arange(count, dtype=torch.float64) + offset) * (total / max(count, 1))).long().clamp(max=total - 1)
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[by_class[at]] = True
    return shuffled[chosen[shuffled]], shuffled[~chosen[shuffled]]


class TensorDataModule(LightningDataModule):
    """The base class of all data sets.

    A subclass declares ``task`` (a name in `src.data.tasks.TASKS`), ``in_shape`` (one input's shape, without the
    batch) and ``class_names`` (empty for regression), and implements ``load``, which returns the samples to train and
    validate on, and those to test on. It may declare ``value_names``, if a regression has several values, and
    ``num_tokens``, if the inputs are tokens: whole numbers from 0 to below it, which are not turned into float32.

    Args:
        batch_size: samples per optimiser step, over all processes together, ≥ 1.
        val_size: validation samples: a count, or a fraction (float below 1). 0: train on all.
        train_size: how many of the remaining samples to train on, a stratified subset: a count or a
            fraction; ``None``: all of them.
        split_seed: seed of the train/validation split; separate from the run's seed, so that runs
            with different seeds validate on the same samples.
        order_seed: seed of the batches' order, which also depends on the epoch; ``None``: the global seed.
        shuffle: draw a new order each epoch.
        drop_last: leave out a last training batch that is smaller than the others.
    """

    task: str
    in_shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    value_names: tuple[str, ...] = ()
    num_tokens = 0

    def __init__(
        self,
        batch_size: int,
        val_size: int | float | None,
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
        self.chunk_length = 1  # training batches per `training_step`, see src/models/chunked_steps.py
        self.placement = Placement()
        self.eval_fractions: dict[
            str, float
        ] = {}  # "val" or "test" → fraction of its samples to evaluate, the first ones
        self.train_set: Samples | None = None
        self.val_set: Samples | None = None
        self.test_set: Samples | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for regression."""
        return len(self.class_names)

    @property
    def num_values(self) -> int:
        """The number of values that a regression predicts."""
        return len(self.value_names) or 1

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that selects the best epoch, and its direction ("min" or "max")."""
        return get_task(self.task).monitor

    @property
    def note(self) -> str:
        """A caveat about these data for readers of the results, logged when a run starts."""
        return ""

    def load(self) -> tuple[Samples, Samples]:
        """Return the samples to train and validate on, and those to test on."""
        raise AttributeError(f"{type(self).__name__} must define load()")

    def split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Split the samples into training and validation samples, stratified by class."""
        generator = torch.Generator().manual_seed(self.split_seed)
        classes = self.get_strata(samples)
        if self.val_size is None:
            raise InputError("data.val_size=null must be a number of samples, or a fraction")
        val_count = resolve_count(self.val_size, samples.size, "data.val_size")
        val, train = split_stratified(classes, val_count, generator)
        if self.train_size is not None:
            train_count = resolve_count(self.train_size, len(train), "data.train_size")
            train = train[split_stratified(classes[train], train_count, generator)[0]]
        if not len(train):
            raise InputError(f"data.val_size={self.val_size} leaves none of {samples.size} samples to train on")
        return samples.select(train), samples.select(val)

    def get_strata(self, samples: Samples) -> Tensor:
        """Return the numbers (N,) whose fractions a split keeps: the classes; for labels and values all the same."""
        return samples.targets if get_task(self.task).has_one_class else torch.zeros(samples.size)

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            samples, self.test_set = [Samples(part.inputs, flatten_targets(part.targets)) for part in self.load()]
            for part in (samples, self.test_set):
                self.check_samples(part)
            self.train_set, self.val_set = self.split(samples)

    def check_samples(self, samples: Samples) -> None:
        """Check samples against what this data set declares.

        Raises:
            InputError: if they have other targets or tokens.
        """
        try:
            check_targets(samples.targets, self.task, self.num_classes, self.num_values)
            check_tokens(samples.inputs, self.num_tokens)
        except InputError as error:
            raise InputError(f"{type(self).__name__}: {error}") from error

    def draw_epoch_order(self) -> Tensor:
        """Return the order of the training samples in this epoch; it depends on the seed and the epoch only."""
        assert self.train_set is not None
        trainer = self.trainer
        if getattr(trainer, "overfit_batches", 0):  # Lightning repeats the same few batches
            return torch.arange(self.train_set.size)
        return self.draw_order(self.order_seed, trainer.current_epoch if trainer is not None else 0)

    def draw_order(self, seed: int, epoch: int) -> Tensor:
        """Return a random order of the training samples, (N,) int64."""
        assert self.train_set is not None
        return torch.randperm(self.train_set.size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))

    def make_batches(self, samples: Samples | None, train: bool = False) -> Batches:
        """Return batches of samples of this data set, for the trainer's device and this rank."""
        assert samples is not None, "call setup() first"
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        if self.batch_size % world:
            raise InputError(f"data.batch_size={self.batch_size} does not divide over {world} processes")
        size = self.batch_size if train else max(self.batch_size, EVAL_BATCH_SIZE)
        order = self.draw_epoch_order if train and self.shuffle else None
        ahead = (
            self.target_device if self.target_device.type == "cuda" and samples.device != self.target_device else None
        )
        return Batches(samples, size, order, train, train and self.drop_last, rank, world, ahead)

    @property
    def target_device(self) -> torch.device:
        """The device on which batches are used."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def move_samples(self, stage: str, samples: Samples | None) -> Samples:
        """Return the samples of a stage ("train", "val" or "test") on the device that `Placement` chooses."""
        assert samples is not None, "call setup() first"
        return self.placement.move_samples(stage, samples, self.target_device, self.count_bytes)

    def count_bytes(self) -> int:
        """Return the size of all samples in bytes."""
        parts = [part for part in (self.train_set, self.val_set, self.test_set) if part is not None]
        return sum(values.nbytes for part in parts for values in part)

    def train_dataloader(self) -> Batches | Chunks:
        batches = self.make_batches(self.move_samples("train", self.train_set), train=True)
        return batches if self.chunk_length == 1 else Chunks(batches, self.chunk_length)

    def val_dataloader(self) -> Batches | list[Batches]:
        val_set = self.move_samples("val", self.val_set)
        return self.make_batches(self.take_fraction("val", val_set)) if val_set.size else []

    def test_dataloader(self) -> Batches:
        return self.make_batches(self.take_fraction("test", self.move_samples("test", self.test_set)))

    def take_fraction(self, stage: str, samples: Samples) -> Samples:
        """Return the samples to evaluate in a stage: all, or a fraction from the start."""
        return samples.select(slice(0, count_fraction(self.eval_fractions.get(stage, 1.0), samples.size)))

    def predict_dataloader(self) -> Batches:
        return self.test_dataloader()

    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Turn the inputs of a stored batch into a network's inputs, on the batch's device."""
        return inputs

    def transform_batch(self, samples: Samples, augment: bool = False) -> Samples:
        """Return a stored batch with a network's inputs, on its device."""
        return Samples(self.transform(samples.inputs, augment=augment), samples.targets)

    is_mixing = False  # True: `mix` makes targets shares of classes (B, K)

    def mix(self, samples: Samples) -> Samples:
        """Return a training batch whose samples are mixed with each other, after `transform`; here as it is."""
        return samples

    def cast_inputs(self, inputs: Tensor, dtype: str | torch.dtype) -> Tensor:
        """Return a network's inputs in its precision; tokens as int64."""
        return cast_inputs(inputs, dtype, self.num_tokens)

    def describe_preprocessing(self) -> Preprocessing | None:
        """Return how a raw input becomes a network's input, once the data are loaded.

        Checkpoints carry it, so that new inputs are prepared as these data were. ``None``: unknown, and then no files
        are predicted, since a wrong guess would go unnoticed.
        """
        is_plain = type(self).transform is TensorDataModule.transform
        return Preprocessing(VALUES) if self.num_tokens and is_plain else None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, Chunk) else super().transfer_batch_to_device(batch, device, 0)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        dtype = None if self.trainer is None else self.trainer.lightning_module.dtype  # follows trainer.precision
        training = self.trainer is not None and bool(self.trainer.training)

        def prepare(stored: Samples) -> Samples:
            inputs, targets = self.transform_batch(stored, augment=training)
            if training:
                inputs, targets = self.mix(Samples(inputs, targets))
            return Samples(inputs if dtype is None else self.cast_inputs(inputs, dtype), targets)

        if isinstance(batch, Tensor):  # a model's example inputs, already in the form that its network takes
            return batch.to(dtype) if dtype is not None and batch.is_floating_point() else batch
        if not isinstance(batch, (Samples, Chunk)):  # from another loader
            return batch
        if isinstance(batch, Samples):
            return prepare(batch)
        # Transform each batch of a chunk when it is used; without a transform, convert the whole chunk at once.
        if self.is_mixing or type(self).transform is not TensorDataModule.transform:
            return Chunk(batch.samples, batch.batch_size, prepare)
        return Chunk(prepare(batch.samples), batch.batch_size)
