from collections.abc import Callable
from typing import Any

import pytest
import torch

from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.toy import XOR, Cubic, Gate, Linear, Parabola, Pulse, SyntheticDataModule, TenPoints


def xor(noise: float = 0.01, split_seed: int = 0, **sizes: Any) -> XOR:
    given = {"train_size": 100, "val_size": 60, "test_size": 40, **sizes}
    data = XOR(**given, noise=noise, batch_size=10, split_seed=split_seed)
    data.setup()
    return data


def draw_sets(kind: type[SyntheticDataModule], split_seed: int = 0, **sizes: int) -> list[Samples]:
    """The training, validation and test points of a set drawn from a rule."""
    given = {"train_size": 4000, "val_size": 60, "test_size": 40, **sizes}
    data = kind(**given, batch_size=10, split_seed=split_seed)
    data.setup()
    return get_sets(data)


def set_up(data: TensorDataModule) -> TensorDataModule:
    data.setup()
    return data


def get_sets(data: TensorDataModule) -> list[Samples]:
    assert data.train_set and data.val_set and data.test_set
    return [data.train_set, data.val_set, data.test_set]


def test_sets_have_requested_sizes() -> None:
    assert [samples.size for samples in get_sets(xor())] == [100, 60, 40]


def test_corners_have_equal_numbers_of_points() -> None:
    for samples in get_sets(xor()):
        corners, counts = samples.inputs.round().unique(dim=0, return_counts=True)
        assert corners.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert counts.tolist() == [samples.size / 4] * 4


def test_xor_class_matches_coordinates() -> None:
    for samples in get_sets(xor()):
        first, second = samples.inputs.round().long().T
        assert torch.equal(samples.targets, first ^ second)
        assert samples.targets.dtype == torch.int64


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_noise_has_requested_standard_deviation(noise: float) -> None:
    samples = get_sets(xor(noise, train_size=20_000))[0]
    offsets = samples.inputs - torch.stack([torch.arange(20_000) % 4 // 2, torch.arange(20_000) % 2], dim=1)
    assert offsets.std().item() == pytest.approx(noise, rel=0.02)
    assert offsets.mean().item() == pytest.approx(0, abs=0.02 * noise)


def test_without_noise_points_are_corners() -> None:
    assert torch.equal(get_sets(xor(noise=0))[0].inputs[:4], torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]))


def test_sets_are_drawn_independently() -> None:
    """Training, validation and test points are all different."""
    points = torch.cat([samples.inputs for samples in [*get_sets(xor()), *get_sets(xor(split_seed=1))]])
    assert len(points.unique(dim=0)) == 400


def test_split_seed_reproduces_points() -> None:
    for first, second in zip(get_sets(xor(split_seed=3)), get_sets(xor(split_seed=3)), strict=True):
        assert torch.equal(first.inputs, second.inputs)


def test_validation_points_ignore_training_size() -> None:
    assert torch.equal(get_sets(xor(train_size=8))[1].inputs, get_sets(xor(train_size=80))[1].inputs)


def test_zero_val_size_has_no_loader() -> None:
    assert xor(val_size=0).val_dataloader() == []


@pytest.mark.parametrize("size", [0.5, None])
@pytest.mark.parametrize("setting", ["train_size", "val_size", "test_size"])
def test_sizes_must_be_counts(setting: str, size: float | None) -> None:
    """The points are drawn, so there is no set of which a size could be a fraction."""
    with pytest.raises(InputError, match=rf"data\.{setting}={size}: .* give a count"):
        xor(**{setting: size})


# Points drawn from a rule


SYNTHETIC_SETS = [Pulse, Linear, Parabola, Cubic]


