"""Find strays in the folder of a run or a sweep: links that lead out of it, pipes, sockets and devices.

The folder may come from a stranger. Each command checks it before it reads or writes anything there, so that no file
outside is read or written. (Ten thousand jobs' folders take a third of a second.)
"""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from src.storage.schema import DamagedError

MAX_FILES = 1_000_000  # maximum files and folders of a run
REMEDY = "nothing outside is read or written: remove it, or replace it by a copy of its target"


class StrayError(DamagedError):
    """An error for a folder with strays in it, which must not be read or written."""


def refuse_strays(folder: Path, should_skip: Callable[[Path], bool] | None = None) -> None:
    """Refuse the folder of a run or a sweep with strays in it; the folder itself may be a link.

    Args:
        folder: the folder to check.
        should_skip: returns True for direct subfolders, and links to folders, that are to be skipped.

    Raises:
        StrayError: naming the first stray.
    """
    for stray in _find_strays(folder, should_skip):
        raise StrayError(stray)


def refuse_job_strays(folder: Path) -> None:
    """Refuse a job's folder with strays in it, or one that is itself a link out of its sweep's folder.

    Raises:
        StrayError: naming the first stray.
    """
    if folder.is_symlink() and _is_outside(folder, os.path.realpath(folder.parent)):
        raise StrayError(f"{folder} is a link that leads out of {folder.parent}; {REMEDY}")
    refuse_strays(folder)


def _find_strays(folder: Path, should_skip: Callable[[Path], bool] | None) -> Iterator[str]:
    """Yield a message for each stray in a folder and its subfolders; links are not followed."""
    home, seen, pending = os.path.realpath(folder), 0, [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                entries = list(islice(found, MAX_FILES - seen + 1))
        except (FileNotFoundError, NotADirectoryError):  # not a folder, or removed by another process
            continue
        except OSError as error:
            yield f"{error.filename} cannot be read ({error.strerror})"
            continue
        seen += len(entries)
        if seen > MAX_FILES:
            yield f"{folder} has more than {MAX_FILES:,} files, more than a run can have"
            return
        for entry in entries:
            if should_skip and entry.is_dir() and should_skip(Path(entry.path)):
                continue
            if entry.is_symlink():
                if _is_outside(entry.path, home):
                    yield f"{entry.path} is a link that leads out of {folder}; {REMEDY}"
            elif entry.is_dir():
                pending.append(entry.path)
            elif not entry.is_file():
                yield f"{entry.path} is not a regular file; remove it"
        should_skip = None  # it applies to the first level only


def _is_outside(link: str | Path, root: str) -> bool:
    """Return True if a link leads out of the folder ``root``, a real path."""
    return os.path.commonpath([root, os.path.realpath(link)]) != root
