"""Choose the range of an axis so that most values can be distinguished, however far off a few outliers are."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MARGIN = 0.06  # margin on both sides of the values, as a fraction of the axis


class OutlierRule(NamedTuple):
    """A rule for outliers, by their distance from the core: the shortest interval that holds most of the values.

    Attributes:
        core_fraction: the minimum fraction of the values in the core.
        min_count: the minimum number of values in the core.
        min_size: the minimum size of the core.
        max_worse: the maximum distance of worse values from the core, in multiples of its size.
        max_better: the maximum distance of better values, which are more interesting, in multiples of the core's size.
    """

    core_fraction: float
    min_count: int
    min_size: float
    max_worse: float
    max_better: float


LINEAR = OutlierRule(core_fraction=2 / 3, min_count=3, min_size=0.0, max_worse=4.0, max_better=1e6)
DECADES = OutlierRule(
    core_fraction=1 / 2, min_count=2, min_size=2.0, max_worse=3.0, max_better=8.0
)  # for logarithms to base 10
CURVES = OutlierRule(
    core_fraction=1 / 2, min_count=2, min_size=0.5, max_worse=3.0, max_better=8.0
)  # the same, but keeps the first epochs visible


class AxisRange(NamedTuple):
    """The visible range of an axis, and the numbers of values below and above it."""

    low: float
    high: float
    below: int
    above: int

    def is_inside(self, value: float) -> bool:
        return self.low <= value <= self.high

    def describe(self, noun: str = "run") -> str:
        """Return a description of the values outside the range: "2 runs far above, 1 run far below"."""
        counts = ((self.above, "above"), (self.below, "below"))
        return ", ".join(f"{count} {noun}{'s' * (count != 1)} far {where}" for count, where in counts if count)


def find_axis_range(
    values: Iterable[float], higher_is_better: bool, logarithmic: bool, rule: OutlierRule | None = None
) -> AxisRange | None:
    """Find the range of an axis on which values can be distinguished; return ``None`` if there are no outliers.

    Args:
        values: finite values.
        higher_is_better: True if higher values are better.
        logarithmic: True if the axis is logarithmic; then all values must be above 0.
        rule: the rule for outliers; ``None``: `DECADES` for a logarithmic axis, else `LINEAR`.
    """
    rule = rule or (DECADES if logarithmic else LINEAR)
    ordered = sorted(values)
    count = max(rule.min_count, math.ceil(rule.core_fraction * len(ordered)))
    if len(ordered) <= count:
        return None
    positions = [math.log10(value) for value in ordered] if logarithmic else ordered
    low, high = _find_core(positions, count, higher_is_better)
    size = max(high - low, rule.min_size)
    below, above = (rule.max_worse, rule.max_better) if higher_is_better else (rule.max_better, rule.max_worse)
    kept = [position for position in positions if low - below * size <= position <= high + above * size]
    if size == 0 or len(kept) == len(positions):
        return None
    count_below, count_above = positions.index(kept[0]), positions[::-1].index(kept[-1])
    return AxisRange(*_add_margin(kept[0], kept[-1], logarithmic), count_below, count_above)


def find_curves_range(
    curves: Sequence[Sequence[float]], higher_is_better: bool, logarithmic: bool, rule: OutlierRule | None = None
) -> AxisRange | None:
    """Find the range of an axis on which most curves can be distinguished; ``None`` if there are no outliers.

    The range is that of the curves that stay within `find_axis_range`'s range, if there are any. The window counts
    curves instead of values.
    """
    window = find_axis_range((value for curve in curves for value in curve), higher_is_better, logarithmic, rule)
    if window is None:
        return None
    inside = [curve for curve in curves if curve and all(map(window.is_inside, curve))]
    kept = [value for curve in inside or curves for value in curve if window.is_inside(value)]
    ends = [math.log10(value) if logarithmic else value for value in (min(kept), max(kept))]
    low, high = _add_margin(ends[0], ends[1], logarithmic)
    below = sum(any(value < low for value in curve) for curve in curves)
    return AxisRange(low, high, below, sum(any(value > high for value in curve) for curve in curves))


def limit_error_bar(average: float, spread: float, is_fraction: bool) -> tuple[float, float]:
    """Return the lengths of an error bar below and above a mean; a fraction's bar stays between 0% and 100%."""
    return (min(spread, max(average, 0.0)), min(spread, max(1.0 - average, 0.0))) if is_fraction else (spread, spread)


def _add_margin(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """Return the ends of an axis with margins, from the lowest and highest positions (logarithms if logarithmic)."""
    room = MARGIN * (high - low) or MARGIN * max(abs(low), 1.0)
    return (10 ** (low - room), 10 ** (high + room)) if logarithmic else (low - room, high + room)


def _find_core(positions: list[float], count: int, higher_is_better: bool) -> tuple[float, float]:
    """Return the ends of the shortest interval that holds ``count`` of the sorted positions; ties go to better ones."""
    starts = range(len(positions) - count + 1)
    start = min(
        reversed(starts) if higher_is_better else starts,
        key=lambda start: positions[start + count - 1] - positions[start],
    )
    return positions[start], positions[start + count - 1]
