"""Take back what a start has written that is refused before its run begins: a mistyped command leaves no folder."""

from contextlib import suppress
from pathlib import Path

from src.cli.messages import can_be_mended, input_error
from src.core.disk import StorageError
from src.storage.files import remove, remove_tree

OURS = (".hydra", ".lock", "provenance.json", "status.json")  # of a run that has not begun, beside its log

_folder: list[Path] = []  # the folder that this start has made or taken; at most one
_missing: list[Path] = []  # it and those above it, as far as they were not there before, the outermost first


def list_missing(folder: Path) -> list[Path]:
    """Return which of a folder and those above it are not there, the outermost first."""
    path = folder.absolute()
    return [each for each in (*reversed(path.parents), path) if not each.exists()]


def note_made(folder: Path, missing: list[Path]) -> None:
    """Note that a folder is this start's.

    Args:
        folder: a run's, which was empty, or a sweep's, which was missing.
        missing: what `list_missing` said before.
    """
    _folder[:], _missing[:] = [folder.absolute()], missing


def keep_made() -> None:
    """Let the folder stay, whatever comes: what it is for has begun."""
    _folder.clear()


def may_take_back() -> bool:
    """Return whether what this start has made is to go if it is refused now."""
    return bool(_folder)


def take_back(error: BaseException) -> None:
    """Remove what this start has made, if the error is its user's to mend; a full disk is left as it is."""
    if not _folder or not can_be_mended(error) or isinstance(input_error(error), StorageError):
        return
    folder = _folder.pop()
    with suppress(OSError, StorageError):
        if _missing:
            remove_tree(folder)
            for above in reversed(_missing[:-1]):
                above.rmdir()  # another process may have put something there
        else:
            _remove_own(folder)


def _remove_own(folder: Path) -> None:
    """Remove from a folder that was there what a start writes before its run begins."""
    for path in folder.iterdir():
        if path.name in OURS or path.suffix == ".log":
            remove_tree(path) if path.is_dir() else remove(path)