@pytest.mark.parametrize("kind", SYNTHETIC_SETS)
def test_synthetic_sets_depend_on_split_seed(kind: type[SyntheticDataModule]) -> None:
    """Each set is drawn independently and has the requested size."""
    first, again, other = draw_sets(kind), draw_sets(kind), draw_sets(kind, split_seed=1)
    assert [samples.size for samples in first] == [4000, 60, 40]
    points = torch.cat([samples.inputs for samples in [*first, *other]])
    assert len(points.unique(dim=0)) > 0.99 * len(points)  # in float32 two points may fall together
    assert all(torch.equal(one.inputs, two.inputs) for one, two in zip(first, again, strict=True))
    assert torch.equal(draw_sets(kind, train_size=8)[1].inputs, first[1].inputs)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (Pulse, [-3.0], [3.0]),
        (Linear, [0.0, -4.0], [8.0, 3.0]),
        (Parabola, [-5.0, -4.0], [5.0, 4.0]),
        (Cubic, [-1.5], [1.5]),
    ],
)
def test_points_are_uniform_over_range(kind: type[SyntheticDataModule], low: list[float], high: list[float]) -> None:
    inputs = draw_sets(kind)[0].inputs
    ends = torch.tensor([low, high])
    share = (inputs - ends[0]) / (ends[1] - ends[0])
    assert inputs.shape[1:] == (len(low),)
    assert share.min() >= 0 and share.max() <= 1
    quarters = torch.stack([((share * 4).long() == quarter).float().mean(dim=0) for quarter in range(4)])
    assert torch.allclose(quarters, torch.tensor(0.25), atol=0.03)


def test_pulse_is_high_within_bounds() -> None:
    """Its target is 1 from −1 to 1, both included, and 0 elsewhere."""
    points = torch.tensor([[-3.0], [-1.001], [-1.0], [0.0], [1.0], [1.001], [3.0]])
    data = Pulse(train_size=1, val_size=1, test_size=1, batch_size=1)
    assert data.truth(points).tolist() == [0, 0, 1, 1, 1, 0, 0]
    inputs, targets = draw_sets(Pulse)[0]
    assert targets.tolist() == [int(-1 <= x <= 1) for x in inputs.squeeze(1).tolist()]
    assert targets.dtype == torch.int64


def test_linear_classes_are_separated_by_line() -> None:
    (x1, x2), targets = draw_sets(Linear)[0].inputs.double().T, draw_sets(Linear)[0].targets
    value = 0.8 * x1 + x2 - 3
    assert torch.equal((value >= 0)[value.abs() > 1e-5], (targets == 1)[value.abs() > 1e-5])
    # Above the line from (0, 3) to (8, −3.4) lies a triangle of 8 × 6.4, in a rectangle of 8 × 7.
    assert targets.float().mean().item() == pytest.approx(8 * 6.4 / 2 / (8 * 7), abs=0.03)


def test_parabola_separates_classes() -> None:
    (x1, x2), targets = draw_sets(Parabola)[0].inputs.double().T, draw_sets(Parabola)[0].targets
    value = -0.5 * (x1 - 1) ** 2 + 2 * x2 + 5
    assert torch.equal((value >= 0)[value.abs() > 1e-5], (targets == 1)[value.abs() > 1e-5])
    data = Parabola(train_size=1, val_size=1, test_size=1, batch_size=1)
    assert data.boundary(torch.tensor([1.0, 3.0, -5.0])).tolist() == [-2.5, -1.5, 6.5]


def test_cubic_matches_formula_without_noise() -> None:
    data = Cubic(train_size=1, val_size=1, test_size=1, batch_size=1)
    points = torch.tensor([[-1.0], [0.0], [1.0], [1.5]])
    assert data.truth(points).tolist() == pytest.approx([0.2, 0.1, 0.2, 2.2])
    for inputs, targets in draw_sets(Cubic):
        assert torch.equal(targets, data.truth(inputs))
    assert data.num_classes == 0 and data.monitor == ("val/loss", "min")


