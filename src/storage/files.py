"""Write and read the files of runs and sweeps so that they survive crashes and are never mistaken for others.

All that a later start relies on is written here. A reader finds a file's old content or its new one, never a part,
whatever moment a process is killed or a machine loses power at. Temporary files have unpredictable names, are made
exclusively and follow no links. Tests observe each operation and try every state that a crash may leave behind.
"""

import csv
import errno
import io
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from omegaconf._utils import get_omega_conf_dumper

from src.core.disk import StorageError, describe_fault, is_fault, shorten
from src.core.errors import InputError

PARTIAL = ".partial"  # how the name of a temporary file ends
MOST_TEXT = 64 * 2**20  # bytes of a text file: JSON, CSV, YAML
OBSERVERS: list[Callable[["Operation"], None]] = []  # called with each operation once it is done; empty but in tests
_pending: list[tuple[Path, Path]] | None = None  # inside `sync_together`: temporary files and where they belong
_pinned: list[str] = []  # folders that are not made again


class Operation(NamedTuple):
    """A change of the disk.

    Attributes:
        kind: "mkdir", "write" (a new file with its content), "append", "sync" (a file's content), "sync_folder",
            "sync_all", "replace" (``path`` by ``other``), "link" or "remove".
        path: what is changed.
        content: what is written or appended.
        other: the file that is moved or linked to ``path``.
    """

    kind: str
    path: Path
    content: bytes = b""
    other: Path | None = None


# Writing


@contextmanager
def open_atomic(path: Path, exclusive: bool = False) -> Iterator[IO[bytes]]:
    """Open a file to write that takes its place in one step, forced to the disk; after an error nothing has changed.

    Args:
        path: its place; folders that are missing are made.
        exclusive: refuse a place that is taken.

    Raises:
        FileExistsError: if ``exclusive`` and the place is taken.
        StorageError: if the disk cannot be written.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        make_folder(path.parent)
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open(partial, "xb") as file:  # exclusive: it follows no link
            yield file
            file.flush()
            if _pending is None:
                os.fsync(file.fileno())
        _observe_written(partial)
        _put_in_place(partial, path, exclusive)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if fault := _find_cause(error):
            raise describe_fault(path, fault) from error
        raise


def _find_cause(error: BaseException | None) -> OSError | None:
    """Return the system's error behind what stopped the writing of a file: torch hides it behind one of its own."""
    if isinstance(error, OSError):
        return None if isinstance(error, FileExistsError) else error
    while isinstance(error, Exception) and not (isinstance(error, InputError) or is_fault(error)):
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _put_in_place(partial: Path, path: Path, exclusive: bool) -> None:
    if exclusive:
        _link(partial, path)
    elif _pending is not None:
        _pending.append((partial, path))
    else:
        _replace(partial, path)
        sync_folder(path.parent)


def _link(partial: Path, path: Path) -> None:
    """Give a file its name, which none must have."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the name is taken first
        with open(path, "xb"):
            return _replace(partial, path)
    _observe(Operation("link", path, other=partial))
    partial.unlink()
    _observe(Operation("remove", partial))
    sync_folder(path.parent)


def _replace(partial: Path, path: Path) -> None:
    partial.replace(path)
    _observe(Operation("replace", path, other=partial))


@contextmanager
def sync_together() -> Iterator[None]:
    """Force the files that are written here to the disk all at once, in the end, and then put them in their places.

    To wait for each takes longer. Until the end readers find what was there before.
    """
    global _pending
    if _pending is not None:  # the outer one does it
        yield
        return
    _pending = []
    try:
        yield
    finally:
        placed, _pending = _pending, None
        _place_all(placed)


def _place_all(placed: list[tuple[Path, Path]]) -> None:
    """Put files in their places; where one cannot be, the others are, and it is told in the end."""
    if not placed:
        return
    _sync_all()
    failed: StorageError | None = None
    for partial, path in placed:
        try:
            _replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            failed = failed or describe_fault(path, error)
    _sync_all()
    if failed:
        raise failed


def _sync_all() -> None:
    os.sync()
    _observe(Operation("sync_all", Path("/")))


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing.

    Raises:
        StorageError: if the disk cannot be written, or the folder is pinned and gone.
    """
    if path.is_dir():
        return
    if os.path.abspath(path) in _pinned:
        raise StorageError(f"{shorten(path)} is gone: it was removed or renamed")
    make_folder(path.parent)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise describe_fault(path, error, "made") from error
    _observe(Operation("mkdir", path))
    if _pending is None:
        sync_folder(path.parent)


