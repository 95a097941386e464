"""What goes on in a sweep, shown and written down."""

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

PAUSE = 1.0  # seconds at least between two versions of results.csv


class Watch:
    """Shows what becomes of a sweep's jobs, and keeps ``results.csv`` current.

    Args:
        folder: the sweep's.
        check: raises an error if the sweep must not go on.
        expected: how many jobs there will be, where not all are known from the beginning.
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
        """Jobs that will be done, or are finished already."""
        new = {job.number for job in jobs} - set(self.display.tally.names)
        runs = [run for run in read_runs(self.folder) if run.number in new]
        finished = [run for run in runs if run.status == "finished"]
        self.display.tally.add({run.number: run.title for run in runs}, len(finished))
        for run in finished:
            self.display.known(run.number, run.metrics)
        self.news = True

    def at_once(self, count: int) -> None:
        """So many jobs run at once."""
        self.display.tally.at_once = count

    def started(self, job: Job) -> None:
        self.display.started(job.number, job.folder)

    def ended(self, job: Job, status: dict[str, Any]) -> None:
        self.news = True
        self.display.ended(job.number, **status, metrics=job.metrics)

    def ticked(self) -> None:
        """Keep up with what goes on; to be called a few times a second.

        Raises:
            InputError: if the sweep must not go on, or the disk takes no more.
        """
        self.check()
        now = time.monotonic()
        if self.news and now >= self.written + PAUSE:
            try:
                write_results(self.folder)
            except (InputError, OSError) as error:  # it is tried again; in the end it is told
                blame(error)
            self.news, self.written = False, now
        self.display.refresh()
