"""The base class of all data sets: the split, the batches, and the transform of a batch on the device.

After loading, a data set is a few tensors. A batch is made by indexing them once, and it is normalised and augmented as
a whole, on the device that trains.
"""

from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor

from src.core.errors import InputError
from src.data.loading.batches import Batches, Chunk, Chunks
from src.data.loading.placement import Placement
from src.data.loading.samples import Samples, cast_inputs, check_tokens, flatten_targets
from src.data.loading.splits import count_fraction, resolve_count, split_stratified
from src.data.preprocessing import VALUES, Preprocessing
from src.data.tasks import check_targets, get_task

__all__ = ["EVAL_BATCH_SIZE", "Samples", "TensorDataModule"]  # what a data set of one's own needs

EVAL_BATCH_SIZE = 500  # samples; evaluation keeps no gradients, so its batches may be larger than in training


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
        is_small = train or self.task == "dense"  # whose maps are as large as their images also without gradients
        size = self.batch_size if is_small else max(self.batch_size, EVAL_BATCH_SIZE)
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
