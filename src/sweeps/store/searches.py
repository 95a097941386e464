"""What a search leaves in its sweep's folder: its trials, by which metrics they were judged, and their Pareto front."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from src.core.formatting import is_fraction
from src.storage import schema
from src.storage.schema import DamagedError
from src.sweeps.store.aggregate import format_mean_std

SEARCH_FILE = "search.json"  # in the folder of a search's sweep


class Trial(NamedTuple):
    """A trial of a search.

    Attributes:
        number: its number in the search.
        job: the number of its job in the sweep.
        state: "complete", "pruned", "failed" or "running".
        value: the metric, if it is complete; if it is pruned, at its last rung.
        values: the objectives, if it is complete and there are several.
        epochs: if it is pruned, the number of epochs of its last rung.
    """

    number: int
    job: int
    state: str
    value: float | None = None
    values: list[float] | None = None
    epochs: int | None = None


class SearchState(NamedTuple):
    """A search and its trials so far.

    Attributes:
        sampler: "tpe", "gp" or "random".
        metric: the monitored metric.
        mode: "min" or "max".
        objectives: the mode of each metric that the trials are judged by; empty: the monitored one alone.
        trials: in the order of their numbers.
        importance: by setting, fractions that add up to 1; empty if there are too few trials.
        intervals: the 95% interval of each importance; empty if it is not known.
    """

    sampler: str
    metric: str
    mode: str
    objectives: dict[str, str]
    trials: list[Trial]
    importance: dict[str, float]
    intervals: dict[str, list[float]]


def read_search(folder: Path) -> SearchState | None:
    """Read the search in a sweep's folder; ``None`` if it is not a search.

    Raises:
        DamagedError: if its file is damaged.
    """
    state = schema.read_checked(folder / SEARCH_FILE, schema.SEARCH)
    if state is None:
        return None
    trials = [Trial(**{field: trial[field] for field in Trial._fields if field in trial}) for trial in state["trials"]]
    search = SearchState(
        **{key: state[key] for key in ("sampler", "metric", "mode", "importance")},
        objectives=state.get("objectives") or {},
        trials=trials,
        intervals=state.get("importance_intervals") or {},
    )
    if any(len(each.values or []) != len(search.objectives) for each in trials if each.values is not None):
        raise DamagedError(f"{folder / SEARCH_FILE} is damaged: a trial must have a value for each objective")
    if any(len(interval) != 2 for interval in search.intervals.values()):
        raise DamagedError(f"{folder / SEARCH_FILE} is damaged: an interval must have two ends")
    return search


def read_objectives(folders: Iterable[Path]) -> dict[str, str]:
    """Return the objectives that the sweeps in several folders were all searched by; empty if there are none."""
    found: list[dict[str, str]] = []
    for folder in folders:
        try:
            search = read_search(folder)
        except DamagedError:  # the report says so
            search = None
        found.append(search.objectives if search else {})
    return found[0] if found and all(each == found[0] for each in found) else {}


def find_front(points: Sequence[Sequence[float]], modes: Iterable[str]) -> list[bool]:
    """Return for each point whether it is on the Pareto front.

    A point is on it if no other is as good in each value and better in one; of equal points all are.

    Args:
        points: each point's values; one with a value that is not finite, or without values, is not on the front.
        modes: for each value, whether a lower ("min") or a higher one ("max") is better.
    """
    signs = [1 if mode == "min" else -1 for mode in modes]
    costs = [tuple(sign * value for sign, value in zip(signs, point, strict=True)) for point in points]
    front: list[tuple[float, ...]] = []
    for cost in sorted({each for each in costs if each and all(map(math.isfinite, each))}):
        # One that is better than another was sorted before it.
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other in front):
            front.append(cost)
    kept = set(front)
    return [cost in kept for cost in costs]


def format_objective(name: str, values: Sequence[float]) -> str:
    """Return the mean ± standard deviation of an objective's values as text; a large number of things in full."""
    if len(values) == 1 and float(values[0]).is_integer() and not is_fraction(name):
        return f"{values[0]:,.0f}"
    return format_mean_std(name, values)


def select_front(search: SearchState) -> list[Trial]:
    """Return the trials on the Pareto front of a search by several objectives, by their first objective."""
    complete = [trial for trial in search.trials if trial.values]
    on_front = find_front([trial.values or [] for trial in complete], search.objectives.values())
    return sorted(
        (trial for trial, is_on in zip(complete, on_front, strict=True) if is_on),
        key=lambda trial: trial.values or [],
    )
