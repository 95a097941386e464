"""What k jobs learn from: the batches of each, in its own order, side by side."""

import copy
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from src.data.base import Samples, TensorDataModule
from src.data.images import ImageDataModule
from src.vectorized.random_numbers import Draws, Generators

AT_ONCE = 2**16  # numbers of inputs that are gathered together: of small batches several
MOST_KEPT = 2**31  # bytes of inputs kept as the networks take them; larger sets are transformed batch by batch


class Feed:
    """Training batches for k jobs.

    Args:
        data: set up; its samples are moved to the device.
        order_seeds: of each job's order.
        device: where to train.
        dtype: of what the networks take.
    """

    def __init__(
        self, data: TensorDataModule, order_seeds: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        assert data.train_set is not None
        self.data, self.order_seeds, self.device, self.dtype = data, list(order_seeds), device, dtype
        self.samples = Samples(*(part.to(device) for part in data.train_set))
        self.augments = augments(data)
        self.shared = not self.augments and (not data.shuffle or len(set(self.order_seeds)) == 1)
        self.ready = not self.augments and self.samples.inputs.numel() * 4 <= MOST_KEPT
        if self.ready:
            self.samples = Samples(self.seen(self.samples.inputs), self.samples.targets)

    def only(self, jobs: Sequence[int]) -> "Feed":
        """The feed of some of the jobs."""
        fewer = copy.copy(self)
        fewer.order_seeds = [self.order_seeds[job] for job in jobs]
        return fewer

    @property
    def size(self) -> int:
        """How many training samples there are."""
        return self.samples.size

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.data.batches(self.samples, train=True))

    def seen(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Inputs as they are kept → as the networks take them."""
        return self.data.transform(inputs, augment=augment).to(self.dtype)

    def epoch(
        self, number: int, generators: Sequence[torch.Generator], draws: Draws | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch: inputs (B, k, C, …) and targets (B, k).

        Where all jobs have the same order, inputs are (B, 1, C, …).

        Args:
            number: the epoch's, from 0.
            generators: what each job draws its augmentation from.
            draws: what all jobs draw it from at once, where it can be.
        """
        size, order = self.data.batch_size, self.orders(number)[: len(self) * self.data.batch_size]
        few = max(1, AT_ONCE // (size * self.width * self.samples.inputs[0].numel()))
        for indices in order.split(few * size):  # (T·B, k or 1)
            inputs = self.samples.inputs.index_select(0, indices.flatten()).unflatten(0, indices.shape)
            targets = self.samples.targets.index_select(0, indices.flatten()).view(indices.shape)
            wide = targets.expand(-1, len(self.order_seeds))
            for batch in zip(inputs.split(size), wide.split(size), strict=True):
                yield self.prepared(batch[0], generators, draws), batch[1]

    def prepared(self, inputs: Tensor, generators: Sequence[torch.Generator], draws: Draws | None) -> Tensor:
        """A batch as it is kept → as the networks take it, (B, k, C, …)."""
        if self.augments and augments_images(self.data):
            changed = self.data.augmented(inputs.flatten(0, 1), draws or Generators(generators))
            return self.data.standardized(changed).to(self.dtype).unflatten(0, inputs.shape[:2])
        if self.augments:
            return self.augmented(inputs, generators)
        return inputs if self.ready else self.seen(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])

    def orders(self, epoch: int) -> Tensor:
        """Which samples come when: (N, k), or (N, 1) for one order."""
        if not self.data.shuffle:
            return torch.arange(self.size, device=self.device).unsqueeze(1).expand(-1, self.width)
        seeds = self.order_seeds[: self.width]
        return torch.stack([self.data.order(seed, epoch) for seed in seeds], dim=1).to(self.device)

    @property
    def width(self) -> int:
        """How many orders there are."""
        return 1 if self.shared else len(self.order_seeds)

    def augmented(self, inputs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Each job's part of inputs (B, k, C, …), changed by a transform of one's own, which draws by default."""
        default, parts = default_generator(self.device), []
        for job, generator in enumerate(generators):  # what augments asks the default generator
            default.set_state(generator.get_state())
            parts.append(self.seen(inputs[:, job].contiguous(), augment=True))
            generator.set_state(default.get_state())
        return torch.stack(parts, dim=1)


def augments(data: TensorDataModule) -> bool:
    """Whether each job must see its own samples: also where it is not known what a transform of one's own draws."""
    return data.augments if augments_images(data) else type(data).transform is not TensorDataModule.transform


def augments_images(data: TensorDataModule) -> TypeGuard[ImageDataModule]:
    """Whether samples are changed as `ImageDataModule` changes them."""
    return isinstance(data, ImageDataModule) and type(data).transform is ImageDataModule.transform


def default_generator(device: torch.device) -> torch.Generator:
    """What random numbers on a device are drawn from where nothing else is said."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator
