"""Dividing samples: how many, and which, stratified by class."""

import torch
from torch import Tensor

from src.core.errors import InputError


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