@contextmanager
def pin_folders(*paths: Path) -> Iterator[None]:
    """Make folders that are there not again if someone removes or renames them: what is written there fails."""
    names = [os.path.abspath(path) for path in paths]
    _pinned.extend(names)
    try:
        yield
    finally:
        for name in names:
            _pinned.remove(name)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, forced to the disk; a crash may leave a part of it there.

    Raises:
        StorageError: if the disk cannot be written.
    """
    try:
        new = not path.exists()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            with open(file, "ab", closefd=False) as stream:
                stream.write(content)
            _observe(Operation("append", path, content))
            os.fsync(file)
            _observe(Operation("sync", path))
        finally:
            os.close(file)
        if new:
            sync_folder(path.parent)
    except OSError as error:
        raise describe_fault(path, error) from error


def remove(path: Path) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        StorageError: if the disk cannot be written.
    """
    if path.is_symlink() or path.exists():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise describe_fault(path, error, "removed") from error
        _observe(Operation("remove", path))


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it; a link in it is removed, not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            remove(path)
    folder.rmdir()
    _observe(Operation("remove", folder))


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder and those below; its owner calls this."""
    for path in list(folder.rglob(f".*{PARTIAL}")):
        with suppress(StorageError):
            remove(path)


def sync_folder(path: Path) -> None:
    """Force to the disk which files a folder has; some systems cannot and need not."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        _observe(Operation("sync_folder", path))


def _observe(operation: Operation) -> None:
    for observer in OBSERVERS:
        observer(operation)


def _observe_written(partial: Path) -> None:
    if OBSERVERS:
        _observe(Operation("write", partial, partial.read_bytes()))
        if _pending is None:
            _observe(Operation("sync", partial))


# Kinds of content


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with open_atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinities become ``null``."""
    write_text(path, json.dumps(replace_not_finite(content), indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; the columns are all the keys there are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    """Write what `OmegaConf.to_yaml` does, seven times as fast where PyYAML has its C library; without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def format_yaml(content: Any) -> str:
    """Return plain values as `OmegaConf.to_yaml` writes them."""
    return yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def replace_not_finite(content: Any) -> Any:
    """Return the content with ``None`` for NaN and infinities, which JSON does not have."""
    if isinstance(content, dict):
        return {key: replace_not_finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [replace_not_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# Reading


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Read a file whose kind and size are looked at first: a pipe does not hang, a huge one fills no memory.

    Args:
        path: the file.
        most: the most bytes that it may have; ``None``: any number.

    Raises:
        InputError: if it is no plain file, or too large.
        OSError: if it is not there or cannot be read.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise InputError(f"{path} is damaged: it has {size:,} bytes, and such a file has at most {most:,}")
        return file.read()


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file to read.

    Raises:
        InputError: if it is a pipe, a folder or a device.
        OSError: if it is not there or cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without waiting for a pipe's writer
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InputError(f"{path} is no plain file")
    return open(file, "rb")


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        InputError: if it is no plain file, too large or no UTF-8.
        OSError: if it is not there or cannot be read.
    """
    try:
        return read_bytes(path, MOST_TEXT).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: it is no UTF-8 text") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` if there is none or it is damaged."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError, InputError):
        return None
    return content if isinstance(content, dict) else None
