"""What the repeated runs of a leaderboard's entries show: intervals, and which entries cannot be told from the best."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.core.formatting import format_setting_value, is_fraction
from src.sweeps.store.runs import Run, is_seed

MAX_MORE = 999  # a larger number of missing runs is not shown: nobody will make them


class Interval(NamedTuple):
    """A 95% interval of the mean, and the kind of it: "t" or "Wilson"."""

    low: float
    high: float
    kind: str


class Evidence(NamedTuple):
    """What the runs show of the best of several entries.

    Attributes:
        ranks: each entry's rank; "=1" for all that cannot be told from the best.
        more: for each of those the number of further runs that would probably tell it from the best.
        is_paired: True if runs with the same seed or fold were compared.
        optimism: by how much the best mean is too good because it was chosen; ``None`` if that cannot be seen.
    """

    ranks: list[str]
    more: list[str]
    is_paired: bool
    optimism: float | None

    @property
    def tied(self) -> int:
        """The number of entries that cannot be told from the best, the best included."""
        return self.ranks.count("=1") or 1


def compute_interval(metric: str, values: Sequence[float]) -> Interval | None:
    """Return the interval of a metric's mean: Wilson's if all runs have 0 or 1, otherwise Student's t.

    An accuracy of 1 in all runs has a share as well: its mean is at least the share of runs with 1.

    Returns:
        The interval, inside [0, 1] for a fraction; ``None`` if the values are too few, not finite, or all alike: that
        the noise is 0 is not known.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    # imports SciPy, which sweeps without repetitions do not need
    from src.sweeps.store.statistics import compute_t_interval, compute_wilson_interval

    if is_fraction(metric) and set(values) <= {0.0, 1.0}:
        return Interval(*compute_wilson_interval(round(sum(values)), len(values)), "Wilson")
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = compute_t_interval(np.asarray(values, dtype=np.float64))
    if not (low < high and math.isfinite(high - low)):
        return None
    return Interval(max(0.0, low), min(1.0, high), "t") if is_fraction(metric) else Interval(low, high, "t")


def format_interval(metric: str, interval: Interval | None) -> str:
    """Return an interval as text, with as many digits as its width supports: "97.31 to 97.53%"."""
    if interval is None:
        return ""
    factor, unit = (100, "%") if is_fraction(metric) else (1, "")
    low, high = factor * interval.low, factor * interval.high
    decimals = 1 - math.floor(math.log10((high - low) / 2))
    largest = max(abs(low), abs(high))
    if 1e-3 < largest < 1e5:
        return f"{low:.{max(0, decimals)}f} to {high:.{max(0, decimals)}f}{unit}"
    digits = max(1, decimals + 1 + math.floor(math.log10(largest)))
    return f"{low:.{digits}g} to {high:.{digits}g}"


def collect_evidence(groups: Sequence[list[Run]], metric: str | None, mode: str | None) -> Evidence | None:
    """Compare entries, given by their finished runs, best first.

    Returns:
        The evidence; ``None`` if there is one entry, none has repeated runs, or there is no noise to compare with.
    """
    if metric is None or len(groups) < 2 or max(map(len, groups)) < 2:
        return None
    from src.sweeps.store.statistics import compare_with_best, estimate_optimism  # imports SciPy

    values, has_blocks = _arrange_values(groups, metric)
    values = values if mode == "max" else -values
    known = np.isfinite(values).any(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        found = compare_with_best(values[known], has_blocks) if known.sum() > 1 else None
    if found is None:
        return None
    tied, more = np.zeros(len(groups), bool), np.full(len(groups), np.nan)
    tied[known], more[known] = found.tied, found.more
    complete = values[~np.isnan(values).any(axis=1)]
    return Evidence(
        ranks=[("=1" if tied.sum() > 1 else "1") if each else str(row + 1) for row, each in enumerate(tied)],
        more=[_format_more(each) for each in more],
        is_paired=found.is_paired,
        optimism=estimate_optimism(complete) if len(complete) > 1 and complete.shape[1] > 1 else None,
    )


def describe_tied(evidence: Evidence | None) -> list[str]:
    """Return the line, if there is one, on which entries cannot be told from the best."""
    if evidence is None:
        return []
    how = f"{'paired by seed or fold' if evidence.is_paired else 'unpaired'}, corrected for all pairs"
    if evidence.tied == 1:
        return [f"The best can be told from all others at 5% ({how})."]
    return [f"=1: {evidence.tied} settings that cannot be told from the best at 5% ({how})."]


def describe_optimism(evidence: Evidence | None, metric: str | None, entries: int) -> list[str]:
    """Return the line, if there is one, on how much the chosen entry's mean owes to being chosen."""
    if evidence is None or metric is None or evidence.optimism is None:
        return []
    if evidence.optimism <= 0:
        return [f"Choosing among {entries} has not made its {metric} look better than it is, as far as the seeds show."]
    size = f"{100 * evidence.optimism:.1g} percentage points" if is_fraction(metric) else f"{evidence.optimism:.1g}"
    return [f"Choosing among {entries} has made its {metric} look better by about {size} (each seed left out in turn)."]


def _arrange_values(groups: Sequence[list[Run]], metric: str) -> tuple[NDArray[np.float64], bool]:
    """Return a metric's values (entries, runs), NaN where there is none, and True if columns are seeds or folds.

    An entry with a value that is not finite has none at all.
    """
    runs = [[run for run in group if metric in run.metrics] for group in groups]
    found = [[_get_block(run) for run in group] for group in runs]
    blocks = {block: column for column, block in enumerate(dict.fromkeys(block for row in found for block in row))}
    width = max(map(len, found))
    has_blocks = len(blocks) == width and all(len(set(row)) == len(row) for row in found)
    values = np.full((len(groups), width), np.nan)
    for row, group in enumerate(runs):
        measured = [run.metrics[metric] for run in group]
        if all(value is not None and math.isfinite(value) for value in measured):
            columns = [blocks[block] for block in found[row]] if has_blocks else list(range(len(group)))
            values[row, columns] = measured
    return values, has_blocks


def _get_block(run: Run) -> tuple[str, ...]:
    """Return what a run shares with runs of other entries: its seeds and its fold."""
    return tuple(
        f"{key}={format_setting_value(value)}"
        for key, value in sorted(run.swept.items())
        if is_seed(key) or key == "data.fold"
    )


def _format_more(more: float) -> str:
    """Return a number of missing runs as text; it is an estimate, so above 20 it is rounded up to two digits."""
    if math.isnan(more):
        return ""
    if more > MAX_MORE:
        return f"> {MAX_MORE}"
    step = 10 if more > 100 else 5 if more > 20 else 1
    return str(math.ceil(more / step) * step)
