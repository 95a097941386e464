"""Looking for a data set's files, and reading them."""

from pathlib import Path

from src.errors import InputError


def is_there(path: Path) -> bool:
    """Return true for a path that exists, whatever it is.

    Raises:
        InputError: if that cannot be told.
    """
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        InputError: if it is missing, cannot be read, or is a folder, a pipe or a device, which may never end.
    """
    if is_there(path) and not path.is_file():
        raise InputError(f"{path} is not a file but a folder, a pipe or a device: move it away")
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not fit into memory"
        raise InputError(f"{path} cannot be read ({reason})") from error
