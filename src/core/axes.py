"""Where an axis begins and ends: so that most values can be told apart, however far off a few others are."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ROOM = 0.06  # of the axis, to both sides of the values on it


class Rule(NamedTuple):
    """What is far off, in sizes of the shortest interval that holds the greater part of the values.

    Attributes:
        share: of the values that this part is at least.
        fewest: how many it is at least.
        least: what the interval is taken to be at least.
        worse: how far from it values may lie that are worse.
        better: how far those that are better, which one wants to see.
    """

    share: float
    fewest: int
    least: float
    worse: float
    better: float


LINEAR = Rule(share=2 / 3, fewest=3, least=0.0, worse=4.0, better=1e6)
DECADES = Rule(share=1 / 2, fewest=2, least=2.0, worse=3.0, better=8.0)  # of logarithms to base 10
CURVES = Rule(share=1 / 2, fewest=2, least=0.5, worse=3.0, better=8.0)  # the same, with the first epochs in sight


class Window(NamedTuple):
    """The part of an axis that is shown, and how many values lie below and above it."""

    low: float
    high: float
    below: int
    above: int

    def has(self, value: float) -> bool:
        return self.low <= value <= self.high

    def words(self, what: str = "run") -> str:
        """What is not on the axis: "2 runs far above, 1 run far below"."""
        counts = ((self.above, "above"), (self.below, "below"))
        return ", ".join(f"{count} {what}{'s' * (count != 1)} far {where}" for count, where in counts if count)


def find_window(values: Iterable[float], higher: bool, logarithmic: bool, rule: Rule | None = None) -> Window | None:
    """Find the part of an axis on which values can be told apart; ``None`` where that is all of it.

    Args:
        values: all of them finite.
        higher: whether higher values are the better ones.
        logarithmic: whether they lie by their logarithms; then all are above 0.
        rule: what is far off; ``None``: what suits.
    """
    rule = rule or (DECADES if logarithmic else LINEAR)
    given = sorted(values)
    count = max(rule.fewest, math.ceil(rule.share * len(given)))
    if len(given) <= count:
        return None
    places = [math.log10(value) for value in given] if logarithmic else given
    low, high = _find_core(places, count, higher)
    size = max(high - low, rule.least)
    below, above = (rule.worse, rule.better) if higher else (rule.better, rule.worse)
    kept = [place for place in places if low - below * size <= place <= high + above * size]
    if size == 0 or len(kept) == len(places):
        return None
    below_it, above_it = places.index(kept[0]), places[::-1].index(kept[-1])
    return Window(*_with_room(kept[0], kept[-1], logarithmic), below_it, above_it)


def find_window_of_curves(
    curves: Sequence[Sequence[float]], higher: bool, logarithmic: bool, rule: Rule | None = None
) -> Window | None:
    """Find the part of an axis on which most curves can be told apart; as `find_window`, with curves counted.

    It is all of the curves that do not leave it, if there are any.
    """
    window = find_window((value for curve in curves for value in curve), higher, logarithmic, rule)
    if window is None:
        return None
    inside = [curve for curve in curves if curve and all(map(window.has, curve))]
    kept = [value for curve in inside or curves for value in curve if window.has(value)]
    places = [math.log10(value) if logarithmic else value for value in (min(kept), max(kept))]
    low, high = _with_room(places[0], places[1], logarithmic)
    below = sum(any(value < low for value in curve) for curve in curves)
    return Window(low, high, below, sum(any(value > high for value in curve) for curve in curves))


def find_reach(average: float, spread: float, share: bool) -> tuple[float, float]:
    """Find how far a spread reaches below a mean and above it; of a share neither below 0% nor above 100%."""
    return (min(spread, max(average, 0.0)), min(spread, max(1.0 - average, 0.0))) if share else (spread, spread)


def _with_room(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """Return the ends of an axis from the lowest and the highest place on it, which are logarithms if it is so."""
    room = ROOM * (high - low) or ROOM * max(abs(low), 1.0)
    return (10 ** (low - room), 10 ** (high + room)) if logarithmic else (low - room, high + room)


def _find_core(places: list[float], count: int, higher: bool) -> tuple[float, float]:
    """Return the ends of the shortest interval that holds so many of the places, which are sorted."""
    starts = range(len(places) - count + 1)
    start = min(reversed(starts) if higher else starts, key=lambda start: places[start + count - 1] - places[start])
    return places[start], places[start + count - 1]
