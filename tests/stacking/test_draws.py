"""Random numbers for many jobs at once."""

import pytest
import torch
from torch import Tensor, nn

from src.stacking.draws import Draws
from src.stacking.wide import WideDropout

CPU = torch.device("cpu")


def draw(seeds: list[int], count: int = 2, numbers: int = 20_000) -> Tensor:
    """Return several draws of jobs with these seeds, (draws, jobs, numbers)."""
    draws = Draws(CPU)
    draws.restart(seeds)
    return torch.stack([draws.draw(numbers) for _ in range(count)])


def test_numbers_are_uniform_and_independent_of_place_draw_and_seed() -> None:
    found = draw([0, 1, 2**63 + 5, 2**64 - 1], count=3).double()
    assert 0 <= found.min() < 1e-3 and 1 - 1e-3 < found.max() < 1
    counts = torch.stack([row.histc(16, 0, 1) for row in found.flatten(0, 1)])
    assert (counts / 20_000 - 1 / 16).abs().max() < 0.01
    rows = found.flatten(0, 1)
    shifted = torch.cat([rows, rows.roll(1, dims=1)])
    correlated = torch.corrcoef(shifted) - torch.eye(len(shifted), dtype=torch.float64)
    assert correlated.abs().max() < 0.03  # four standard deviations


def test_job_draws_the_same_whichever_jobs_are_beside_it() -> None:
    all_of_them, some = draw([3, 4, 5]), draw([5, 3])
    assert torch.equal(all_of_them[:, [2, 0]], some)
    assert not torch.equal(all_of_them[0], all_of_them[1])


def test_masks_drop_each_jobs_own_share_and_keep_the_mean() -> None:
    layer = WideDropout([nn.Dropout(0.2), nn.Dropout(0.7), nn.Dropout(0.0)]).train()
    layer.draws = Draws(CPU)
    layer.draws.restart([1, 2, 3])
    outputs = layer(torch.ones(500, 3 * 40)).view(500, 3, 40)
    dropped = (outputs == 0).float().mean(dim=(0, 2))
    assert dropped.tolist() == pytest.approx([0.2, 0.7, 0.0], abs=0.015)
    assert outputs.mean(dim=(0, 2)).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.05)
    assert torch.equal(layer.eval()(torch.ones(2, 6)), torch.ones(2, 6))
