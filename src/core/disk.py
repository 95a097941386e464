"""Report storage errors in one line, whichever library raised them.

A storage error is an `OSError` such as a full or read-only disk, a missing permission or too many open files.
"""

import errno
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeGuard

from src.core.errors import InputError
from src.core.formatting import to_relative_path

# Remedies by errno. The first are always storage errors, the second only if they name a file.
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make its file system writable",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
}
_REMEDIES_FOR_FILES = {
    errno.EACCES: "get the permission",
    errno.EPERM: "get the permission",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ESTALE: "mount its file system again",
}
_WHOLE_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # all other writes to the same disk fail, too

DISK, FILE = "disk", "file"  # reasons of a failed job: the whole disk or a single file cannot be written


class StorageError(InputError):
    """An error for a file that cannot be written or opened; its earlier content is intact.

    Args:
        message: names the file and the cause.
        remedy: what the user can do, in the imperative.
        whole_disk: True if no other file can be written to the same disk either.
        complete: True if the message already says what is safe and how to resume.
    """

    def __init__(
        self, message: str, remedy: str = "fix that", whole_disk: bool = False, complete: bool = False
    ) -> None:
        super().__init__(message, remedy, whole_disk, complete)  # all arguments, so that it can be pickled
        self.remedy, self.whole_disk, self.complete = remedy, whole_disk, complete

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def reason(self) -> str:
        """The reason of a job that fails with this error: "disk" or "file"."""
        return DISK if self.whole_disk else FILE

    def with_advice(self, safe: str, next_step: str = "") -> "StorageError":
        """Return this error with advice added to its message; return it unchanged if it is complete.

        Args:
            safe: what is intact.
            next_step: what to do after the remedy, such as "start again"; empty if another message says so.
        """
        if self.complete:
            return self
        advice = f"; {self.remedy} and {next_step}" if next_step else ""
        return StorageError(f"{self}: {safe}{advice}", self.remedy, self.whole_disk, complete=True)


def to_storage_error(path: object, error: OSError, verb: str = "written") -> StorageError:
    """Return the `StorageError` for a file and an `OSError`, with a remedy."""
    remedy = {**_REMEDIES, **_REMEDIES_FOR_FILES}.get(error.errno or 0, "fix that")
    message = f"{to_relative_path(path)} cannot be {verb} ({error.strerror or error})"
    return StorageError(message, remedy, error.errno in _WHOLE_DISK_ERRORS)


def find_storage_error(error: BaseException | None) -> StorageError | None:
    """Return the storage error that an error is or was caused by; ``None`` if there is none.

    Of several in the chain return the one that was raised first, since later ones often come from cleaning up on the
    same disk.
    """
    # Walk back from the latest error to the first. `__context__` (an error during the handling of another) counts only
    # for storage errors; of other errors only the explicit cause does.
    fault: StorageError | None = None
    system_error: OSError | None = None
    while error is not None and not (fault and fault.complete):
        before = error.__cause__
        if isinstance(error, StorageError):
            fault, before = error, before or error.__context__
        elif (
            is_storage_error(error) and error.__traceback__
        ):  # one without a traceback was raised in a file's own `close`
            system_error, before = error, before or error.__context__
        error = before
    return fault or (
        to_storage_error(_find_file(system_error), system_error, _choose_verb(system_error)) if system_error else None
    )


def is_storage_error(error: BaseException) -> TypeGuard[OSError]:
    """Return True if an error is an `OSError` about storage."""
    if not isinstance(error, OSError):
        return False
    return error.errno in _REMEDIES or (error.errno in _REMEDIES_FOR_FILES and error.filename is not None)


def _find_file(error: OSError) -> str:
    """Return the file that an error names, else the name of a file that was open in the frames that raised it."""
    if isinstance(error.filename, (str, bytes)):
        return os.fsdecode(error.filename)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(name := getattr(value, "name", None), (str, bytes)):
                return os.fsdecode(name)
    return "the output or a file"


def _choose_verb(error: OSError) -> str:
    return "written" if error.filename is None or error.errno in (*_WHOLE_DISK_ERRORS, errno.EFBIG) else "opened"


# Threads and log handlers, which print tracebacks on their own


@contextmanager
def suppress_storage_tracebacks() -> Iterator[None]:
    """Print no tracebacks of storage errors from threads and log handlers, which cannot raise them to their caller.

    A thread's error is raised again by its library on flush or close. Logs that could not be written are reported once
    at the end, unless an error about storage is raised then.
    """
    thread_hook, handle_error = threading.excepthook, logging.Handler.handleError
    notes: dict[logging.Handler, StorageError] = {}

    def hook(failed: Any) -> None:
        if find_storage_error(failed.exc_value) is None:
            thread_hook(failed)

    def handle(self: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is None or not is_storage_error(error):
            return handle_error(self, record)
        notes.setdefault(self, to_storage_error(_find_file(error), error))
        if record.levelno >= logging.ERROR and not isinstance(self, logging.FileHandler):
            _print_line(record.getMessage())

    threading.excepthook, logging.Handler.handleError = hook, handle  # type: ignore[method-assign]
    try:
        yield
        _print_notes(notes)
    except BaseException as error:
        if find_storage_error(error) is None:
            _print_notes(notes)
        raise
    finally:
        threading.excepthook, logging.Handler.handleError = thread_hook, handle_error  # type: ignore[method-assign]


def _print_notes(notes: Mapping[logging.Handler, StorageError]) -> None:
    for fault in notes.values():
        _print_line(f"note: {fault}: lines are missing there")


def _print_line(line: str) -> None:
    with suppress(OSError):  # stderr is often on the same disk
        print(line, file=sys.stderr, flush=True)
