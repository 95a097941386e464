"""Remove the files of a start that fails before its run begins, so that a mistyped command leaves no folder."""

from contextlib import suppress
from pathlib import Path

from src.cli.messages import find_input_error, is_fixable
from src.core.disk import StorageError
from src.storage.files import remove_file, remove_tree
from src.storage.status import STATUS_FILE

STARTUP_FILES = (".hydra", ".lock", "provenance.json", STATUS_FILE)  # besides logs, the files of a run before it starts

_created: list[Path] = []  # the folder that this start has created or taken over; at most one
_missing: list[Path] = []  # this folder and its parents, if they did not exist before; the outermost first


def find_missing(folder: Path) -> list[Path]:
    """Return those of a folder and its parents that do not exist, the outermost first."""
    path = folder.absolute()
    return [each for each in (*reversed(path.parents), path) if not each.exists()]


def record_created(folder: Path, missing: list[Path]) -> None:
    """Note that this start has created a folder or taken over an empty one.

    Args:
        folder: a run's folder, which was empty, or a sweep's, which did not exist.
        missing: the result of `find_missing` from before.
    """
    _created[:], _missing[:] = [folder.absolute()], missing


def keep_created() -> None:
    """Keep the folder even if an error follows, since its run or sweep has started."""
    _created.clear()


def should_remove_created() -> bool:
    """Return True if the files of this start are to be removed if it fails now."""
    return bool(_created)


def remove_created(error: BaseException) -> None:
    """Remove the files of this start if the user can fix the error; after storage errors leave the disk as it is."""
    if not _created or not is_fixable(error) or isinstance(find_input_error(error), StorageError):
        return
    folder = _created.pop()
    with suppress(OSError, StorageError):
        if _missing:
            remove_tree(folder)
            for above in reversed(_missing[:-1]):
                above.rmdir()  # fails, as it should, if another process has written there
        else:
            _remove_startup_files(folder)


def _remove_startup_files(folder: Path) -> None:
    """Remove from an existing folder the files that a start writes before its run begins."""
    for path in folder.iterdir():
        if path.name in STARTUP_FILES or path.suffix == ".log":
            remove_tree(path) if path.is_dir() else remove_file(path)
