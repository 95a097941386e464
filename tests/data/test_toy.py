from typing import Any

import pytest
import torch

from src.data.base import Samples
from src.data.toy import XOR
from src.errors import InputError


def xor(noise: float = 0.01, split_seed: int = 0, **sizes: Any) -> XOR:
    given = {"train_size": 100, "val_size": 60, "test_size": 40, **sizes}
    data = XOR(**given, noise=noise, batch_size=10, split_seed=split_seed)
    data.setup()
    return data


def sets(data: XOR) -> list[Samples]:
    assert data.train_set and data.val_set and data.test_set
    return [data.train_set, data.val_set, data.test_set]


def test_the_sets_have_the_sizes_asked_for() -> None:
    assert [samples.size for samples in sets(xor())] == [100, 60, 40]


def test_each_corner_gets_as_many_points() -> None:
    for samples in sets(xor()):
        corners, counts = samples.inputs.round().unique(dim=0, return_counts=True)
        assert corners.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert counts.tolist() == [samples.size / 4] * 4


def test_the_class_is_the_exclusive_or_of_the_coordinates() -> None:
    for samples in sets(xor()):
        first, second = samples.inputs.round().long().T
        assert torch.equal(samples.targets, first ^ second)
        assert samples.targets.dtype == torch.int64


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_noise_has_the_standard_deviation_asked_for(noise: float) -> None:
    samples = sets(xor(noise, train_size=20_000))[0]
    offsets = samples.inputs - torch.stack([torch.arange(20_000) % 4 // 2, torch.arange(20_000) % 2], dim=1)
    assert offsets.std().item() == pytest.approx(noise, rel=0.02)
    assert offsets.mean().item() == pytest.approx(0, abs=0.02 * noise)


def test_without_noise_the_points_are_the_corners() -> None:
    assert torch.equal(sets(xor(noise=0))[0].inputs[:4], torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]))


def test_training_validation_and_test_points_are_draws_of_their_own() -> None:
    points = torch.cat([samples.inputs for samples in [*sets(xor()), *sets(xor(split_seed=1))]])
    assert len(points.unique(dim=0)) == 400


def test_the_same_split_seed_gives_the_same_points() -> None:
    for first, second in zip(sets(xor(split_seed=3)), sets(xor(split_seed=3)), strict=True):
        assert torch.equal(first.inputs, second.inputs)


def test_the_validation_points_stay_whatever_is_trained_on() -> None:
    assert torch.equal(sets(xor(train_size=8))[1].inputs, sets(xor(train_size=80))[1].inputs)


def test_no_validation_points_are_an_empty_set() -> None:
    assert xor(val_size=0).val_dataloader() == []


@pytest.mark.parametrize("size", [0.5, None])
@pytest.mark.parametrize("setting", ["train_size", "val_size", "test_size"])
def test_only_counts_are_taken_since_there_is_no_set_to_take_a_share_of(setting: str, size: float | None) -> None:
    with pytest.raises(InputError, match=rf"data\.{setting}={size}: .* give a count"):
        xor(**{setting: size})
