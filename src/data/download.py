"""Downloading a data set once, however many processes start at the same time."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from src.core.errors import InputError
from src.storage.trust import is_lent


def download_once(root: Path, name: str, missing: Callable[[], object], download: Callable[[], None]) -> None:
    """Download what is missing below ``root``; of several processes one does it, the others wait.

    Args:
        root: the folder that holds all data sets.
        name: of the set, for its lock.
        missing: something true as long as there is something to download.
        download: does it.

    Raises:
        InputError: if the folder cannot be written, or it is one that a run's config names and not the user.
    """
    if not missing():
        return
    if is_lent(root):
        raise InputError(
            f"{name} is not in {root}, and since it is the run's folder that says so, nothing is downloaded there: "
            "give paths.data=FOLDER"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if missing():
                download()
    except (OSError, NotImplementedError) as error:  # FileLock raises the latter on disks without locks
        raise InputError(
            f"data folder {root} cannot be written ({error}): set paths.data=FOLDER or DATA_DIR"
        ) from error
