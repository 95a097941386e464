"""What is said of a sweep's jobs before it starts and after it has ended."""

from collections import Counter
from pathlib import Path

from src.storage import schema
from src.storage.records import DAMAGED, git
from src.storage.schema import DamagedError
from src.sweeps.store.jobs import Job, read_jobs


def damaged(folder: Path) -> list[str]:
    """Return a line for each job in a sweep's folder that is damaged: what is wrong, and what becomes of it."""
    found = []
    for job in read_jobs(folder):
        status = job.status
        if job.damage is not None:
            found.append(f"{job.damage}; its folder stays as it is, and the job begins anew in another")
        elif status["status"] == DAMAGED:
            found.append(f"{status['message']}; the job {'goes on' if has_checkpoint(job) else 'begins anew'}")
    return found


def introduction(folder: Path, jobs: list[Job], left: list[Job]) -> str:
    """What is there already and what will be done, in one line."""
    numbers = {job.number for job in left}
    finished = [job for job in jobs if job.number not in numbers]
    counts = Counter(stage(job) for job in left)
    parts = [f"{len(finished)} finished before{commits(finished)}"] if finished else []
    parts += [f"{count} {what}" for what, count in counts.items()]
    return f"{folder}: {len(jobs)} job{'s'[: len(jobs) != 1]}: {', '.join(parts)}"


def stage(job: Job) -> str:
    """How far an unfinished job came, in words."""
    status = job.status["status"]
    if status == "failed":
        return "failed, to try again"
    return "to go on with" if has_checkpoint(job) else "to do"


def has_checkpoint(job: Job) -> bool:
    """Whether there is something that a job goes on from."""
    return (job.folder / "checkpoints" / "last.ckpt").is_file() or job.stack is not None


def commits(jobs: list[Job]) -> str:
    """The commits that jobs ran with, and a word if it is not the present one."""
    found = {commit for job in jobs if (commit := commit_of(job))}
    if not found:
        return ""
    now = git("rev-parse", "HEAD")
    other = "" if found == {now} else f"; now it is {str(now)[:7]}: rerun=all runs them again"
    return f" (commit {', '.join(sorted(commit[:7] for commit in found))}{other})"


def commit_of(job: Job) -> str | None:
    """The commit that a job ran with; ``None`` if that is not known."""
    try:
        told = schema.read(job.folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError:  # the report tells
        return None
    return told.get("git", {}).get("commit")


def failures(jobs: list[Job]) -> list[str]:
    """A line for each job that failed: where it lies, and why."""
    stages = [(job, job.status) for job in jobs]
    return [
        f"failed: {job.folder} ({status['reason']}): {status['message']}"
        for job, status in stages
        if status["status"] == "failed"
    ]


def unfinished(jobs: list[Job]) -> str:
    """How many jobs failed and how many did not come to their end; nothing if all have finished."""
    counts = Counter(job.status["status"] for job in jobs)
    failed, done = counts["failed"], counts["finished"]
    rest = len(jobs) - failed - done
    told = [f"{count} {what}" for count, what in ((failed, "failed"), (rest, "unfinished")) if count]
    return f"{' and '.join(told)} of {len(jobs)} jobs" if told else ""
