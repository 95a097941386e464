"""Find what has no place in the folder of a run or a sweep: links that lead out of it, pipes, sockets, devices.

Such a folder may come from a stranger. Each command that opens one looks before it reads or writes anything in it, so
that nothing elsewhere is read or written. (Ten thousand jobs' folders take a third of a second.)
"""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from src.errors import InputError

MOST = 1_000_000  # files and folders of a run
REMEDY = "nothing outside is read or written: remove it, or put what it leads to in its place"


def refuse_strays(folder: Path) -> None:
    """Refuse a run's folder with strays in it; the folder itself may be a link.

    Raises:
        InputError: naming the first.
    """
    for stray in _find_strays(folder):
        raise InputError(stray)


def refuse_strays_of_job(folder: Path) -> None:
    """Refuse a job's folder with strays in it, or one that is itself a link that leads out of its sweep's folder.

    Raises:
        InputError: naming the first.
    """
    if folder.is_symlink() and _leads_out(folder, os.path.realpath(folder.parent)):
        raise InputError(f"{folder} is a link that leads out of {folder.parent}; {REMEDY}")
    refuse_strays(folder)


def refuse_strays_beside_jobs(folder: Path, notes: str) -> None:
    """Refuse a sweep's folder with strays in it, but for those in its jobs' folders.

    Args:
        folder: the sweep's.
        notes: the name of the file that makes a folder one of a job.

    Raises:
        InputError: naming the first.
    """

    def is_job(entry: "os.DirEntry[str]") -> bool:
        # By a number at its front, which nothing else in a sweep's folder has: figures/ with notes is no job's.
        return entry.name[0].isdigit() and entry.is_dir() and os.path.lexists(os.path.join(entry.path, notes))

    for stray in _find_strays(folder, but_for=is_job):
        raise InputError(stray)


def _find_strays(folder: Path, but_for: "Callable[[os.DirEntry[str]], bool] | None" = None) -> Iterator[str]:
    """Yield a line on each stray in a folder and below; no link is followed.

    Args:
        folder: where to look.
        but_for: which of the entries of the folder itself to pass over.
    """
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
            if but_for and but_for(entry):
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
