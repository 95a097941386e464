"""Summarize metrics over runs: means and their spread, and how an axis or a colour shows them."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from src.core.formatting import NO_VALUE, is_fraction
from src.sweeps.store.runs import Run


def compute_mean(values: Iterable[float]) -> float:
    """Return the mean; NaN without values, infinite if the sum overflows."""
    numbers = list(values)
    try:
        return statistics.fmean(numbers) if numbers else math.nan
    except OverflowError:
        return sum(numbers) / len(numbers)


def compute_std(values: Sequence[float]) -> float | None:
    """Return the standard deviation (over n − 1); ``None`` for fewer than two values or one that is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    try:
        return statistics.stdev(values)
    except OverflowError:
        return math.inf


def format_mean_std(metric: str, values: Sequence[float], mean_format: str = ".4g", std_format: str = ".2g") -> str:
    """Return the mean ± standard deviation (over n − 1) as text, accuracies in per cent: "97.42 ± 0.14%"."""
    if not values:
        return NO_VALUE
    factor, unit = (100, "%") if is_fraction(metric) else (1, "")
    mean_format, std_format = (".2f", ".2f") if unit else (mean_format, std_format)
    std = compute_std(values)
    spread = f" ± {factor * std:{std_format}}" if std is not None else ""
    return f"{factor * compute_mean(values):{mean_format}}{spread}{unit}"


def is_lower_better(runs: Iterable[Run], metric: str) -> bool:
    """Return True if lower values of a metric are better.

    The runs that monitor the metric record this as ``mode``. If none does, lower is better for all but fractions.
    """
    modes = Counter(run.metrics.get("mode") for run in runs if run.metrics.get("monitor") == metric)
    return modes.most_common(1)[0][0] == "min" if modes else not is_fraction(metric)


def is_logarithmic(metric: str, values: Sequence[float]) -> bool:
    """Return True if a metric needs a logarithmic axis: its values, no fractions, are positive and span decades."""
    return not is_fraction(metric) and len(values) > 0 and min(values) > 0 and max(values) > 10 * min(values)
