"""Decode the images of a folder once, in parallel, and keep them as one file for all runs that use them.

Images that are too large for memory stay in that file, from which batches are read; decoding holds a block of them.

The file NAME.npy has the images, uint8 (N, C, H, W), and NAME.json says which files they come from: it is written last,
has the SHA-256 of the first, and is found outdated if a file's path, size or time of change is another. A hash of each
file's content would notice no more in practice and would read all of them at the start of every run.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from src.core.devices import is_main_process
from src.core.errors import InputError
from src.core.formatting import format_long_duration, to_relative_path
from src.core.processes import count_cores, get_memory_bytes
from src.data.own.decoding import decode_image
from src.data.own.streaming import BLOCK_BYTES, MappedFile, StreamedImages
from src.storage.files import open_atomic, read_bytes, read_json, write_json

log = logging.getLogger(__name__)
FORMAT = 1  # raised when the same files would be decoded into other bytes
MAX_FILE_BYTES = 2**28  # of one image file
MAX_MEMORY_FRACTION = 0.4  # of the free memory that the images may take; there are two copies while they are split
PROGRESS_IMAGES = 500  # with fewer, decoding takes about a second and shows no bar


class DecodedImages(NamedTuple):
    """The images of a folder.

    Attributes:
        images: uint8 (N, C, H, W), of the files that could be decoded, in their order; `StreamedImages` if they are to
            stay on disk.
        digests: for each file the first 32 digits of its content's SHA-256; empty if it could not be decoded.
        failures: reason → the indices of the files that could not be decoded.
    """

    images: Tensor
    digests: list[str]
    failures: dict[str, list[int]]


class ImageCache:
    """The decoded images of some files.

    Args:
        root: the folder with the files.
        names: the files' paths below it.
        size, channels: the shape of the decoded images.
        folder: where decoded images are kept.
    """

    kind = ""  # of the files, in the name of the cache's

    def __init__(self, root: Path, names: list[str], size: int, channels: int, folder: Path) -> None:
        self.root, self.names, self.shape = root, names, (channels, size, size)
        self.bytes = len(names) * channels * size**2
        place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
        stem = f"{root.resolve().name or 'images'}-{self.kind}{size}x{size}x{channels}-{place}"
        self.array_file, self.index_file = folder / f"{stem}.npy", folder / f"{stem}.json"
        self.key = self._compute_key()

    def _compute_key(self) -> str:
        """Return a hash of all that determines the decoded images: the files' paths, sizes and times of change."""
        key = hashlib.sha256(repr((FORMAT, self.shape)).encode())
        for name in self.names:
            try:
                status = os.stat(self.root / name)
            except OSError:  # `decode_file` reports it
                continue
            times = (status.st_mtime_ns, status.st_ctime_ns)  # the second notices what keeps the first
            key.update(os.fsencode(f"{name}\0{status.st_size}\0{times}\0"))
        return key.hexdigest()

    def load(self, stream: bool | None = None) -> DecodedImages:
        """Return the decoded images, from the cache if it has them; of several processes one decodes.

        Args:
            stream: leave them on disk; ``None``: if they are too large for memory.

        Raises:
            InputError: if they are to fit into memory and do not, or the cache cannot be written.
        """
        stream = self._should_stream(stream)
        if found := self._read(stream):
            return found
        folder = self.array_file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _wait_for(FileLock(self.array_file.with_suffix(".lock"))):
                if found := self._read(stream):
                    return found
                self._check_disk()
                self._write()
        except (OSError, NotImplementedError) as error:  # FileLock raises NotImplementedError on disks without locks
            raise InputError(f"{folder} cannot be written ({error}): set data.cache=FOLDER to where it can") from error
        found = self._read(stream)
        if found is None:
            raise InputError(f"{self.array_file} was changed while it was written: start again")
        return found

    @property
    def size(self) -> str:
        """The size of the decoded images, in words."""
        return f"data.size={self.shape[1]}: {len(self.names):,} images take {self.bytes:,} bytes"

    def _should_stream(self, asked: bool | None) -> bool:
        """Return True if the images are to stay on disk; tell if that was not asked for.

        Raises:
            InputError: if they are not to stay there and are too large for memory.
        """
        free = _get_free_memory()
        fits = self.bytes <= MAX_MEMORY_FRACTION * free
        if asked is False and not fits:
            raise InputError(
                f"{self.size} in memory, of which {free:,} are free: choose a smaller data.size, or data.stream=true"
            )
        if asked is None and not fits and is_main_process():
            where = to_relative_path(self.array_file)
            log.info("%s, and of memory %s are free: batches are read from %s", self.size, f"{free:,}", where)
        return not fits if asked is None else asked

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.array_file.parent).free
        if self.bytes > free:
            raise InputError(
                f"{self.size} decoded, of which {self.array_file.parent} has {free:,} free: free some space, choose a "
                "smaller data.size, or set data.cache=FOLDER to another disk"
            )

    def _read(self, stream: bool) -> DecodedImages | None:
        """Return the images in the cache; ``None`` if it is missing, outdated or damaged."""
        index: Any = read_json(self.index_file)
        if index is None or index.get("key") != self.key:
            return None
        try:
            # A file that is too large for memory is not read as a whole at each start.
            is_known = stream and index.get("stamp") == _get_stamp(self.array_file)
            if not is_known and _compute_digest(self.array_file) != index["sha256"]:
                return None
            if stream:
                images: Any = StreamedImages(MappedFile(self.array_file))
            else:  # "c": the pages are read when they are needed, and shared by all processes.
                images = torch.from_numpy(np.load(self.array_file, mmap_mode="c", allow_pickle=False))
            return DecodedImages(images, index["digests"], index["failures"])
        except (OSError, ValueError, KeyError):
            return None

    def _write(self) -> None:
        """Decode all files and write what `_read` reads."""
        start = time.monotonic()
        with open_atomic(self.array_file) as file:
            digests, failures = self._decode(file)
        digest, stamp = _compute_digest(self.array_file), _get_stamp(self.array_file)
        index = {"key": self.key, "sha256": digest, "stamp": stamp, "digests": digests, "failures": failures}
        write_json(self.index_file, index)
        log.info(
            "%s of %s decoded in %s; kept in %s, which may be deleted",
            *(f"{len(self.names):,} images", self.root, format_long_duration(time.monotonic() - start)),
            to_relative_path(self.array_file),
        )

    def _decode(self, file: IO[bytes]) -> tuple[list[str], dict[str, list[int]]]:
        """Decode all files in parallel into a file; return what else `DecodedImages` holds."""
        count, digests, failures = len(self.names), list[str](), dict[str, list[int]]()
        _write_header(file, (count, *self.shape))
        block = np.empty((min(count, max(1, BLOCK_BYTES * count // self.bytes)), *self.shape), dtype=np.uint8)
        hidden = True if count < PROGRESS_IMAGES else None  # None: hidden unless it is a terminal
        bar = tqdm(desc="decoding images", total=count, unit="image", disable=hidden, leave=False)
        # Threads, for Pillow decodes without Python's lock; processes would copy the images once more.
        with bar, ThreadPoolExecutor(count_cores()) as pool:
            for start in range(0, count, len(block)):
                indices = range(start, min(start + len(block), count))
                for index, (digest, reason) in zip(indices, pool.map(self._decode_file, indices, block), strict=True):
                    digests.append(digest)
                    if reason:
                        failures.setdefault(reason, []).append(index)
                    bar.update()
                file.write(block[: len(indices)][np.array([bool(digests[index]) for index in indices])])
        file.seek(0)
        _write_header(file, (sum(map(bool, digests)), *self.shape))  # as long as before
        return digests, failures

    def _decode_file(self, index: int, pixels: NDArray[np.uint8]) -> tuple[str, str]:
        """Decode one file into its place (C, H, W); return its SHA-256, or an empty text and why it failed."""
        try:
            content = read_bytes(self.root / self.names[index], MAX_FILE_BYTES)
            pixels[:] = self.decode(index, content)
        except InputError:
            return "", f"files have more than {MAX_FILE_BYTES // 2**20} MiB, or are no regular files"
        except OSError:
            return "", "files cannot be read"
        except ValueError as error:
            return "", str(error)
        return hashlib.sha256(content).hexdigest()[:32], ""

    def decode(self, index: int, content: bytes) -> NDArray[np.uint8]:
        """Return the pixels (C, H, W) of a file's content; raise `ValueError` with the reason if it has none."""
        return decode_image(content, self.shape[1], self.shape[0])


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the beginning of a .npy file of bytes; its length does not depend on the number of rows."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _compute_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _get_stamp(path: Path) -> list[int]:
    """Return the size of a file and the time of its last change."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


@contextmanager
def _wait_for(lock: FileLock) -> Iterator[None]:
    """Hold a lock; say so if another process has it first."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is decoding the images; this one waits for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _get_free_memory() -> int:
    """Return the bytes of memory that a process can still take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return get_memory_bytes()
    return min(free, get_memory_bytes())
