"""Test for and read the files of a data set."""

from pathlib import Path

from src.core.disk import describe_fault
from src.storage.files import read_bytes

MOST = 4 * 2**30  # bytes that a file may have


def is_there(path: Path) -> bool:
    """Return True if a path exists, as a file or anything else.

    Raises:
        InputError: if the path cannot be examined.
    """
    try:
        return path.exists()
    except OSError as error:
        raise describe_fault(path, error, "read") from error


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        InputError: if it is missing, is not a file, cannot be read, or has more than `MOST` bytes.
    """
    try:
        return read_bytes(path, MOST)
    except OSError as error:
        raise describe_fault(path, error, "read") from error
