"""A disk whose n-th operation below a folder fails, whichever library makes it; then it is full until it is mended."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ONCE = (errno.EIO, errno.EMFILE)  # faults that pass; the others stay
REMOVALS = (errno.EROFS, errno.EACCES)  # faults that removing a file meets, too
OF_PATHS = (errno.EACCES, errno.EMFILE)  # faults that who has a file open does not meet
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FaultyDisk:
    """Let an operation fail, and all that follow it unless the fault passes.

    Args:
        folder: operations below it count.
        number: which of them is the first to fail, from 0; ``None``: none, they are only counted.
        fault: the error's number.
    """

    def __init__(self, folder: Path, number: int | None, fault: int = errno.ENOSPC) -> None:
        self.folder, self.number, self.fault = os.path.abspath(folder), number, fault
        self.count = 0
        self.failed: str | None = None  # the first operation that did
        self._paths: dict[int, str] = {}  # of the files that are open by number

    def meet(self, kind: str, path: Any) -> None:
        """Count an operation on a path, and raise an error if it is to fail."""
        path = os.path.abspath(os.fsdecode(path))
        if kind == "mkdir" and os.path.isdir(path):
            return
        content = kind in ("write", "sync")
        if not path.startswith(self.folder + os.sep) or (content and self.fault in OF_PATHS):
            return
        number, self.count = self.count, self.count + 1
        if self.number is None or number < self.number or (number > self.number and self.fault in ONCE):
            return
        self.failed = self.failed or f"{kind} {os.path.relpath(path, self.folder)}"
        raise OSError(self.fault, os.strerror(self.fault), *(() if content else (path,)))

    @contextmanager
    def at_work(self) -> Iterator["FaultyDisk"]:
        """Have all that this process does go through this disk."""
        replaced: dict[str, Any] = {"open": self._open_file, "fsync": self._sync, "mkdir": self._once("mkdir")}
        replaced |= {name: self._twice(name) for name in ("replace", "rename", "link")}
        replaced |= {name: self._once(name) for name in ("unlink", "remove", "rmdir") if self.fault in REMOVALS}
        own_open = self._open(builtins.open)
        with (
            mock.patch.multiple(os, **replaced),
            mock.patch.object(builtins, "open", own_open),
            mock.patch.object(io, "open", own_open),
        ):
            yield self

    def _once(self, name: str) -> Callable[..., Any]:
        does = getattr(os, name)

        def do(path: Any, *args: Any, **settings: Any) -> Any:
            if settings.get("dir_fd") is None:
                self.meet(name, path)
            return does(path, *args, **settings)

        return do

    def _twice(self, name: str) -> Callable[..., Any]:
        does = getattr(os, name)

        def do(source: Any, target: Any, *args: Any, **settings: Any) -> Any:
            self.meet(name, target)
            return does(source, target, *args, **settings)

        return do

    @property
    def _open_file(self) -> Callable[..., int]:
        does = os.open

        def do(path: Any, flags: int, *args: Any, **settings: Any) -> int:
            if flags & WRITE_FLAGS and settings.get("dir_fd") is None:
                self.meet("open", path)
            file = does(path, flags, *args, **settings)
            self._paths[file] = os.fsdecode(path)
            return file

        return do

    @property
    def _sync(self) -> Callable[[int], None]:
        does = os.fsync

        def do(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if os.path.isfile(path := self._path(number)):
                self.meet("sync", path)
            does(file)

        return do

    def _path(self, file: int) -> str:
        return os.readlink(f"/proc/self/fd/{file}") if os.path.exists("/proc/self/fd") else self._paths.get(file, "")

    def _open(self, does: Callable[..., Any]) -> Callable[..., Any]:
        def do(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **settings: Any) -> Any:
            if not set(mode) & set("wax+") or (path := self._named(file)) is None:
                return does(file, mode, buffering, *args, **settings)
            if not isinstance(file, int):
                self.meet("open", path)
            return self._wrap(file, path, mode, buffering, *args, **settings)

        return do

    def _named(self, file: Any) -> str | None:
        path = os.path.abspath(self._path(file) if isinstance(file, int) else os.fsdecode(file))
        return path if path.startswith(self.folder + os.sep) else None

    def _wrap(
        self,
        file: Any,
        path: str,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        raw.meet = lambda: self.meet("write", path)
        if buffering == 0:
            return raw
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)


class _File(io.FileIO):
    meet: Callable[[], None]

    def write(self, content: Any) -> int:
        self.meet()
        return super().write(content)
