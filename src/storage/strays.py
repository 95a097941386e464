"""Find what has no place in the folder of a run or a sweep: links that lead out of it, pipes, sockets, devices.

Such a folder may come from a stranger. Each command that opens one looks before it reads or writes anything in it, so
that nothing elsewhere is read or written. (Ten thousand jobs' folders take a third of a second.)
"""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from src.storage.schema import DamagedError

MOST = 1_000_000  # files and folders of a run
REMEDY = "nothing outside is read or written: remove it, or put what it leads to in its place"


class StrayError(DamagedError):
    """A folder in which nothing is to be read or written, since something in it leads elsewhere."""


def refuse_strays(folder: Path, but_for: Callable[[Path], bool] | None = None) -> None:
    """Refuse the folder of a run or a sweep with strays in it; the folder itself may be a link.

    Args:
        folder: which.
        but_for: tells which of the folders and links right in it to pass over.

    Raises:
        StrayError: naming the first.
    """
    for stray in _find_strays(folder, but_for):
        raise StrayError(stray)


def refuse_strays_of_job(folder: Path) -> None:
    """Refuse a job's folder with strays in it, or one that is itself a link that leads out of its sweep's folder.

    Raises:
        StrayError: naming the first.
    """
    if folder.is_symlink() and _leads_out(folder, os.path.realpath(folder.parent)):
        raise StrayError(f"{folder} is a link that leads out of {folder.parent}; {REMEDY}")
    refuse_strays(folder)


def _find_strays(folder: Path, but_for: Callable[[Path], bool] | None) -> Iterator[str]:
    """Yield a line on each stray in a folder and below; no link is followed."""
    home, seen, waiting = os.path.realpath(folder), 0, [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                entries = list(islice(found, MOST - seen + 1))
        except (FileNotFoundError, NotADirectoryError):  # a file that is no folder, or that another process removed
            continue
        except OSError as error:
            yield f"{error.filename} cannot be looked into ({error.strerror})"
            continue
        seen += len(entries)
        if seen > MOST:
            yield f"{folder} has more than {MOST:,} files, which is no run's"
            return
        for entry in entries:
            if but_for and entry.is_dir() and but_for(Path(entry.path)):
                continue
            if entry.is_symlink():
                if _leads_out(entry.path, home):
                    yield f"{entry.path} is a link that leads out of {folder}; {REMEDY}"
            elif entry.is_dir():
                waiting.append(entry.path)
            elif not entry.is_file():
                yield f"{entry.path} is no plain file; remove it"
        but_for = None


def _leads_out(link: str | Path, home: str) -> bool:
    """Return whether a link leads out of a folder, which is given by its real path."""
    return os.path.commonpath([home, os.path.realpath(link)]) != home
