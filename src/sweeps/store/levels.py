"""Bin the values that a setting takes over the runs, and lay them out on an axis."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from src.core.formatting import NO_VALUE, format_setting_value
from src.sweeps.store.aggregate import compute_mean

MAX_LEVELS = 12  # distinct values, at most, that get a level each
RANGE_COUNT = 6  # bins for more numbers than that
DECADE = 10
TOLERANCE = 1e-9
GOLDEN_RATIO = 0.618034  # golden ratio: its multiples modulo 1 fill the interval [0, 1) evenly
JITTER_WIDTH = 0.035  # width of the jitter, as a fraction of the axis
ABSENT = object()  # stands for the value in a run that does not have the setting


class Levels(NamedTuple):
    """The values of a setting, binned into a few levels.

    Attributes:
        labels: the label of each level, in order.
        codes: the level of each run, as an index into the labels.
        is_numeric: True if the levels are numbers.
        is_exact: True if each level is a single value.
    """

    labels: list[str]
    codes: list[int]
    is_numeric: bool
    is_exact: bool

    def find_runs(self, level: int) -> list[int]:
        """Return the indices of a level's runs."""
        return [run for run, code in enumerate(self.codes) if code == level]


def split_into_levels(values: Sequence[Any]) -> Levels:
    """Bin values into levels.

    Up to `MAX_LEVELS` distinct values get a level each. More numbers are binned into ranges; of more values of other
    types the most frequent ones are kept.
    """
    labels = [_format_label(value) for value in values]
    known = dict(zip(labels, values, strict=True))
    numbers = sorted((text for text, value in known.items() if _is_number(value)), key=known.__getitem__)
    names = numbers + [text for text in known if text not in numbers]
    if len(names) <= MAX_LEVELS:
        return Levels(names, [names.index(text) for text in labels], numbers == names, True)
    return _split_into_ranges(names, known, labels) if numbers == names else _keep_most_frequent(names, labels)


def _split_into_ranges(names: list[str], known: dict[str, Any], labels: list[str]) -> Levels:
    """Bin many numbers into ranges that hold about equally many distinct values."""
    level = {text: index * RANGE_COUNT // len(names) for index, text in enumerate(names)}
    parts = [[known[text] for text in names if level[text] == number] for number in range(RANGE_COUNT)]
    words = [f"{part[0]:.2g} – {part[-1]:.2g}" for part in parts]
    return Levels(words, [level[text] for text in labels], is_numeric=True, is_exact=False)


def _keep_most_frequent(names: list[str], labels: list[str]) -> Levels:
    """Keep the most frequent of many values of any type as levels, and merge the others into one level."""
    frequent = {text for text, _ in Counter(labels).most_common(MAX_LEVELS - 1)}
    kept = [text for text in names if text in frequent]
    level = {text: kept.index(text) if text in frequent else len(kept) for text in names}
    words = [*kept, f"{len(names) - len(kept)} others"]
    return Levels(words, [level[text] for text in labels], is_numeric=False, is_exact=False)


def _format_label(value: Any) -> str:
    """Return the label of a value."""
    return NO_VALUE if value is ABSENT else format_setting_value(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Scale(NamedTuple):
    """The positions of runs on a setting's axis.

    Attributes:
        axis_type: the type of the axis: "log", "linear", or "category" (levels at distances of 1).
        positions: the position of each run.
        centres: the position of each level's centre.
        limits: the limits of the axis, with a margin around all positions; log10 of the limits on a logarithmic axis,
            as plotly expects.
    """

    axis_type: str
    positions: list[float]
    centres: list[float]
    limits: tuple[float, float]

    def get_jittered(self, position: float, index: int) -> float:
        """Return a position with a small offset that depends on the number, so that dots do not overlap."""
        step = ((index * GOLDEN_RATIO) % 1 - 0.5) * JITTER_WIDTH * (self.limits[1] - self.limits[0])
        return position * 10**step if self.axis_type == "log" else position + step


def make_scale(values: Sequence[Any], known: Levels) -> Scale:
    """Lay values out on an axis.

    Numbers lie at their values, on a logarithmic axis if they span decades; other values lie at distances of 1.
    """
    kind = _infer_axis_type(values)
    if kind == "category":
        last = len(known.labels) - 1
        return Scale(
            kind,
            [float(level) for level in known.codes],
            [float(level) for level in range(last + 1)],
            (-0.5, last + 0.5),
        )
    average = statistics.geometric_mean if kind == "log" else compute_mean
    members = [known.find_runs(level) for level in range(len(known.labels))]
    centres = [average([values[run] for run in part]) for part in members]
    # plotly expects the limits of a logarithmic axis as logarithms, but the positions as they are.
    low, high = [math.log10(end(values)) if kind == "log" else end(values) for end in (min, max)]
    margin = 0.1 * (high - low)
    return Scale(kind, [float(value) for value in values], centres, (low - margin, high + margin))


def _infer_axis_type(values: Sequence[Any]) -> str:
    """Return the type of axis that suits values: "log", "linear" or "category".

    Numbers that span decades evenly get a logarithmic axis. If 0 is among them it has no logarithm, so the axis is
    categorical.
    """
    if not all(map(_is_number, values)):
        return "category"
    positive = [value for value in set(values) if value > 0]
    if len(positive) < 2 or max(positive) < DECADE * min(positive) or min(values) < 0 or not _is_log_spaced(positive):
        return "linear"
    return "category" if 0 in values else "log"


def _is_log_spaced(positive: list[float]) -> bool:
    """Return True if the logarithms of numbers are spread more evenly than the numbers themselves."""
    return _measure_skewness([math.log(value) for value in positive]) <= _measure_skewness(positive) + TOLERANCE


def _measure_skewness(values: list[float]) -> float:
    """Return the distance of the median from the midrange, in units of the range.

    It is 0 if the median lies in the middle between minimum and maximum, and 0.5 if it equals one of them.
    """
    return abs((statistics.median(values) - min(values)) / (max(values) - min(values)) - 0.5)
