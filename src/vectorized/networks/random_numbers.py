"""Random numbers for k jobs at once, each job's from its own seed.

On a CPU every job has a generator and draws the same numbers as if it were trained alone (`PerJobRandomNumbers`). On
a GPU, k generators would take k kernel launches: one counter-based generator draws for all jobs at once
(`BatchedRandomNumbers`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Constants of splitmix64 (Steele, Lea and Flood, 2014) as signed numbers: integers on a GPU are signed and wrap around.
INCREMENT, FIRST_FACTOR, SECOND_FACTOR = (
    0x9E3779B97F4A7C15 - 2**64,
    0xBF58476D1CE4E5B9 - 2**64,
    0x94D049BB133111EB - 2**64,
)
FLOAT_BITS = 24  # random bits of a float32 number in [0, 1)


class BatchedRandomNumbers:
    """Uniform random numbers that depend only on a job's seed, the draw and the index in it, not on the other jobs."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seeds, self.count = device, torch.zeros(0, dtype=torch.long, device=device), 0

    def reset(self, seeds: list[int]) -> None:
        """Start again, with one seed per job."""
        signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
        self.seeds, self.count = _apply_mixing(torch.tensor(signed, device=self.device)), 0

    def draw(self, count: int) -> Tensor:
        """Return the next ``count`` random numbers in [0, 1) of each job: (k, numbers) float32."""
        counters = torch.arange(count, device=self.device) + (self.count << 32)
        self.count += 1
        bits = _apply_mixing(self.seeds.unsqueeze(1) + INCREMENT * counters)  # (k, numbers)
        return _apply_right_shift(bits, 64 - FLOAT_BITS).float() * 2.0**-FLOAT_BITS

    def draw_uniform(self, count: int, device: torch.device) -> Tensor:
        """Draw numbers in [0, 1) for images of which the job index varies fastest: (count,), count = B·k."""
        return self.draw(count // len(self.seeds)).t().flatten()

    def draw_integers(self, high: int, rows: int, count: int, device: torch.device) -> Tensor:
        """Draw integers from 0 to ``high`` − 1 for images in the same order: (rows, count), count = B·k."""
        numbers = self.draw(rows * count // len(self.seeds)).view(len(self.seeds), rows, -1)  # (k, rows, B)
        return (numbers * high).long().permute(1, 2, 0).flatten(1)


class PerJobRandomNumbers:
    """Random numbers from one generator per job."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def draw_uniform(self, count: int, device: torch.device) -> Tensor:
        """Draw numbers in [0, 1) for images of which the job index varies fastest: (count,), count = B·k."""
        size = count // len(self.generators)
        drawn = [torch.rand(size, device=device, generator=generator) for generator in self.generators]
        return torch.stack(drawn, dim=1).flatten()

    def draw_integers(self, high: int, rows: int, count: int, device: torch.device) -> Tensor:
        """Draw integers from 0 to ``high`` − 1 for images in the same order: (rows, count), count = B·k."""
        shape = (rows, count // len(self.generators))
        drawn = [torch.randint(high, shape, device=device, generator=generator) for generator in self.generators]
        return torch.stack(drawn, dim=2).flatten(1)


def _apply_mixing(values: Tensor) -> Tensor:
    """Mix the bits of 64-bit numbers, so that each output bit depends on all input bits (splitmix64's finalizer)."""
    values = (values ^ _apply_right_shift(values, 30)) * FIRST_FACTOR
    values = (values ^ _apply_right_shift(values, 27)) * SECOND_FACTOR
    return values ^ _apply_right_shift(values, 31)


def _apply_right_shift(values: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, also for negative numbers (logical shift)."""
    return (values >> bits) & (2 ** (64 - bits) - 1)
