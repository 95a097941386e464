"""Test for and read the files of a data set."""

from pathlib import Path

from src.core.disk import to_storage_error
from src.storage.files import read_bytes

MAX_FILE_BYTES = 4 * 2**30  # bytes that a file may have


def is_present(path: Path) -> bool:
    """Return True if a path exists, as a file or anything else.

    Raises:
        InputError: if the path cannot be examined.
    """
    try:
        return path.exists()
    except OSError as error:
        raise to_storage_error(path, error, "read") from error


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        InputError: if it is missing, is not a file, cannot be read, or has more than `MAX_FILE_BYTES` bytes.
    """
    try:
        return read_bytes(path, MAX_FILE_BYTES)
    except OSError as error:
        raise to_storage_error(path, error, "read") from error
