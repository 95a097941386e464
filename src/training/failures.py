"""The status of a job that failed, also where it failed before it could record so itself."""

from pathlib import Path

from src.cli.messages import find_input_error, format_error
from src.core.disk import StorageError
from src.storage.files import write_json
from src.storage.records import read_status


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
    write_json(folder / "status.json", {"status": "failed", "reason": reason, "message": format_error(error)})
