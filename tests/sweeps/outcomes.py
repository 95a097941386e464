"""What the jobs of a sweep came to, beside those of another one."""

import contextlib
import csv
import os
from pathlib import Path

from src.sweeps.store.jobs import Job, read_jobs
from tests.command_line import drop_seconds, is_identical, read_weights


def read_sweep_jobs(cwd: Path, name: str) -> list[Job]:
    return read_jobs(cwd / "outputs" / "sweeps" / name)


def assert_same_results(jobs: list[Job], others: list[Job]) -> None:
    """The jobs came to what the first of the others did, bit for bit."""
    assert 0 < len(jobs) <= len(others)
    for mine, other in zip(jobs, others, strict=False):
        assert drop_seconds(mine.metrics) == drop_seconds(other.metrics), mine.folder
        for name in ("last", "best"):
            assert is_identical(read_weights(mine.folder, name), read_weights(other.folder, name)), mine.folder


def read_statuses(cwd: Path, name: str) -> list[str]:
    return [job.status["status"] for job in read_sweep_jobs(cwd, name)]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_rows(cwd: Path, name: str) -> list[dict[str, str]]:
    """The rows of a sweep's results.csv."""
    return read_csv(cwd / "outputs" / "sweeps" / name / "results.csv")


def is_alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False
