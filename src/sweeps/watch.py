"""What goes on in a sweep, shown and written down."""

import time
from pathlib import Path
from typing import Self

from src.sweeps.display import Display
from src.sweeps.jobs import Job
from src.sweeps.results import write_results
from src.sweeps.runs import read_runs

PAUSE = 1.0  # seconds at least between two versions of results.csv


class Watch:
    """Shows what becomes of a sweep's jobs, and keeps ``results.csv`` current.

    Args:
        folder: the sweep's.
        numbers: of the jobs that are asked for, finished ones too.
        at_once: how many run at once.
    """

    def __init__(self, folder: Path, numbers: set[int], at_once: int) -> None:
        runs = [run for run in read_runs(folder) if run.number in numbers]
        finished = [run for run in runs if run.status == "finished"]
        self.folder, self.news, self.written = folder, True, -PAUSE
        self.display = Display({run.number: run.title for run in runs}, len(finished), at_once)
        for run in finished:
            self.display.known(run.number, run.metrics)

    def __enter__(self) -> Self:
        self.display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.display.__exit__(*error)
        write_results(self.folder)

    def started(self, job: Job) -> None:
        self.display.started(job.number, job.folder)

    def ended(self, job: Job) -> None:
        self.news = True
        self.display.ended(job.number, **job.status, metrics=job.metrics)

    def ticked(self) -> None:
        """To be called a few times a second."""
        now = time.monotonic()
        if self.news and now >= self.written + PAUSE:
            write_results(self.folder)
            self.news, self.written = False, now
        self.display.refresh()
