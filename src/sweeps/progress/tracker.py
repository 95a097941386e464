"""The progress of a sweep: counts, running jobs, the best job so far and the time left."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from src.storage import schema
from src.storage.records import read_metrics
from src.storage.schema import DamagedError

KINDS = ("done", "running", "failed", "interrupted", "pruned", "left")  # the states of a job
SECONDS_BETWEEN_READS = 2.0  # between two reads of a running job's metrics


class BestJob(NamedTuple):
    """The best job by one metric so far."""

    number: int
    monitor: str
    mode: str
    value: float

    @property
    def sort_key(self) -> tuple[float, int]:
        """The key to compare jobs by: lower is better, and the job with the lower number wins a tie."""
        return (self.value if self.mode == "min" else -self.value, self.number)


@dataclass
class RunningJob:
    """A running job.

    Attributes:
        folder: the job's folder.
        started_at: the clock's time at its start.
        last_read: the clock's time when its metrics were last read.
        epochs: its progress then, for example "epoch 3/10".
    """

    folder: Path
    started_at: float
    last_read: float = -math.inf
    epochs: str = ""

    def read_epochs(self, now: float) -> None:
        """Read the number of trained epochs, unless it was read less than ``SECONDS_BETWEEN_READS`` ago."""
        if now - self.last_read < SECONDS_BETWEEN_READS:
            return
        self.last_read = now
        if epochs := read_metrics(self.folder).get("epochs"):
            most = _read_max_epochs(self.folder)
            self.epochs = f"epoch {epochs}/{most}" if most else f"epoch {epochs}"


def _read_max_epochs(folder: Path) -> int | None:
    """Return the maximum number of epochs of a job; ``None`` if it is unlimited or unknown."""
    try:
        job = schema.read_checked(folder / "job.json", schema.JOB) or {"settings": {}}
    except DamagedError:
        return None
    limit = job["settings"].get("trainer.max_epochs")
    return limit if isinstance(limit, int) and limit > 0 else None


class SweepProgress:
    """The progress of a sweep; of jobs that have ended it keeps only the counts and the best one.

    Args:
        titles: the title of each job by its number.
        finished_before: the number of jobs that earlier starts of the sweep finished.
        parallel_jobs: the number of jobs that run at the same time.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, titles: dict[int, str], finished_before: int, parallel_jobs: int, clock: Callable[[], float]
    ) -> None:
        self.titles, self.finished_before = titles, finished_before
        self.parallel_jobs, self.clock = parallel_jobs, clock
        self.min_jobs = 0  # minimum number of jobs, where not all are known at the start
        self.counts = Counter(done=finished_before)
        self.running: dict[int, RunningJob] = {}
        self.unfinished: dict[int, str] = {}  # kind of each job that failed or was interrupted, by number
        self.best_jobs: dict[tuple[str, str], BestJob] = {}
        self.started_at = clock()
        self.has_rungs = False  # True once a job has paused: then the mean time of a job says little about the others
        self.total_job_seconds = 0.0  # summed over all jobs that ended since this start

    @property
    def total(self) -> int:
        return max(len(self.titles), self.min_jobs)

    @property
    def ended_count(self) -> int:
        return self.counts.total()

    @property
    def counts_by_kind(self) -> dict[str, int]:
        """The number of jobs of each kind; they add up to ``total``."""
        left = self.total - self.ended_count - len(self.running)
        return {**dict.fromkeys(KINDS, 0), **self.counts, "running": len(self.running), "left": left}

    @property
    def elapsed_seconds(self) -> float:
        """The seconds since this start of the sweep."""
        return self.clock() - self.started_at

    def get_label(self, number: int) -> str:
        """Return a job's number and title."""
        return f"{number} {self.titles[number]}".strip()

    def add_jobs(self, titles: dict[int, str], finished_before: int) -> None:
        """Add jobs to the sweep, of which ``finished_before`` have finished already."""
        self.titles |= titles
        self.finished_before += finished_before
        self.counts["done"] += finished_before

    def record_start(self, number: int, folder: Path) -> None:
        self._remove_unfinished(number)
        self.running[number] = RunningJob(folder, self.clock())

    def record_end(self, number: int, status: str, metrics: dict[str, Any]) -> RunningJob | None:
        """Count a job that has ended and return its record as a running job, if there was one."""
        job = self.running.pop(number, None)
        self.total_job_seconds += self.clock() - job.started_at if job else 0.0
        self._remove_unfinished(number)
        if status == "paused":  # it goes on later, or is pruned
            self.has_rungs = True
            return job
        kind = {"finished": "done", "interrupted": "interrupted", "pruned": "pruned"}.get(status, "failed")
        self.counts[kind] += 1
        if kind == "done":
            self.update_best(number, metrics)
        else:
            self.unfinished[number] = kind
        return job

    def _remove_unfinished(self, number: int) -> None:
        """Remove an unfinished job from the counts, because it runs again."""
        if kind := self.unfinished.pop(number, None):
            self.counts[kind] -= 1

    def update_best(self, number: int, metrics: dict[str, Any]) -> None:
        """Update the best job with a finished one, by its monitored metric."""
        value, monitor, mode = metrics.get("best"), metrics.get("monitor"), metrics.get("mode")
        if value is not None and monitor is not None and mode is not None:
            found = BestJob(number, monitor, mode, value)
            best = self.best_jobs.get((monitor, mode), found)
            self.best_jobs[monitor, mode] = min(best, found, key=lambda job: job.sort_key)

    def estimate_time_left(self) -> float | None:
        """Estimate the seconds to the end of the sweep; ``None`` if that is not possible.

        Each job is assumed to take the mean time of the jobs that have ended since this start.
        """
        ended, left = self.ended_count - self.finished_before, self.counts_by_kind["left"]
        if not ended or self.has_rungs or not (left or self.running):
            return None
        # At least the longest remaining time of a running job; beyond that, the work divides among the parallel jobs.
        mean, now = self.total_job_seconds / ended, self.clock()
        remaining = [max(mean - (now - job.started_at), 0.0) for job in self.running.values()]
        at_once = min(self.parallel_jobs, left + len(self.running))
        return max(*remaining, (sum(remaining) + mean * left) / at_once, 0.0)
