"""The monitor of a running sweep: it updates the live display and ``results.csv``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from src.core.errors import InputError
from src.sweeps.progress.live import Display
from src.sweeps.store.endings import blame
from src.sweeps.store.jobs import Job
from src.sweeps.store.leaderboard import write_results
from src.sweeps.store.runs import read_runs

PAUSE = 1.0  # minimum seconds between two versions of results.csv


class Watch:
    """A monitor of a sweep's jobs: shows their progress and keeps ``results.csv`` up to date.

    Args:
        folder: the sweep's folder.
        check: raises an error if the sweep must stop.
        expected: the number of jobs that there will be, where not all are known at the start.
    """

    def __init__(self, folder: Path, check: Callable[[], None], expected: int = 0) -> None:
        self.folder, self.check, self.news, self.written = folder, check, False, -PAUSE
        self.display = Display({}, finished_before=0, at_once=1)
        self.display.tally.expected = expected

    def __enter__(self) -> Self:
        self.display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.display.__exit__(*error)

    def expect(self, jobs: list[Job]) -> None:
        """Add jobs that will run or have finished already."""
        new = {job.number for job in jobs} - set(self.display.tally.names)
        runs = [run for run in read_runs(self.folder) if run.number in new]
        finished = [run for run in runs if run.status == "finished"]
        self.display.tally.add({run.number: run.title for run in runs}, len(finished))
        for run in finished:
            self.display.known(run.number, run.metrics)
        self.news = True

    def at_once(self, count: int) -> None:
        """Set the number of jobs that run at the same time."""
        self.display.tally.at_once = count

    def started(self, job: Job) -> None:
        self.display.started(job.number, job.folder)

    def ended(self, job: Job, status: dict[str, Any]) -> None:
        self.news = True
        self.display.ended(job.number, **status, metrics=job.metrics)

    def ticked(self) -> None:
        """Check the sweep, update ``results.csv`` and redraw the display; to be called a few times a second.

        Raises:
            InputError: if the sweep must stop, or the disk is full.
        """
        self.check()
        now = time.monotonic()
        if self.news and now >= self.written + PAUSE:
            try:
                write_results(self.folder)
            except (InputError, OSError) as error:  # tried again later; the end of the sweep reports a lasting error
                blame(error)
            self.news, self.written = False, now
        self.display.refresh()
