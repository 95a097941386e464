"""Tell faults of the disk in one line, whichever library met them: full, read-only, no permission, too many files."""

import errno
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

from src.core.errors import InputError

# What helps, by the error's number. The first are about storage whatever was done, the others if they name a file.
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "make its file system writable",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EIO: "see to the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
}
_REMEDIES_OF_NAMED = {
    errno.EACCES: "get the permission",
    errno.EPERM: "get the permission",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ESTALE: "mount its file system anew",
}
_WHOLE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # who writes beside it meets the same

DISK, FILE = "disk", "file"  # why a job failed: nothing can be written there, or a file cannot


class StorageError(InputError):
    """A file that cannot be written or opened; what was there before is whole.

    Args:
        message: which file, and why.
        remedy: what helps, as a request.
        whole_disk: nothing else can be written beside it.
        complete: the message tells what is safe and how to go on.
    """

    def __init__(
        self, message: str, remedy: str = "put that right", whole_disk: bool = False, complete: bool = False
    ) -> None:
        super().__init__(message, remedy, whole_disk, complete)  # all of them, so that it can be pickled
        self.remedy, self.whole_disk, self.complete = remedy, whole_disk, complete

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def reason(self) -> str:
        """Why a job failed by it, in a word."""
        return DISK if self.whole_disk else FILE

    def completed(self, safe: str, then: str = "") -> "StorageError":
        """Return this error with what is safe and how to go on, unless it tells that already.

        Args:
            safe: what is whole.
            then: what to do after the remedy, such as "start again"; empty if that is told elsewhere.
        """
        if self.complete:
            return self
        advice = f"; {self.remedy} and {then}" if then else ""
        return StorageError(f"{self}: {safe}{advice}", self.remedy, self.whole_disk, complete=True)


def describe_fault(path: object, error: OSError, verb: str = "written") -> StorageError:
    """Return what an error of the system means for a file."""
    remedy = {**_REMEDIES, **_REMEDIES_OF_NAMED}.get(error.errno or 0, "put that right")
    message = f"{shorten(path)} cannot be {verb} ({error.strerror or error})"
    return StorageError(message, remedy, error.errno in _WHOLE_DISK)


def shorten(path: object) -> str:
    """Return a path as one would type it here."""
    with suppress(ValueError, OSError):
        return str(Path(str(path)).relative_to(Path.cwd()))
    return str(path)


def find_fault(error: BaseException | None) -> StorageError | None:
    """Return the fault of the disk that an error is or comes from; ``None`` if it comes from something else.

    Of several the first that occurred: what cleans up after it meets the same disk.
    """
    ours: StorageError | None = None
    theirs: OSError | None = None
    while error is not None and not (ours and ours.complete):
        before = error.__cause__
        if isinstance(error, StorageError):
            ours, before = error, before or error.__context__
        elif is_fault(error) and error.__traceback__:  # without one it was raised within a file's own `close`
            theirs, before = error, before or error.__context__
        error = before
    return ours or (describe_fault(_find_file(theirs), theirs, _verb(theirs)) if theirs else None)


def is_fault(error: BaseException) -> TypeGuard[OSError]:
    """Return whether an error of the system is about storage."""
    if not isinstance(error, OSError):
        return False
    return error.errno in _REMEDIES or (error.errno in _REMEDIES_OF_NAMED and error.filename is not None)


def _find_file(error: OSError) -> str:
    """Return the file that an error is about: the one that it names, or the one that was open where it was raised."""
    if isinstance(error.filename, (str, bytes)):
        return os.fsdecode(error.filename)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(name := getattr(value, "name", None), (str, bytes)):
                return os.fsdecode(name)
    return "the output or a file"


def _verb(error: OSError) -> str:
    return "written" if error.filename is None or error.errno in (*_WHOLE_DISK, errno.EFBIG) else "opened"


# What would write a traceback by itself


@contextmanager
def faults_told_once() -> Iterator[None]:
    """Let threads and handlers of the log, which cannot raise an error to their caller, write no traceback of a fault.

    A thread's is raised again by its library where that is asked to flush or close. Logs that cannot be written are
    told in the end, unless an error tells of the disk then.
    """
    thread_hook, handle_error = threading.excepthook, logging.Handler.handleError
    notes: dict[logging.Handler, StorageError] = {}

    def hook(failed: Any) -> None:
        if find_fault(failed.exc_value) is None:
            thread_hook(failed)

    def handle(self: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is None or not is_fault(error):
            return handle_error(self, record)
        notes.setdefault(self, describe_fault(_find_file(error), error))
        if record.levelno >= logging.ERROR and not isinstance(self, logging.FileHandler):
            _say(record.getMessage())

    threading.excepthook, logging.Handler.handleError = hook, handle  # type: ignore[method-assign]
    try:
        yield
        _tell(notes)
    except BaseException as error:
        if find_fault(error) is None:
            _tell(notes)
        raise
    finally:
        threading.excepthook, logging.Handler.handleError = thread_hook, handle_error  # type: ignore[method-assign]


def _tell(notes: Mapping[logging.Handler, StorageError]) -> None:
    for fault in notes.values():
        _say(f"note: {fault}: lines are missing there")


def _say(line: str) -> None:
    with suppress(OSError):  # the same disk, often
        print(line, file=sys.stderr, flush=True)
