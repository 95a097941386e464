"""Download a data set only once, even if several processes start at the same time."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from src.core.errors import InputError
from src.storage.trust import is_external_data


def download_once(root: Path, name: str, missing: Callable[[], object], download: Callable[[], None]) -> None:
    """Download missing files below ``root``; of several processes one downloads and the others wait.

    Args:
        root: the folder that holds all data sets.
        name: the data set's name, for its lock file.
        missing: returns something true while files are missing.
        download: downloads them.

    Raises:
        InputError: if the folder cannot be written, or if it was named by a run's saved config and not by the user.
    """
    if not missing():
        return
    if is_external_data(root):
        raise InputError(
            f"{name} is not in {root}, and nothing is downloaded there, because the folder comes from the run's saved "
            "config: give paths.data=FOLDER"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if missing():
                download()
    except (OSError, NotImplementedError) as error:  # FileLock raises NotImplementedError on disks without locks
        raise InputError(
            f"data folder {root} cannot be written ({error}): set paths.data=FOLDER or DATA_DIR"
        ) from error
