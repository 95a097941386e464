"""How jobs begin and end where their folders are touched meanwhile: what goes wrong costs that job, and is told."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from src.core.disk import StorageError, find_fault
from src.core.errors import InputError
from src.storage.files import read_json, sync_together
from src.storage.schema import DamagedError
from src.sweeps.store.jobs import LOCK, NOTES, Job, read_job, write_notes

Status = dict[str, Any]  # of a job: status, reason and message
LOST = "folder lost"  # the reason where a job's folder was removed or renamed
KILLS = ("killed", "lost", LOST)  # reasons for a failure that lie outside of a job
PATIENCE = 5.0  # seconds for a process of an earlier start, whose parent was killed, to end


def make_ready(job: Job) -> Status | None:
    """Let a job begin, or go on from where it was kept.

    Returns:
        If it cannot, the status that tells why.
    """
    try:
        if not _is_in_place(job):
            return _lose(job)
        with FileLock(job.folder / LOCK, timeout=PATIENCE):
            job.make_ready()
    except Timeout:  # what is written in its folder is for that process to say
        return _failed("held", "another process is at it")
    except (OSError, InputError) as error:
        return blame(error)
    return None


def let_wait(job: Job) -> Status | None:
    """Note that a job waits, to be made ready where it is done; as `make_ready`."""
    waiting = {"status": "waiting", "reason": None, "message": None}
    status = note_end(job, lambda _: waiting)
    return None if status == waiting else status


def prepared(
    jobs: Sequence[Job], prepare: Callable[[Job], Status | None], ended: Callable[[Job, Status], None]
) -> list[Job]:
    """Prepare jobs by `make_ready` or `let_wait`; return those that can be done, and tell how the others ended."""
    troubles = [(job, prepare(job)) for job in jobs]
    for job, trouble in troubles:
        if trouble:
            ended(job, trouble)
    return [job for job, trouble in troubles if not trouble]


def note_end(job: Job, complete: Callable[[Status], Status] = lambda status: status) -> Status:
    """Write into a job's folder how it ended.

    Args:
        job: which.
        complete: makes of the status that its own process has left the one that it ended with.

    Returns:
        The status, whether it could be written or not.
    """
    try:
        if not _is_in_place(job):
            return _lose(job)
        left = job.status
        if (status := complete(left)) != left:
            job.write_status(**status)
        return status
    except (OSError, InputError) as error:
        return blame(error)


def where_it_lies(job: Job) -> Job:
    """Return a job with the folder that it has now, which someone may have renamed; told in it how it ended."""
    note_end(job)
    return job if job.folder.is_dir() else _renamed(job) or job


def is_over(job: Job) -> bool:
    """Return whether a job has come to its end by itself: not if its process was killed, or its folder lost."""
    status = job.status
    return status["status"] == "finished" or (status["status"] == "failed" and status["reason"] not in KILLS)


@contextmanager
def written_together() -> Iterator[None]:
    """Do as `sync_together` for many jobs; one whose folder is lost at this very moment will be found out."""
    try:
        with sync_together():
            yield
    except StorageError as error:
        blame(error)


def _is_in_place(job: Job) -> bool:
    """Return whether a job's folder is where it was; in it make notes good that someone has changed."""
    if not job.folder.is_dir():
        return False
    try:
        noted = read_job(job.folder)
    except DamagedError:
        noted = None
    if noted is None or (noted.number, noted.identity) != (job.number, job.identity):
        write_notes(job)
    return True


def _lose(job: Job) -> Status:
    """Note that a job's folder was removed or renamed; one that was renamed keeps what it has."""
    renamed = _renamed(job)
    if renamed is None:
        write_notes(job)
    elif (status := renamed.status)["status"] == "finished":
        return status
    status = _failed(LOST, f"its folder was {'renamed' if renamed else 'removed'} meanwhile")
    (renamed or job).write_status(**status)
    return status


def _renamed(job: Job) -> Job | None:
    """Return the job with the folder of another name that has its notes; ``None`` if there is none."""
    for path in job.folder.parent.glob(f"*/{NOTES}"):
        if (read_json(path) or {}).get("identity") == job.identity:
            return job._replace(folder=path.parent)
    return None


def blame(error: Exception) -> Status:
    """Return the status of a job that an error keeps from being done.

    Raises:
        StorageError: if the error is the disk's, and keeps all jobs from being done.
    """
    fault = find_fault(error)
    if fault and fault.whole_disk:
        raise fault
    return _failed("error", str(fault or error))


def _failed(reason: str, message: str) -> Status:
    return {"status": "failed", "reason": reason, "message": message}