@pytest.mark.parametrize("kind", SYNTHETIC_SETS)
def test_fraction_is_refused_naming_set(kind: type[SyntheticDataModule]) -> None:
    with pytest.raises(InputError) as caught:
        kind(train_size=100, val_size=0.5, test_size=100, batch_size=10)
    name = kind.__name__
    assert str(caught.value) == f"data.val_size=0.5: {name}'s points are drawn, not taken from a set; give a count"


def test_synthetic_sets_have_no_note() -> None:
    assert [kind(train_size=1, val_size=1, test_size=1, batch_size=1).note for kind in SYNTHETIC_SETS] == [""] * 4
    assert xor().note == ""


# Tables


@pytest.mark.parametrize(
    ("gate", "rule"),
    [
        ("and", lambda a, b: a and b),
        ("or", lambda a, b: a or b),
        ("nand", lambda a, b: not (a and b)),
        ("xor", lambda a, b: a != b),
    ],
)
def test_gate_matches_truth_table(gate: str, rule: Callable[[float, float], bool]) -> None:
    inputs, targets = get_sets(set_up(Gate(gate=gate, batch_size=4)))[0]
    assert inputs.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert targets.tolist() == [int(rule(a, b)) for a, b in inputs.tolist()]
    assert targets.dtype == torch.int64


def test_ten_points_match_course() -> None:
    inputs, targets = get_sets(set_up(TenPoints(held_out=0, batch_size=10)))[0]
    assert inputs.squeeze(1).tolist() == [-4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    printed = [0.9819, 0.7973, 1.9737, 0.1838, 1.3180, -0.8361, -0.6591, -2.4701, -2.8122, -6.2512]
    assert targets.tolist() == pytest.approx(printed)


@pytest.mark.parametrize("data", [Gate(gate="or", batch_size=4), TenPoints(held_out=0, batch_size=10)], ids=str)
def test_table_reuses_points_and_says_so(data: TensorDataModule) -> None:
    """The same points are used for training, validation and test, and a note says so."""
    train, val, test = get_sets(set_up(data))
    assert torch.equal(train.inputs, val.inputs) and torch.equal(train.inputs, test.inputs)
    assert torch.equal(train.targets, val.targets) and torch.equal(train.targets, test.targets)
    words = f"trains, validates and tests on the same {train.size} points: the metrics only show what was memorised"
    assert data.note == words


@pytest.mark.parametrize(("held_out", "where"), [(1, [4]), (2, [3, 6]), (3, [2, 4, 7]), (8, [1, 2, 3, 4, 5, 6, 7, 8])])
def test_held_out_points_are_inner_ones(held_out: int, where: list[int]) -> None:
    """They are spread evenly and are not trained on."""
    data = TenPoints(held_out=held_out, batch_size=10)
    train, val, test = get_sets(set_up(data))
    x = torch.linspace(-4.5, 4.5, 10)
    assert torch.equal(val.inputs.squeeze(1), x[where])
    assert sorted(train.inputs.flatten().tolist() + val.inputs.flatten().tolist()) == x.tolist()
    assert test.size == 10
    left = 10 - held_out
    assert data.note == f"trains on {left} of ten points, validates on the other {held_out}, tests on all ten"


@pytest.mark.parametrize("held_out", range(1, 9))
def test_held_out_points_exclude_ends(held_out: int) -> None:
    """As many are held out as requested."""
    train, val, _ = get_sets(set_up(TenPoints(held_out=held_out, batch_size=10)))
    assert (train.size, val.size) == (10 - held_out, held_out)
    assert {-4.5, 4.5} <= set(train.inputs.flatten().tolist())


@pytest.mark.parametrize("held_out", [9, 10])
def test_holding_out_ends_is_refused(held_out: int) -> None:
    with pytest.raises(InputError) as caught:
        TenPoints(held_out=held_out, batch_size=10)
    words = "at most 8 of the ten points can be held out, not the two ends"
    assert str(caught.value) == f"data.held_out={held_out}: {words}"
