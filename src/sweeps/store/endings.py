"""Starts and ends of jobs whose folders may have been changed by users: an error fails that job only."""

from collections.abc import Callable, Sequence

from filelock import FileLock, Timeout

from src.core.disk import find_storage_error
from src.core.errors import InputError
from src.storage.files import read_json
from src.storage.schema import DamagedError
from src.storage.status import Status, make_failed_status, make_status
from src.sweeps.store.jobs import JOB_FILE, LOCK_FILE, Job, read_job, write_job_file

FOLDER_LOST = "folder lost"  # the reason if a job's folder was removed or renamed
EXTERNAL_REASONS = ("killed", "lost", FOLDER_LOST)  # reasons for a failure with an external cause
LOCK_TIMEOUT = 5.0  # seconds to wait for a worker of an earlier start, whose parent was killed, to end


def prepare_job(job: Job) -> Status | None:
    """Prepare a job to start or resume.

    Returns:
        ``None``, or a failed status if the job cannot run.
    """
    try:
        if not _ensure_job_file(job):
            return _record_lost_folder(job)
        with FileLock(job.folder / LOCK_FILE, timeout=LOCK_TIMEOUT):
            job.prepare()
    except Timeout:  # the other process writes the status in the folder: leave it
        return make_failed_status("held", "another process is running it")
    except (OSError, InputError) as error:
        return to_failed_status(error)
    return None


def mark_waiting(job: Job) -> Status | None:
    """Set a job's status to waiting; the machine that runs the job prepares it.

    Returns:
        ``None``, or a failed status if the job cannot run.
    """
    waiting = make_status("waiting")
    status = record_end(job, lambda _: waiting)
    return None if status == waiting else status


def prepare_jobs(
    jobs: Sequence[Job], prepare: Callable[[Job], Status | None], on_end: Callable[[Job, Status], None]
) -> list[Job]:
    """Prepare jobs by `prepare_job` or `mark_waiting`; return those that can run, and call `on_end` for the others."""
    results = [(job, prepare(job)) for job in jobs]
    for job, failure in results:
        if failure:
            on_end(job, failure)
    return [job for job, failure in results if not failure]


def record_end(job: Job, update: Callable[[Status], Status] = lambda status: status) -> Status:
    """Write a job's final status to its folder.

    Args:
        job: the job.
        update: maps the status that the job's process has written to the final one.

    Returns:
        The final status, even if it could not be written.
    """
    try:
        if not _ensure_job_file(job):
            return _record_lost_folder(job)
        written = job.status
        if (status := update(written)) != written:
            job.write_status(**status)
        return status
    except (OSError, InputError) as error:
        return to_failed_status(error)


def resolve_job_folder(job: Job) -> Job:
    """Return a job with its current folder, which someone may have renamed, after its status was corrected."""
    record_end(job)
    return job if job.folder.is_dir() else _find_renamed(job) or job


def has_ended_by_itself(job: Job) -> bool:
    """Return True if a job ended by itself: not if its process was killed, or its folder lost."""
    status = job.status
    return status["status"] == "finished" or (status["status"] == "failed" and status["reason"] not in EXTERNAL_REASONS)


def _ensure_job_file(job: Job) -> bool:
    """Return True if a job's folder still exists; rewrite its ``job.json`` if someone has changed that."""
    if not job.folder.is_dir():
        return False
    try:
        recorded = read_job(job.folder)
    except DamagedError:
        recorded = None
    if recorded is None or (recorded.number, recorded.identity) != (job.number, job.identity):
        write_job_file(job)
    return True


def _record_lost_folder(job: Job) -> Status:
    """Record as failed a job whose folder was removed or renamed, unless the renamed folder's job has finished.

    A renamed folder keeps its files; for a removed one a new folder is made.
    """
    renamed = _find_renamed(job)
    if renamed is None:
        write_job_file(job)
    elif (status := renamed.status)["status"] == "finished":
        return status
    status = make_failed_status(
        FOLDER_LOST, f"its folder was {'renamed' if renamed else 'removed'} while the sweep ran"
    )
    (renamed or job).write_status(**status)
    return status


def _find_renamed(job: Job) -> Job | None:
    """Return the job with the folder of another name that contains its ``job.json``; ``None`` if there is none."""
    for path in job.folder.parent.glob(f"*/{JOB_FILE}"):
        if (read_json(path) or {}).get("identity") == job.identity:
            return job._replace(folder=path.parent)
    return None


def to_failed_status(error: Exception) -> Status:
    """Return the failed status of a job that cannot run because of an error.

    Raises:
        StorageError: if the whole disk is at fault, so that no job can run.
    """
    fault = find_storage_error(error)
    if fault and fault.whole_disk:
        raise fault
    return make_failed_status("error", str(fault or error))
