"""How far a sweep is: counts, running jobs, the best so far and the time left."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from src.storage import schema
from src.storage.records import read_metrics
from src.storage.schema import DamagedError

KINDS = ("done", "running", "failed", "interrupted", "left")  # what can have become of a job
SECONDS_BETWEEN_LOOKS = 2.0  # into a running job's folder


class Best(NamedTuple):
    """The best job by one metric so far."""

    number: int
    monitor: str
    mode: str
    value: float

    @property
    def rank(self) -> tuple[float, int]:
        """Lower is better; of equals the first."""
        return (self.value if self.mode == "min" else -self.value, self.number)


@dataclass
class Running:
    """A job under way: its folder, when it began and when its folder was last looked into, and how far it was."""

    folder: Path
    began: float
    looked: float = -math.inf
    epochs: str = ""

    def look(self, now: float) -> None:
        """Read how many epochs it has trained, unless that was done a moment ago."""
        if now - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = now
        if epochs := read_metrics(self.folder).get("epochs"):
            most = most_epochs(self.folder)
            self.epochs = f"epoch {epochs}/{most}" if most else f"epoch {epochs}"


def most_epochs(folder: Path) -> int | None:
    """How many epochs a job trains at most; ``None`` if that is not limited or known."""
    try:
        told = schema.read(folder / "job.json", schema.JOB) or {"settings": {}}
    except DamagedError:
        return None
    most = told["settings"].get("trainer.max_epochs")
    return most if isinstance(most, int) and most > 0 else None


class Tally:
    """How far a sweep is; of jobs that have ended it keeps counts and the best.

    Args:
        names: the title of each job by its number.
        finished_before: how many of them earlier starts have finished.
        at_once: how many run at once.
        clock: seconds that only grow.
    """

    def __init__(self, names: dict[int, str], finished_before: int, at_once: int, clock: Callable[[], float]) -> None:
        self.names, self.finished_before, self.at_once, self.clock = names, finished_before, at_once, clock
        self.expected = 0  # jobs there will be at least, where not all are known from the beginning
        self.counts = Counter(done=finished_before)
        self.running: dict[int, Running] = {}
        self.unfinished: dict[int, str] = {}  # what became of jobs that ended before they could finish
        self.bests: dict[tuple[str, str], Best] = {}
        self.began = clock()
        self.seconds_of_jobs = 0.0  # of all that have ended in this start

    @property
    def total(self) -> int:
        return max(len(self.names), self.expected)

    @property
    def ended(self) -> int:
        return self.counts.total()

    @property
    def parts(self) -> dict[str, int]:
        """How many jobs are of each kind; together all there are."""
        left = self.total - self.ended - len(self.running)
        return {**dict.fromkeys(KINDS, 0), **self.counts, "running": len(self.running), "left": left}

    @property
    def seconds(self) -> float:
        """Since this start."""
        return self.clock() - self.began

    def label(self, number: int) -> str:
        """A job's number and title."""
        return f"{number} {self.names[number]}".strip()

    def add(self, names: dict[int, str], finished_before: int) -> None:
        """Count more jobs in."""
        self.names |= names
        self.finished_before += finished_before
        self.counts["done"] += finished_before

    def start(self, number: int, folder: Path) -> None:
        self._take_back(number)
        self.running[number] = Running(folder, self.clock())

    def end(self, number: int, status: str, metrics: dict[str, Any]) -> Running | None:
        """Count a job that has ended; returns what was known of it while it ran."""
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
        """Count a job no more that has ended before it could finish, and is run again."""
        if kind := self.unfinished.pop(number, None):
            self.counts[kind] -= 1

    def rate(self, number: int, metrics: dict[str, Any]) -> None:
        """See whether a finished job is the best by its monitored metric."""
        value, monitor, mode = metrics.get("best"), metrics.get("monitor"), metrics.get("mode")
        if value is not None and monitor is not None and mode is not None:
            mine = Best(number, monitor, mode, value)
            self.bests[monitor, mode] = min(mine, self.bests.get((monitor, mode), mine), key=lambda best: best.rank)

    def time_left(self) -> float | None:
        """Seconds to the end if jobs go on to take what those that ended took on average; ``None``: no telling."""
        ended, left = self.ended - self.finished_before, self.parts["left"]
        if not ended or not (left or self.running):
            return None
        mean, now = self.seconds_of_jobs / ended, self.clock()
        under_way = [max(mean - (now - job.began), 0.0) for job in self.running.values()]
        at_once = min(self.at_once, left + len(self.running))
        return max(*under_way, (sum(under_way) + mean * left) / at_once, 0.0)
