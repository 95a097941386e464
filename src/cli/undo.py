"""Remove the files of a start that fails before its run begins, so that a mistyped command leaves no folder."""

from contextlib import suppress
from pathlib import Path

from src.cli.messages import can_be_mended, input_error
from src.core.disk import StorageError
from src.storage.files import remove, remove_tree

OURS = (".hydra", ".lock", "provenance.json", "status.json")  # files, in addition to logs, of a run before it starts

_folder: list[Path] = []  # the folder that this start has created or taken over; at most one
_missing: list[Path] = []  # this folder and its parents, if they did not exist before; the outermost first


def list_missing(folder: Path) -> list[Path]:
    """Return those of a folder and its parents that do not exist, the outermost first."""
    path = folder.absolute()
    return [each for each in (*reversed(path.parents), path) if not each.exists()]


def note_made(folder: Path, missing: list[Path]) -> None:
    """Note that this start has created a folder or taken over an empty one.

    Args:
        folder: a run's folder, which was empty, or a sweep's, which did not exist.
        missing: the result of `list_missing` from before.
    """
    _folder[:], _missing[:] = [folder.absolute()], missing


def keep_made() -> None:
    """Keep the folder even if an error follows, since its run or sweep has started."""
    _folder.clear()


def may_take_back() -> bool:
    """Return True if the files of this start are to be removed if it fails now."""
    return bool(_folder)


def take_back(error: BaseException) -> None:
    """Remove the files of this start if the user can fix the error; after storage errors leave the disk as it is."""
    if not _folder or not can_be_mended(error) or isinstance(input_error(error), StorageError):
        return
    folder = _folder.pop()
    with suppress(OSError, StorageError):
        if _missing:
            remove_tree(folder)
            for above in reversed(_missing[:-1]):
                above.rmdir()  # fails, as it should, if another process has written there
        else:
            _remove_own(folder)


def _remove_own(folder: Path) -> None:
    """Remove from an existing folder the files that a start writes before its run begins."""
    for path in folder.iterdir():
        if path.name in OURS or path.suffix == ".log":
            remove_tree(path) if path.is_dir() else remove(path)
