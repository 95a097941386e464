"""Training batches for k jobs: each job's samples in its own order, stacked into common tensors."""

import copy
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from src.data.base import TensorDataModule
from src.data.images import ImageDataModule
from src.data.loading.samples import Samples
from src.vectorized.networks.random_numbers import BatchedRandomNumbers, PerJobRandomNumbers

GATHERED_VALUES = 2**16  # input values gathered in one operation; that is several batches if they are small
MAX_CACHED_BYTES = (
    2**31
)  # largest size in bytes of preprocessed inputs in memory; larger sets are transformed per batch


class StackedBatches:
    """Training batches for k jobs.

    Args:
        data: the data module, set up; its samples are moved to the device.
        order_seeds: the seed of each job's sample order.
        device: the device to train on.
        dtype: the data type of the networks' inputs.
    """

    def __init__(
        self, data: TensorDataModule, order_seeds: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        assert data.train_set is not None
        self.data, self.order_seeds, self.device, self.dtype = data, list(order_seeds), device, dtype
        self.samples = Samples(*(part.to(device) for part in data.train_set))
        self.is_augmented = has_augmentation(data)
        self.has_shared_order = not self.is_augmented and (not data.shuffle or len(set(self.order_seeds)) == 1)
        fits = isinstance(self.samples.inputs, Tensor) and self.samples.inputs.numel() * 4 <= MAX_CACHED_BYTES
        self.is_preprocessed = fits and not self.is_augmented
        if self.is_preprocessed:
            self.samples = Samples(self.transform_inputs(self.samples.inputs), self.samples.targets)

    def select_jobs(self, indices: Sequence[int]) -> "StackedBatches":
        """Return the feed of some of the jobs."""
        fewer = copy.copy(self)
        fewer.order_seeds = [self.order_seeds[job] for job in indices]
        return fewer

    @property
    def size(self) -> int:
        """The number of training samples."""
        return self.samples.size

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.data.make_batches(self.samples, train=True))

    def transform_inputs(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Preprocess stored inputs for the networks."""
        return self.data.transform(inputs, augment=augment).to(self.dtype)

    def iter_epoch(
        self, epoch: int, generators: Sequence[torch.Generator], random_numbers: BatchedRandomNumbers | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Generate the batches of an epoch: inputs (B, k, C, …) and targets (B, k).

        If all jobs share one order, inputs are (B, 1, C, …).

        Args:
            epoch: the epoch, from 0.
            generators: each job's generator for augmentation.
            random_numbers: generator that draws the augmentation of all jobs at once, if there is one.
        """
        size, order = self.data.batch_size, self.get_orders(epoch)[: len(self) * self.data.batch_size]
        # Gathering several small batches (T) at once saves calls.
        count = max(1, GATHERED_VALUES // (size * self.order_count * self.samples.inputs[0].numel()))
        for indices in order.split(count * size):  # (T·B, k or 1)
            inputs = self.samples.inputs.index_select(0, indices.flatten()).unflatten(0, indices.shape)
            targets = self.samples.targets.index_select(0, indices.flatten()).view(indices.shape)
            wide = targets.expand(-1, len(self.order_seeds))
            for batch in zip(inputs.split(size), wide.split(size), strict=True):
                yield self.prepare_inputs(batch[0], generators, random_numbers), batch[1]

    def prepare_inputs(
        self, inputs: Tensor, generators: Sequence[torch.Generator], random_numbers: BatchedRandomNumbers | None
    ) -> Tensor:
        """Preprocess, and if needed augment, a batch of stored inputs (B, k, C, …)."""
        if self.is_augmented and _has_image_transform(self.data):
            changed = self.data.augment_images(inputs.flatten(0, 1), random_numbers or PerJobRandomNumbers(generators))
            return self.data.standardize_images(changed).to(self.dtype).unflatten(0, inputs.shape[:2])
        if self.is_augmented:
            return self.augment_inputs(inputs, generators)
        return (
            inputs
            if self.is_preprocessed
            else self.transform_inputs(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        )

    def get_orders(self, epoch: int) -> Tensor:
        """Return the sample indices in each job's order: (N, k), or (N, 1) if all share one order."""
        if not self.data.shuffle:
            return torch.arange(self.size, device=self.device).unsqueeze(1).expand(-1, self.order_count)
        seeds = self.order_seeds[: self.order_count]
        return torch.stack([self.data.draw_order(seed, epoch) for seed in seeds], dim=1).to(self.device)

    @property
    def order_count(self) -> int:
        """The number of different orders: k, or 1 if all jobs share one."""
        return 1 if self.has_shared_order else len(self.order_seeds)

    def augment_inputs(self, inputs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Augment each job's part of inputs (B, k, C, …) with a custom transform, which uses the default generator."""
        default, parts = _get_default_generator(self.device), []
        # A custom transform draws from the default generator: give it each job's state in turn.
        for job, generator in enumerate(generators):
            default.set_state(generator.get_state())
            parts.append(self.transform_inputs(inputs[:, job].contiguous(), augment=True))
            generator.set_state(default.get_state())
        return torch.stack(parts, dim=1)


def has_augmentation(data: TensorDataModule) -> bool:
    """Return True if samples must be transformed per job.

    That holds for augmentation, and for a custom transform, which may draw random numbers.
    """
    return (
        data.has_augmentation if _has_image_transform(data) else type(data).transform is not TensorDataModule.transform
    )


def _has_image_transform(data: TensorDataModule) -> TypeGuard[ImageDataModule]:
    """Return True if samples are transformed by `ImageDataModule.transform`, not by an override of it."""
    return isinstance(data, ImageDataModule) and type(data).transform is ImageDataModule.transform


def _get_default_generator(device: torch.device) -> torch.Generator:
    """Return the default random generator of a device."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator
