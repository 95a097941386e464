"""The values of a setting over runs: in which order they come, and how they lie on an axis."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from src.sweeps.store.leaderboard import NOTHING, mean
from src.sweeps.store.runs import said

MOST = 12  # different values that are told apart one by one
RANGES = 6  # that more numbers are told in
DECADE = 10
ROUNDING = 1e-9
GOLDEN = 0.618034  # its multiples leave no part of an interval empty
SPREAD = 0.035  # of an axis
ABSENT = object()  # the value of a run that does not have the setting


class Levels(NamedTuple):
    """The values of a setting, few enough to be told apart.

    Attributes:
        labels: what each level is called, in their order.
        of: the level of each run, as its place among the labels.
        ordered: whether they are numbers.
        single: whether each level is one value.
    """

    labels: list[str]
    of: list[int]
    ordered: bool
    single: bool

    def members(self, level: int) -> list[int]:
        """The places of a level's runs."""
        return [place for place, each in enumerate(self.of) if each == level]


def levels(values: Sequence[Any]) -> Levels:
    """The levels of values: each by itself; of many numbers ranges, of many other values the most frequent."""
    labels = [label(value) for value in values]
    known = dict(zip(labels, values, strict=True))
    numbers = sorted((text for text, value in known.items() if is_number(value)), key=known.__getitem__)
    names = numbers + [text for text in known if text not in numbers]
    if len(names) <= MOST:
        return Levels(names, [names.index(text) for text in labels], numbers == names, True)
    return ranges(names, known, labels) if numbers == names else most_frequent(names, labels)


def ranges(names: list[str], known: dict[str, Any], labels: list[str]) -> Levels:
    """Many numbers, told in ranges that hold about equally many of the different ones."""
    level = {text: place * RANGES // len(names) for place, text in enumerate(names)}
    parts = [[known[text] for text in names if level[text] == number] for number in range(RANGES)]
    words = [f"{part[0]:.2g} – {part[-1]:.2g}" for part in parts]
    return Levels(words, [level[text] for text in labels], ordered=True, single=False)


def most_frequent(names: list[str], labels: list[str]) -> Levels:
    """Many values of any kind: the most frequent ones, and the others as one."""
    frequent = {text for text, _ in Counter(labels).most_common(MOST - 1)}
    kept = [text for text in names if text in frequent]
    level = {text: kept.index(text) if text in frequent else len(kept) for text in names}
    words = [*kept, f"{len(names) - len(kept)} others"]
    return Levels(words, [level[text] for text in labels], ordered=False, single=False)


def label(value: Any) -> str:
    """What a value is called."""
    return NOTHING if value is ABSENT else said(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Scale(NamedTuple):
    """Where runs lie on a setting's axis.

    Attributes:
        kind: "log", "linear", or "category": one step from level to level.
        places: where each run lies.
        centres: where each level's middle lies.
        ends: those of an axis with room around all places; of a logarithmic one their logarithms, as plotly has it.
    """

    kind: str
    places: list[float]
    centres: list[float]
    ends: tuple[float, float]

    def beside(self, place: float, number: int) -> float:
        """A place moved aside a little, by another bit for each number, so that dots of equal values can be seen."""
        step = ((number * GOLDEN) % 1 - 0.5) * SPREAD * (self.ends[1] - self.ends[0])
        return place * 10**step if self.kind == "log" else place + step


def scale(values: Sequence[Any], known: Levels) -> Scale:
    """Numbers lie where they are, on a logarithmic axis where they span decades; other values step by step."""
    kind = kind_of(values)
    if kind == "category":
        last = len(known.labels) - 1
        return Scale(
            kind, [float(level) for level in known.of], [float(level) for level in range(last + 1)], (-0.5, last + 0.5)
        )
    average = statistics.geometric_mean if kind == "log" else mean
    members = [known.members(level) for level in range(len(known.labels))]
    centres = [average([values[run] for run in part]) for part in members]
    low, high = [math.log10(end(values)) if kind == "log" else end(values) for end in (min, max)]
    room = 0.1 * (high - low)
    return Scale(kind, [float(value) for value in values], centres, (low - room, high + room))


def kind_of(values: Sequence[Any]) -> str:
    """How values lie on an axis: numbers that span decades evenly by their logarithms, 0 beside such step by step."""
    if not all(map(is_number, values)):
        return "category"
    positive = [value for value in set(values) if value > 0]
    if len(positive) < 2 or max(positive) < DECADE * min(positive) or min(values) < 0 or not spans_evenly(positive):
        return "linear"
    return "category" if 0 in values else "log"


def spans_evenly(positive: list[float]) -> bool:
    """Whether numbers are spread more evenly by their logarithms than as they are."""
    return skewness([math.log(value) for value in positive]) <= skewness(positive) + ROUNDING


def skewness(values: list[float]) -> float:
    """How far their median lies from the middle between the ends; 0: in it, 0.5: at an end."""
    return abs((statistics.median(values) - min(values)) / (max(values) - min(values)) - 0.5)
