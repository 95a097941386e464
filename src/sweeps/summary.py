"""What is said of a sweep's jobs before it starts and after it has ended."""

from collections import Counter
from pathlib import Path

from src.core.files import read_json
from src.records import git
from src.sweeps.jobs import Job


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
    return "to go on with" if (job.folder / "checkpoints" / "last.ckpt").is_file() or job.stack else "to do"


def commits(jobs: list[Job]) -> str:
    """The commits that jobs ran with, and a word if it is not the present one."""
    found = {(read_json(job.folder / "provenance.json") or {}).get("git", {}).get("commit") for job in jobs} - {None}
    if not found:
        return ""
    now = git("rev-parse", "HEAD")
    other = "" if found == {now} else f"; now it is {str(now)[:7]}: rerun=all runs them again"
    return f" (commit {', '.join(sorted(commit[:7] for commit in found))}{other})"


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
