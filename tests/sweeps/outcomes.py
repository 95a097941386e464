"""What the jobs of a sweep came to, beside those of another one."""

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
