"""Messages about a sweep's jobs, for before its start and after its end."""

from collections import Counter
from pathlib import Path

from src.storage import schema
from src.storage.records import run_git
from src.storage.schema import DamagedError
from src.storage.status import DAMAGED
from src.sweeps.store.jobs import Job, read_jobs


def describe_damaged_jobs(folder: Path) -> list[str]:
    """Return a line for each damaged job in a sweep's folder: the damage, and how the job will run again."""
    lines = []
    for job in read_jobs(folder):
        status = job.status
        if job.damage is not None:
            lines.append(f"{job.damage}; its folder is kept, and the job starts again in a new one")
        elif status["status"] == DAMAGED:
            lines.append(f"{status['message']}; the job {'resumes' if _has_checkpoint(job) else 'starts again'}")
    return lines


def summarize_pending_jobs(folder: Path, jobs: list[Job], pending: list[Job]) -> str:
    """Summarize in one line which of a sweep's jobs have finished and which will run."""
    numbers = {job.number for job in pending}
    finished = [job for job in jobs if job.number not in numbers]
    counts = Counter(_describe_stage(job) for job in pending)
    parts = [f"{len(finished)} finished before{_describe_commits(finished)}"] if finished else []
    parts += [f"{count} {stage_text}" for stage_text, count in counts.items()]
    return f"{folder}: {len(jobs)} job{'s'[: len(jobs) != 1]}: {', '.join(parts)}"


def _describe_stage(job: Job) -> str:
    """Describe in words how an unfinished job will run."""
    status = job.status["status"]
    if status == "failed":
        return "failed, to try again"
    if status == "pruned":
        return "pruned before"
    return "to resume" if _has_checkpoint(job) else "to do"


def _has_checkpoint(job: Job) -> bool:
    """Return True if a job can be resumed."""
    return (job.folder / "checkpoints" / "last.ckpt").is_file() or job.stack is not None


def _describe_commits(jobs: list[Job]) -> str:
    """Describe the commits that jobs ran with, and warn if they differ from the current one."""
    hashes = {commit for job in jobs if (commit := _read_commit(job))}
    if not hashes:
        return ""
    current = run_git("rev-parse", "HEAD")
    hint = "" if hashes == {current} else f"; the current commit is {str(current)[:7]}: rerun=all runs them again"
    return f" (commit {', '.join(sorted(commit[:7] for commit in hashes))}{hint})"


def _read_commit(job: Job) -> str | None:
    """Return the commit that a job ran with; ``None`` if it is unknown."""
    try:
        provenance = schema.read_checked(job.folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError:  # the report lists it
        return None
    return provenance.get("git", {}).get("commit")


def describe_failures(jobs: list[Job]) -> list[str]:
    """Return a line for each failed job: its folder and the reason."""
    statuses = [(job, job.status) for job in jobs]
    return [
        f"failed: {job.folder} ({status['reason']}): {status['message']}"
        for job, status in statuses
        if status["status"] == "failed"
    ]


def summarize_unfinished(jobs: list[Job]) -> str:
    """Describe how many jobs failed and how many are unfinished; empty if all have finished or are pruned."""
    counts = Counter(job.status["status"] for job in jobs)
    failed, done = counts["failed"], counts["finished"] + counts["pruned"]
    rest = len(jobs) - failed - done
    parts = [f"{count} {state}" for count, state in ((failed, "failed"), (rest, "unfinished")) if count]
    return f"{' and '.join(parts)} of {len(jobs)} jobs" if parts else ""
