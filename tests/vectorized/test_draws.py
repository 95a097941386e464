"""Random numbers for many jobs at once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.data.images import ImageDataModule
from src.data.loading.samples import Samples
from src.vectorized.batches import StackedBatches
from src.vectorized.networks.layers import StackedDropout
from src.vectorized.networks.random_numbers import BatchedRandomNumbers

CPU = torch.device("cpu")


def draw(seeds: list[int], count: int = 2, numbers: int = 20_000) -> Tensor:
    """Return several draws of jobs with these seeds, (draws, jobs, numbers)."""
    draws = BatchedRandomNumbers(CPU)
    draws.reset(seeds)
    return torch.stack([draws.draw(numbers) for _ in range(count)])


def test_numbers_are_uniform_and_independent() -> None:
    """Numbers are uniform and uncorrelated across positions, draws and seeds."""
    found = draw([0, 1, 2**63 + 5, 2**64 - 1], count=3).double()
    assert 0 <= found.min() < 1e-3 and 1 - 1e-3 < found.max() < 1
    counts = torch.stack([row.histc(16, 0, 1) for row in found.flatten(0, 1)])
    assert (counts / 20_000 - 1 / 16).abs().max() < 0.01
    rows = found.flatten(0, 1)
    shifted = torch.cat([rows, rows.roll(1, dims=1)])
    correlated = torch.corrcoef(shifted) - torch.eye(len(shifted), dtype=torch.float64)
    assert correlated.abs().max() < 0.03  # four standard deviations


def test_draws_do_not_depend_on_stack() -> None:
    """A job draws the same numbers whichever jobs are stacked with it."""
    all_of_them, some = draw([3, 4, 5]), draw([5, 3])
    assert torch.equal(all_of_them[:, [2, 0]], some)
    assert not torch.equal(all_of_them[0], all_of_them[1])


def test_dropout_masks_keep_rate_and_mean() -> None:
    """Dropout masks drop each job's own fraction and keep the mean."""
    layer = StackedDropout([nn.Dropout(0.2), nn.Dropout(0.7), nn.Dropout(0.0)]).train()
    layer.random_numbers = BatchedRandomNumbers(CPU)
    layer.random_numbers.reset([1, 2, 3])
    outputs = layer(torch.ones(500, 3 * 40)).view(500, 3, 40)
    dropped = (outputs == 0).float().mean(dim=(0, 2))
    assert dropped.tolist() == pytest.approx([0.2, 0.7, 0.0], abs=0.015)
    assert outputs.mean(dim=(0, 2)).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.05)
    assert torch.equal(layer.eval()(torch.ones(2, 6)), torch.ones(2, 6))


class Colours(ImageDataModule):
    """Random images of 8 × 8 pixels, in memory."""

    num_classes, trainer = 3, None
    flip, crop, crop_padding, cutout = True, 2, "zeros", 4
    mean, std = torch.full((3, 1, 1), 100.0), torch.full((3, 1, 1), 60.0)

    def __init__(self) -> None:
        self.batch_size, self.shuffle, self.drop_last = 50, True, False
        self.train_set = Samples(torch.randint(256, (200, 3, 8, 8), dtype=torch.uint8), torch.arange(200) % 3)


def augment_first_batch(data: ImageDataModule, seeds: list[int], draws: BatchedRandomNumbers | None) -> Tensor:
    """Return the first batch of jobs with these seeds, (B, k, C, H, W)."""
    if draws is not None:
        draws.reset(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    feed = StackedBatches(data, [7] * len(seeds), CPU, torch.float32)
    return next(feed.iter_epoch(0, generators, draws))[0]


@pytest.mark.parametrize("at_once", [True, False], ids=["all jobs at once", "a generator each"])
def test_augmentation_does_not_depend_on_stack(at_once: bool) -> None:
    """A job's images are augmented the same whichever jobs are stacked with it."""
    data = Colours()
    make = (lambda: BatchedRandomNumbers(CPU)) if at_once else (lambda: None)
    three, two = augment_first_batch(data, [3, 4, 5], make()), augment_first_batch(data, [5, 3], make())
    assert torch.equal(three[:, [2, 0]], two)
    assert not torch.equal(three[:, 0], three[:, 1])


def test_generators_augment_as_single_run() -> None:
    """With a generator for each job images are augmented as in a separate run."""
    data = Colours()
    found = augment_first_batch(data, [3, 4], None)
    first = data.train_set.inputs[data.draw_order(7, 0)[:50]]
    for job, seed in enumerate([3, 4]):
        torch.manual_seed(seed)
        assert torch.equal(found[:, job], data.transform(first, augment=True))


def test_batched_draws_flip_and_shift_evenly() -> None:
    """Numbers drawn for all jobs at once flip half of the images and shift them evenly."""
    draws = BatchedRandomNumbers(CPU)
    draws.reset([1, 2])
    flipped = draws.draw_uniform(20_000, CPU).view(-1, 2) < 0.5
    assert flipped.float().mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    shifts = draws.draw_integers(5, 2, 20_000, CPU)  # (2, B·k)
    assert shifts.shape == (2, 20_000) and shifts.dtype == torch.int64
    for job in (0, 1):
        counts = torch.stack([row.bincount(minlength=5) for row in shifts[:, job::2]])
        assert (counts / 10_000 - 0.2).abs().max() < 0.02


def test_operations_do_not_grow_with_jobs() -> None:
    """If all jobs' numbers are drawn at once, more jobs need no more operations."""
    data, counts = Colours(), []
    for seeds in ([1, 2], [1, 2, 3, 4, 5, 6, 7, 8]):
        draws = BatchedRandomNumbers(CPU)
        draws.reset(seeds)
        inputs = data.train_set.inputs[:50, None].expand(-1, len(seeds), -1, -1, -1).contiguous()
        feed = StackedBatches(data, [7] * len(seeds), CPU, torch.float32)
        with OperationCounter() as count:
            feed.prepare_inputs(inputs, [], draws)
        counts.append(count.operations)
    assert counts[0] == counts[1] > 20


class OperationCounter(TorchDispatchMode):
    """Count the operations."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))
