"""The entries of a leaderboard: runs that differ only in their seeds or folds, and their order."""

import math
from typing import Any, NamedTuple

from src.core.formatting import format_setting_value
from src.storage.status import DAMAGED
from src.sweeps.store.aggregate import compute_mean
from src.sweeps.store.runs import Run, is_seed
from src.sweeps.store.searches import find_front


class LeaderboardEntry(NamedTuple):
    """A group of runs with the same settings and data, which differ only in their seeds or folds."""

    settings: dict[str, Any]
    runs: list[Run]

    @property
    def data(self) -> str | None:
        return self.runs[0].data

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.status == "finished"]

    @property
    def failed(self) -> int:
        return sum(run.status == "failed" for run in self.runs)

    @property
    def damaged(self) -> int:
        return sum(run.status == DAMAGED for run in self.runs)

    @property
    def pruned(self) -> int:
        return sum(run.status == "pruned" for run in self.runs)

    @property
    def left(self) -> int:
        """The number of runs that have neither finished nor failed, and are neither damaged nor pruned."""
        return len(self.runs) - len(self.finished) - self.failed - self.damaged - self.pruned

    @property
    def monitor(self) -> tuple[str | None, str | None] | None:
        """The monitored metric and its mode, both ``None`` without a validation set; ``None`` if not known yet."""
        known = [run.metrics for run in [*self.finished, *self.runs] if "monitor" in run.metrics]
        return (known[0]["monitor"], known[0].get("mode")) if known else None

    def collect_values(self, metric: str) -> list[float]:
        """Return a metric's values in the finished runs that have measured it; NaN for a value that is not finite."""
        found = [run.metrics[metric] for run in self.finished if metric in run.metrics]
        return [math.nan if value is None else value for value in found]


def group_repeats(runs: list[Run]) -> list[LeaderboardEntry]:
    """Group the runs that differ only in their seeds or folds."""
    entries: dict[tuple[str | None, str], LeaderboardEntry] = {}
    for run in runs:
        settings = {key: value for key, value in run.swept.items() if not is_seed(key) and key != "data.fold"}
        key = (run.data, str({name: format_setting_value(value) for name, value in settings.items()}))
        entries.setdefault(key, LeaderboardEntry(settings, [])).runs.append(run)
    return list(entries.values())


def rank_entries(
    entries: list[LeaderboardEntry], monitor: str | None, mode: str | None, objectives: dict[str, str]
) -> list[LeaderboardEntry]:
    """Sort entries by their mean, best first; ties go to the entry with more runs, then to the earlier one.

    Entries on the Pareto front of the objectives come before the others.
    """

    def get_sort_key(entry: LeaderboardEntry) -> tuple[bool, bool, float, int, int]:
        # Entries without finished runs come last, those pruned latest first; before them those with no finite mean.
        value = compute_mean(entry.collect_values(monitor)) if monitor else 0.0
        finite = math.isfinite(value)
        sign = -1 if mode == "max" else 1
        epochs = max((run.metrics.get("epochs", 0) for run in entry.runs if run.status == "pruned"), default=0)
        return (not entry.finished, not finite, sign * value if finite else 0.0, -len(entry.finished), -epochs)

    ranked = sorted(entries, key=get_sort_key)
    pairs = list(zip(ranked, find_entries_on_front(ranked, objectives), strict=True))
    return [entry for kept in (True, False) for entry, is_on_front in pairs if is_on_front == kept]


def find_entries_on_front(entries: list[LeaderboardEntry], objectives: dict[str, str]) -> list[bool]:
    """Return for each entry whether its means are on the Pareto front of the objectives; without any none is."""
    means = [[compute_mean(entry.collect_values(name)) for name in objectives] for entry in entries]
    return find_front(means, objectives.values())
