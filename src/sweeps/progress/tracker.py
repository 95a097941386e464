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

KINDS = ("done", "running", "failed", "interrupted", "left")  # the states of a job
SECONDS_BETWEEN_LOOKS = 2.0  # between two reads of a running job's metrics


class Best(NamedTuple):
    """The best job by one metric so far."""

    number: int
    monitor: str
    mode: str
    value: float

    @property
    def rank(self) -> tuple[float, int]:
        """The key to compare jobs by: lower is better, and the job with the lower number wins a tie."""
        return (self.value if self.mode == "min" else -self.value, self.number)


@dataclass
class Running:
    """A running job.

    Attributes:
        folder: the job's folder.
        began: the clock's time at its start.
        looked: the clock's time when its metrics were last read.
        epochs: its progress then, for example "epoch 3/10".
    """

    folder: Path
    began: float
    looked: float = -math.inf
    epochs: str = ""

    def look(self, now: float) -> None:
        """Read the number of trained epochs, unless it was read less than ``SECONDS_BETWEEN_LOOKS`` ago."""
        if now - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = now
        if epochs := read_metrics(self.folder).get("epochs"):
            most = most_epochs(self.folder)
            self.epochs = f"epoch {epochs}/{most}" if most else f"epoch {epochs}"


def most_epochs(folder: Path) -> int | None:
    """Return the maximum number of epochs of a job; ``None`` if it is unlimited or unknown."""
    try:
        job = schema.read(folder / "job.json", schema.JOB) or {"settings": {}}
    except DamagedError:
        return None
    limit = job["settings"].get("trainer.max_epochs")
    return limit if isinstance(limit, int) and limit > 0 else None


class Tally:
    """The progress of a sweep; of jobs that have ended it keeps only the counts and the best one.

    Args:
        names: the title of each job by its number.
        finished_before: the number of jobs that earlier starts of the sweep finished.
        at_once: the number of jobs that run at the same time.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, names: dict[int, str], finished_before: int, at_once: int, clock: Callable[[], float]) -> None:
        self.names, self.finished_before, self.at_once, self.clock = names, finished_before, at_once, clock
        self.expected = 0  # minimum number of jobs, where not all are known at the start
        self.counts = Counter(done=finished_before)
        self.running: dict[int, Running] = {}
        self.unfinished: dict[int, str] = {}  # kind of each job that failed or was interrupted, by number
        self.bests: dict[tuple[str, str], Best] = {}
        self.began = clock()
        self.seconds_of_jobs = 0.0  # summed over all jobs that ended since this start

    @property
    def total(self) -> int:
        return max(len(self.names), self.expected)

    @property
    def ended(self) -> int:
        return self.counts.total()

    @property
    def parts(self) -> dict[str, int]:
        """The number of jobs of each kind; they add up to ``total``."""
        left = self.total - self.ended - len(self.running)
        return {**dict.fromkeys(KINDS, 0), **self.counts, "running": len(self.running), "left": left}

    @property
    def seconds(self) -> float:
        """The seconds since this start of the sweep."""
        return self.clock() - self.began

    def label(self, number: int) -> str:
        """Return a job's number and title."""
        return f"{number} {self.names[number]}".strip()

    def add(self, names: dict[int, str], finished_before: int) -> None:
        """Add jobs to the sweep, of which ``finished_before`` have finished already."""
        self.names |= names
        self.finished_before += finished_before
        self.counts["done"] += finished_before

    def start(self, number: int, folder: Path) -> None:
        self._take_back(number)
        self.running[number] = Running(folder, self.clock())

    def end(self, number: int, status: str, metrics: dict[str, Any]) -> Running | None:
        """Count a job that has ended and return its record as a running job, if there was one."""
        job = self.running.pop(number, None)
        self.seconds_of_jobs += self.clock() - job.began if job else 0.0
        self._take_back(number)
        kind = {"finished": "done", "interrupted": "interrupted"}.get(status, "failed")
        self.counts[kind] += 1
        if kind == "done":
            self.rate(number, metrics)
        else:
            self.unfinished[number] = kind
        return job

    def _take_back(self, number: int) -> None:
        """Remove an unfinished job from the counts, because it runs again."""
        if kind := self.unfinished.pop(number, None):
            self.counts[kind] -= 1

    def rate(self, number: int, metrics: dict[str, Any]) -> None:
        """Update the best job with a finished one, by its monitored metric."""
        value, monitor, mode = metrics.get("best"), metrics.get("monitor"), metrics.get("mode")
        if value is not None and monitor is not None and mode is not None:
            found = Best(number, monitor, mode, value)
            self.bests[monitor, mode] = min(found, self.bests.get((monitor, mode), found), key=lambda best: best.rank)

    def time_left(self) -> float | None:
        """Estimate the seconds to the end of the sweep; ``None`` if that is not possible.

        Each job is assumed to take the mean time of the jobs that have ended since this start.
        """
        ended, left = self.ended - self.finished_before, self.parts["left"]
        if not ended or not (left or self.running):
            return None
        # At least the longest remaining time of a running job; beyond that, the work divides among the parallel jobs.
        mean, now = self.seconds_of_jobs / ended, self.clock()
        remaining = [max(mean - (now - job.began), 0.0) for job in self.running.values()]
        at_once = min(self.at_once, left + len(self.running))
        return max(*remaining, (sum(remaining) + mean * left) / at_once, 0.0)
