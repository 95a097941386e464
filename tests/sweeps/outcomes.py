"""What the jobs of a sweep came to, beside those of another one."""

from pathlib import Path

from src.sweeps.store.jobs import Job, read_jobs
from tests.command_line import same, timeless, weights


def jobs_of(cwd: Path, name: str) -> list[Job]:
    return read_jobs(cwd / "outputs" / "sweeps" / name)


def assert_the_same_results(jobs: list[Job], others: list[Job]) -> None:
    """The jobs came to what the first of the others did, bit for bit."""
    assert 0 < len(jobs) <= len(others)
    for mine, other in zip(jobs, others, strict=False):
        assert timeless(mine.metrics) == timeless(other.metrics), mine.folder
        for name in ("last", "best"):
            assert same(weights(mine.folder, name), weights(other.folder, name)), mine.folder
