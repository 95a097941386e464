"""Looking for a data set's files, and reading them."""

from pathlib import Path

from src.core.disk import describe_fault
from src.storage.files import read_bytes

MOST = 4 * 2**30  # bytes of a file


def is_there(path: Path) -> bool:
    """Return true for a path that exists, whatever it is.

    Raises:
        InputError: if that cannot be told.
    """
    try:
        return path.exists()
    except OSError as error:
        raise describe_fault(path, error, "read") from error


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        InputError: if it is missing, cannot be read, is larger than any such file, or no file.
    """
    try:
        return read_bytes(path, MOST)
    except OSError as error:
        raise describe_fault(path, error, "read") from error
