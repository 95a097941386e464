"""Read and write the files of runs and sweeps so that they survive crashes.

Every file that a later start relies on is written here. Readers find a file's old content or its new content, never a
part of it, even if the process is killed or the machine loses power. Temporary files have unpredictable names, are
created exclusively and follow no links. Tests observe each operation and try every state that a crash may leave behind.
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

from src.core.disk import StorageError, is_storage_error, to_storage_error
from src.core.errors import InputError
from src.core.formatting import to_relative_path

PARTIAL_SUFFIX = ".partial"  # suffix of temporary files
MAX_TEXT_BYTES = 64 * 2**20  # bytes of a text file: JSON, CSV, YAML
OBSERVERS: list[Callable[["Operation"], None]] = []  # called after each operation; only tests add any
_pending: list[tuple[Path, Path]] | None = None  # inside `sync_together`: temporary files and their final paths
_pinned: list[str] = []  # folders that are not created again once they are gone


class Operation(NamedTuple):
    """A change of the disk, reported to `OBSERVERS`.

    Attributes:
        kind: "mkdir", "write" (a new file with its content), "append", "sync" (a file's content), "sync_folder",
            "sync_all", "replace" (``path`` by ``other``), "link" or "remove".
        path: the file or folder that is changed.
        content: the bytes that are written or appended.
        other: the file that is moved or linked to ``path``.
    """

    kind: str
    path: Path
    content: bytes = b""
    other: Path | None = None


# Writing


@contextmanager
def open_atomic(path: Path, exclusive: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing; on success fsync it and rename it to ``path``, on an error remove it.

    Args:
        path: the final path; missing parent folders are created.
        exclusive: refuse to replace an existing file.

    Raises:
        FileExistsError: if ``exclusive`` and the file exists.
        StorageError: if the disk cannot be written.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        make_folder(path.parent)
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open(partial, "xb") as file:  # exclusive: it follows no link
            yield file
            file.flush()
            if _pending is None:
                os.fsync(file.fileno())
        _report_written(partial)
        _move_into_place(partial, path, exclusive)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if fault := _find_cause(error):
            raise to_storage_error(path, fault) from error
        raise


def _find_cause(error: BaseException | None) -> OSError | None:
    """Return the `OSError` behind an error; torch raises its own error with the `OSError` as context."""
    if isinstance(error, OSError):
        return None if isinstance(error, FileExistsError) else error
    while isinstance(error, Exception) and not (isinstance(error, InputError) or is_storage_error(error)):
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _move_into_place(partial: Path, path: Path, exclusive: bool) -> None:
    if exclusive:
        _link_exclusively(partial, path)
    elif _pending is not None:
        _pending.append((partial, path))
    else:
        _replace(partial, path)
        _sync_folder(path.parent)


def _link_exclusively(partial: Path, path: Path) -> None:
    """Rename a file to a path that must not exist yet.

    Raises:
        FileExistsError: if the path exists.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name first
        with open(path, "xb"):
            return _replace(partial, path)
    _report(Operation("link", path, other=partial))
    partial.unlink()
    _report(Operation("remove", partial))
    _sync_folder(path.parent)


def _replace(partial: Path, path: Path) -> None:
    partial.replace(path)
    _report(Operation("replace", path, other=partial))


@contextmanager
def sync_together() -> Iterator[None]:
    """Batch fsync: flush all files written in this context once at its end, then rename them to their paths.

    This is faster than one fsync per file. Until the end readers find the earlier files.
    """
    global _pending
    if _pending is not None:  # nested: the outer context flushes
        yield
        return
    _pending = []
    try:
        yield
    finally:
        placed, _pending = _pending, None
        _replace_all(placed)


@contextmanager
def sync_job_files() -> Iterator[None]:
    """Batch the writes for many jobs by `sync_together`, and ignore an error that concerns a single folder.

    The status of a job whose folder is lost meanwhile is corrected when the job starts or ends.

    Raises:
        StorageError: if the whole disk cannot be written.
    """
    try:
        with sync_together():
            yield
    except StorageError as error:
        if error.whole_disk:
            raise


def _replace_all(pending: list[tuple[Path, Path]]) -> None:
    """Rename temporary files to their paths; try all of them before the first failure is raised.

    Raises:
        StorageError: for the first file that could not be renamed.
    """
    if not pending:
        return
    _sync_all()
    failed: StorageError | None = None
    for partial, path in pending:
        try:
            _replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            failed = failed or to_storage_error(path, error)
    _sync_all()
    if failed:
        raise failed


def _sync_all() -> None:
    os.sync()
    _report(Operation("sync_all", Path("/")))


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents.

    Raises:
        StorageError: if the disk cannot be written, or the folder is pinned and gone.
    """
    if path.is_dir():
        return
    if os.path.abspath(path) in _pinned:
        raise StorageError(f"{to_relative_path(path)} is gone: it was removed or renamed")
    make_folder(path.parent)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise to_storage_error(path, error, "created") from error
    _report(Operation("mkdir", path))
    if _pending is None:
        _sync_folder(path.parent)


@contextmanager
def require_folders(*paths: Path) -> Iterator[None]:
    """Do not recreate these existing folders in this context: if someone removes or renames one, writes there fail."""
    names = [os.path.abspath(path) for path in paths]
    _pinned.extend(names)
    try:
        yield
    finally:
        for name in names:
            _pinned.remove(name)


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file and fsync it; a crash may leave a part of the content there.

    Raises:
        StorageError: if the disk cannot be written.
    """
    try:
        new = not path.exists()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            with open(file, "ab", closefd=False) as stream:
                stream.write(content)
            _report(Operation("append", path, content))
            os.fsync(file)
            _report(Operation("sync", path))
        finally:
            os.close(file)
        if new:
            _sync_folder(path.parent)
    except OSError as error:
        raise to_storage_error(path, error) from error


def remove_file(path: Path) -> None:
    """Remove a file if it exists.

    Raises:
        StorageError: if the disk cannot be written.
    """
    if path.is_symlink() or path.exists():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise to_storage_error(path, error, "removed") from error
        _report(Operation("remove", path))


def remove_tree(folder: Path) -> None:
    """Remove a folder and its content; links in it are removed, not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            remove_file(path)
    folder.rmdir()
    _report(Operation("remove", folder))


def remove_partial_files(folder: Path) -> None:
    """Remove temporary files that killed processes have left in a folder and its subfolders; call it as the owner."""
    for path in list(folder.rglob(f".*{PARTIAL_SUFFIX}")):
        with suppress(StorageError):
            remove_file(path)


def _sync_folder(path: Path) -> None:
    """Fsync a folder's list of files; ignore errors, for some systems cannot do this and do not need it."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        _report(Operation("sync_folder", path))


def _report(operation: Operation) -> None:
    for observer in OBSERVERS:
        observer(operation)


def _report_written(partial: Path) -> None:
    if OBSERVERS:
        _report(Operation("write", partial, partial.read_bytes()))
        if _pending is None:
            _report(Operation("sync", partial))


# Kinds of content


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with open_atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; NaN and infinities become ``null``."""
    write_text(path, json.dumps(replace_non_finite(content), indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file atomically; the columns are the union of the rows' keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    """A dumper with the output of `OmegaConf.to_yaml`, without aliases; seven times as fast with PyYAML's C library."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def format_yaml(content: Any) -> str:
    """Return plain values as YAML text, formatted as by `OmegaConf.to_yaml`."""
    return yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def replace_non_finite(content: Any) -> Any:
    """Return the content with ``None`` in place of NaN and infinities, which JSON lacks."""
    if isinstance(content, dict):
        return {key: replace_non_finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [replace_non_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# Reading


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a file after checking its kind and size, so that a pipe does not hang and a huge file fills no memory.

    Args:
        path: the file.
        max_bytes: the maximum size in bytes; ``None``: no limit.

    Raises:
        InputError: if it is not a regular file, or too large.
        OSError: if it does not exist or cannot be read.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            raise InputError(f"{path} is damaged: it has {size:,} bytes, and such a file has at most {max_bytes:,}")
        return file.read()


def open_regular_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        InputError: if it is a pipe, a folder or a device.
        OSError: if it does not exist or cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # do not wait for a pipe's writer
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InputError(f"{path} is not a regular file")
    return open(file, "rb")


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        InputError: if it is not a regular file, too large or not UTF-8.
        OSError: if it does not exist or cannot be read.
    """
    try:
        return read_bytes(path, MAX_TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: it is not UTF-8 text") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; return ``None`` if the file is missing or damaged."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError, InputError):
        return None
    return content if isinstance(content, dict) else None
