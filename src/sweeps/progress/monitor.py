"""The monitor of a running sweep: it updates the live display and ``results.csv``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from src.core.errors import InputError
from src.sweeps.progress.live import Display
from src.sweeps.store.endings import to_failed_status
from src.sweeps.store.jobs import Job
from src.sweeps.store.results import lock_results, write_results
from src.sweeps.store.runs import SweepReader

SECONDS_BETWEEN_WRITES = 1.0  # minimum seconds between two versions of results.csv


class SweepMonitor:
    """A monitor of a sweep's jobs: shows their progress and keeps ``results.csv`` up to date.

    Args:
        folder: the sweep's folder.
        check: raises an error if the sweep must stop.
        expected: the number of jobs that there will be, where not all are known at the start.
    """

    def __init__(self, folder: Path, check: Callable[[], None], expected: int = 0) -> None:
        self.folder, self.reader, self.check = folder, SweepReader(folder), check
        self.has_changes, self.last_written = False, -SECONDS_BETWEEN_WRITES
        self.display = Display({}, finished_before=0, parallel_jobs=1)
        self.display.progress.min_jobs = expected

    def __enter__(self) -> Self:
        self.display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.display.__exit__(*error)

    def add_jobs(self, jobs: list[Job]) -> None:
        """Add jobs that will run or have finished already."""
        new = {job.number for job in jobs} - set(self.display.progress.titles)
        runs = [run for run in self.reader.read() if run.number in new]
        finished = [run for run in runs if run.status == "finished"]
        self.display.progress.add_jobs({run.number: run.title for run in runs}, len(finished))
        for run in finished:
            self.display.add_finished(run.number, run.metrics)
        self.has_changes = True

    def set_parallel_jobs(self, count: int) -> None:
        """Set the number of jobs that run at the same time."""
        self.display.progress.parallel_jobs = count

    def record_start(self, job: Job) -> None:
        self.display.record_start(job.number, job.folder)

    def record_end(self, job: Job, status: dict[str, Any]) -> None:
        self.has_changes = True
        self.display.record_end(job.number, **status, metrics=job.metrics)

    def record_pruned(self, job: Job) -> None:
        """Count a job that does not go on; no line is printed for it."""
        self.has_changes = True
        self.display.progress.record_end(job.number, "pruned", {})

    def update(self) -> None:
        """Check the sweep, update ``results.csv`` and redraw the display; to be called a few times a second.

        Raises:
            InputError: if the sweep must stop, or the disk is full.
        """
        self.check()
        now = time.monotonic()
        if self.has_changes and now >= self.last_written + SECONDS_BETWEEN_WRITES:
            try:
                with lock_results(self.folder):
                    write_results(self.folder, self.reader.read())
            except (InputError, OSError) as error:  # tried again later; the end of the sweep reports a lasting error
                to_failed_status(error)
            self.has_changes, self.last_written = False, now
        self.display.redraw()
