"""The values of a setting as a report tells them apart, and where they lie on an axis."""

from typing import Any

import pytest

from src.sweeps.store.levels import ABSENT, make_scale, split_into_levels


def test_sorted_numbers_precede_other_values() -> None:
    """Numbers come first, sorted; other values follow in the order of their appearance."""
    found = split_into_levels([[4, 4], 32, True, 8, ABSENT, 8.0, "a"])
    assert found.labels == ["8", "32", "[4,4]", "true", "–", "a"]
    assert found.codes == [2, 1, 3, 0, 4, 0, 5]
    assert (found.is_numeric, found.is_exact) == (False, True)
    assert split_into_levels([3, 1]).is_numeric


def test_many_numbers_form_equal_ranges() -> None:
    """Many numbers are grouped in ranges with equally many values."""
    found = split_into_levels(list(range(24, 0, -1)))
    assert found.labels == ["1 – 4", "5 – 8", "9 – 12", "13 – 16", "17 – 20", "21 – 24"]
    assert found.codes == [5] * 4 + [4] * 4 + [3] * 4 + [2] * 4 + [1] * 4 + [0] * 4
    assert (found.is_numeric, found.is_exact) == (True, False)


def test_rare_words_are_grouped() -> None:
    """Of many words, the frequent ones have their own level and the rest share one."""
    found = split_into_levels([f"word {number}" for number in range(15)] + [f"word {number}" for number in range(11)])
    assert found.labels == [*(f"word {number}" for number in range(11)), "4 others"]
    assert found.codes == [*range(11), 11, 11, 11, 11, *range(11)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.001, 0.01, 0.1], "log"),
        ([16, 32, 64, 128, 256], "log"),
        ([0.01, 0.1], "log"),
        ([0, 0.2, 0.5], "linear"),
        (list(range(1, 21)), "linear"),
        ([-1, 1, 100], "linear"),
        ([0, 1e-4, 1e-2], "category"),  # 0 has no logarithm, and its neighbours no room beside it
        ([True, False], "category"),
        ([1, [1, 2]], "category"),
        ([1, ABSENT], "category"),
        ([1.0, float("inf")], "category"),
    ],
)
def test_scale_type_follows_values(values: list[Any], kind: str) -> None:
    """Numbers that span decades evenly get a logarithmic axis."""
    assert make_scale(values, split_into_levels(values)).axis_type == kind


def test_centres_are_mean_positions() -> None:
    """Positions are the numbers themselves, and centres are their means on the axis."""
    values = [10.0**power for power in range(18)]
    found = make_scale(values, split_into_levels(values))
    assert found.positions == values
    assert found.centres == pytest.approx([10.0 ** (3 * part + 1) for part in range(6)])
    assert found.limits == pytest.approx((-1.7, 18.7))
    words = ["b", "a", "b"]
    steps = make_scale(words, split_into_levels(words))
    assert (steps.positions, steps.centres, steps.limits) == ([0, 1, 0], [0, 1], (-0.5, 1.5))


def test_jitter_separates_equal_values() -> None:
    """Dots of equal values are spread over a small part of the axis."""
    values = [0.001, 0.1]
    found = make_scale(values, split_into_levels(values))  # 2.4 decades from end to end
    places = [found.get_jittered(0.001, number) for number in range(50)]
    assert len(set(places)) == 50
    assert 10 ** (-3 - 0.018 * 2.4) < min(places) < 0.00099 and 0.00101 < max(places) < 10 ** (-3 + 0.018 * 2.4)
