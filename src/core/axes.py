"""Choose the range of an axis so that most values can be distinguished, however far off a few outliers are."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ROOM = 0.06  # margin on both sides of the values, as a fraction of the axis


class Rule(NamedTuple):
    """A rule for outliers, by their distance from the core: the shortest interval that holds most of the values.

    Attributes:
        share: the minimum fraction of the values in the core.
        fewest: the minimum number of values in the core.
        least: the minimum size of the core.
        worse: the maximum distance of worse values from the core, in multiples of its size.
        better: the maximum distance of better values, which are more interesting, in multiples of the core's size.
    """

    share: float
    fewest: int
    least: float
    worse: float
    better: float


LINEAR = Rule(share=2 / 3, fewest=3, least=0.0, worse=4.0, better=1e6)
DECADES = Rule(share=1 / 2, fewest=2, least=2.0, worse=3.0, better=8.0)  # for logarithms to base 10
CURVES = Rule(share=1 / 2, fewest=2, least=0.5, worse=3.0, better=8.0)  # the same, but keeps the first epochs visible


class Window(NamedTuple):
    """The visible range of an axis, and the numbers of values below and above it."""

    low: float
    high: float
    below: int
    above: int

    def has(self, value: float) -> bool:
        return self.low <= value <= self.high

    def words(self, what: str = "run") -> str:
        """Return a description of the values outside the range: "2 runs far above, 1 run far below"."""
        counts = ((self.above, "above"), (self.below, "below"))
        return ", ".join(f"{count} {what}{'s' * (count != 1)} far {where}" for count, where in counts if count)


def find_window(values: Iterable[float], higher: bool, logarithmic: bool, rule: Rule | None = None) -> Window | None:
    """Find the range of an axis on which values can be distinguished; return ``None`` if there are no outliers.

    Args:
        values: finite values.
        higher: True if higher values are better.
        logarithmic: True if the axis is logarithmic; then all values must be above 0.
        rule: the rule for outliers; ``None``: `DECADES` for a logarithmic axis, else `LINEAR`.
    """
    rule = rule or (DECADES if logarithmic else LINEAR)
    ordered = sorted(values)
    count = max(rule.fewest, math.ceil(rule.share * len(ordered)))
    if len(ordered) <= count:
        return None
    positions = [math.log10(value) for value in ordered] if logarithmic else ordered
    low, high = _find_core(positions, count, higher)
    size = max(high - low, rule.least)
    below, above = (rule.worse, rule.better) if higher else (rule.better, rule.worse)
    kept = [position for position in positions if low - below * size <= position <= high + above * size]
    if size == 0 or len(kept) == len(positions):
        return None
    count_below, count_above = positions.index(kept[0]), positions[::-1].index(kept[-1])
    return Window(*_with_room(kept[0], kept[-1], logarithmic), count_below, count_above)


def find_window_of_curves(
    curves: Sequence[Sequence[float]], higher: bool, logarithmic: bool, rule: Rule | None = None
) -> Window | None:
    """Find the range of an axis on which most curves can be distinguished; ``None`` if there are no outliers.

    The range is that of the curves that stay within `find_window`'s range, if there are any. The window counts curves
    instead of values.
    """
    window = find_window((value for curve in curves for value in curve), higher, logarithmic, rule)
    if window is None:
        return None
    inside = [curve for curve in curves if curve and all(map(window.has, curve))]
    kept = [value for curve in inside or curves for value in curve if window.has(value)]
    ends = [math.log10(value) if logarithmic else value for value in (min(kept), max(kept))]
    low, high = _with_room(ends[0], ends[1], logarithmic)
    below = sum(any(value < low for value in curve) for curve in curves)
    return Window(low, high, below, sum(any(value > high for value in curve) for curve in curves))


def find_reach(average: float, spread: float, share: bool) -> tuple[float, float]:
    """Return the lengths of an error bar below and above a mean; a fraction's bar stays between 0% and 100%."""
    return (min(spread, max(average, 0.0)), min(spread, max(1.0 - average, 0.0))) if share else (spread, spread)


def _with_room(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """Return the ends of an axis with margins, from the lowest and highest positions (logarithms if logarithmic)."""
    room = ROOM * (high - low) or ROOM * max(abs(low), 1.0)
    return (10 ** (low - room), 10 ** (high + room)) if logarithmic else (low - room, high + room)


def _find_core(places: list[float], count: int, higher: bool) -> tuple[float, float]:
    """Return the ends of the shortest interval that holds ``count`` of the sorted positions; ties go to better ones."""
    starts = range(len(places) - count + 1)
    start = min(reversed(starts) if higher else starts, key=lambda start: places[start + count - 1] - places[start])
    return places[start], places[start + count - 1]
