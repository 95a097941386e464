"""Where axes end: most values can be told apart, good ones are always in sight, and those far off are counted."""

import math

import pytest

from src.core.axes import CURVES, AxisRange, find_axis_range, find_curves_range


def select_visible(window: AxisRange | None, values: list[float]) -> list[float]:
    """The values that are on the axis."""
    return values if window is None else [value for value in values if window.is_inside(value)]


@pytest.mark.parametrize(
    ("values", "higher", "logarithmic", "kept"),
    [
        # one that has diverged, whatever the number of the others
        ([0.1, 0.2, 1e30], False, True, [0.1, 0.2]),
        ([0.4, 0.3, 0.2, 0.5, 1e30], False, True, [0.4, 0.3, 0.2, 0.5]),
        ([0.5, 0.5, 0.5, 1e30], False, True, [0.5, 0.5, 0.5]),
        ([0.0, 0.1, 0.2, 1e30], False, False, [0.0, 0.1, 0.2]),
        # up to the half of them, each elsewhere
        ([0.1, 0.2, 0.3, 1e10, 1e20, 1e30], False, True, [0.1, 0.2, 0.3]),
        # poor ones that squeeze the others
        ([0.80, 0.81, 0.82, 0.1, 0.83], True, False, [0.80, 0.81, 0.82, 0.83]),
        # one that is much better stays in sight
        ([0.50, 0.51, 0.50, 0.52, 0.93], True, False, None),
        ([0.5, 0.6, 0.5, 1e-12], False, True, None),
        # what can be told apart stays as it is
        ([0.5, 0.7, 0.6, 0.8, 0.8], True, False, None),
        ([1.0, 1.0, 1.0, 1.0, 0.5], True, False, None),
        ([1e-6] * 5 + [0.69] * 5, False, True, None),
        ([0.1, 0.11, 0.5], False, False, None),
        ([0.5, 1e30], False, True, None),
        ([1.0], False, True, None),
        ([], True, False, None),
        ([1e308, -1e308, 0.0, 1.0], False, False, None),
    ],
)
def test_axis_range_excludes_outliers(
    values: list[float], higher: bool, logarithmic: bool, kept: list[float] | None
) -> None:
    """Good values always stay visible."""
    window = find_axis_range(values, higher, logarithmic)
    assert select_visible(window, values) == (values if kept is None else kept)
    assert (window is None) == (kept is None)
    if window and kept:
        assert window.below + window.above == len(values) - len(kept)
        assert math.isfinite(window.low) and math.isfinite(window.high)


def test_outliers_are_counted_in_words() -> None:
    assert AxisRange(0, 1, below=0, above=2).describe() == "2 runs far above"
    assert AxisRange(0, 1, below=1, above=1).describe("curve") == "1 curve far above, 1 curve far below"


def test_axis_extends_slightly_beyond_values() -> None:
    window = find_axis_range([1.0, 2.0, 1.5, 1.2, -1e9], higher_is_better=True, logarithmic=False)
    assert window is not None and (window.low, window.high) == pytest.approx((0.94, 2.06))


def test_diverging_curve_does_not_affect_range() -> None:
    """A curve that leaves the axis does not count, not even with its first points."""
    curves = [[3.0, 1.0, 0.5], [2.5, 0.9, 0.4], [20.0, 1e10, 1e30]]
    window = find_curves_range(curves, higher_is_better=False, logarithmic=True, rule=CURVES)
    assert window is not None and (window.below, window.above) == (0, 1)
    assert 0.3 < window.low < 0.4 and 3.0 < window.high < 4.0
    assert find_curves_range(curves[:2], higher_is_better=False, logarithmic=True, rule=CURVES) is None


def test_empty_curve_is_ignored() -> None:
    curves = [[0.5, 1e30], [0.4, 0.6, 1e20], []]  # none of those with points stays on the axis
    window = find_curves_range(curves, higher_is_better=False, logarithmic=True, rule=CURVES)
    assert window is not None and (window.below, window.above) == (0, 2) and window.high < 1.0
