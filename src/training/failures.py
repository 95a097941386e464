"""Write the status of a job that was stopped by an exception, for workers and stacks."""

from pathlib import Path

from src.cli.messages import find_input_error, format_error
from src.core.disk import StorageError
from src.storage.status import make_failed_status, read_status, write_status


def record_failure(folder: Path, error: Exception, reason: str = "error") -> None:
    """Write to a job's status why it failed, unless the status already says so or the folder is gone.

    Args:
        folder: the job's folder.
        error: the error that stopped the job.
        reason: the failure's category; that of a `StorageError` takes precedence.

    Raises:
        StorageError: if the disk cannot be written.
    """
    if not folder.is_dir() or read_status(folder)["status"] == "failed":
        return
    cause = find_input_error(error)
    reason = cause.reason if isinstance(cause, StorageError) else reason
    write_status(folder, make_failed_status(reason, format_error(error)))
