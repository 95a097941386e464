"""Decode the images of a folder once, in parallel, and keep them as one file for all runs that use them.

The file NAME.npy has the images, uint8 (N, C, H, W), and NAME.json says which files they come from: it is written last,
has the SHA-256 of the first, and is found outdated if a file's path, size or time of change is another. A hash of each
file's content would notice no more in practice and would read all of them at the start of every run.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from src.core.errors import InputError
from src.core.formatting import format_long_duration, to_relative_path
from src.core.processes import count_cores, get_memory_bytes
from src.data.own.decoding import decode_image
from src.storage.files import open_atomic, read_bytes, read_json, write_json

log = logging.getLogger(__name__)
FORMAT = 1  # raised when the same files would be decoded into other bytes
MAX_FILE_BYTES = 2**28  # of one image file
MAX_MEMORY_FRACTION = 0.4  # of the free memory that the images may take; there are two copies while they are split
PROGRESS_IMAGES = 500  # with fewer, decoding takes about a second and shows no bar


class DecodedImages(NamedTuple):
    """The images of a folder.

    Attributes:
        images: uint8 (N, C, H, W), of the files that could be decoded, in their order.
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

    def __init__(self, root: Path, names: list[str], size: int, channels: int, folder: Path) -> None:
        self.root, self.names, self.shape = root, names, (channels, size, size)
        place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
        stem = f"{root.resolve().name or 'images'}-{size}x{size}x{channels}-{place}"
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

    def load(self) -> DecodedImages:
        """Return the decoded images, from the cache if it has them; of several processes one decodes.

        Raises:
            InputError: if they do not fit into memory, or the cache cannot be written.
        """
        self._check_memory()
        if found := self._read():
            return found
        folder = self.array_file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _wait_for(FileLock(self.array_file.with_suffix(".lock"))):
                if found := self._read():
                    return found
                self._write(*self._decode())
        except (OSError, NotImplementedError) as error:  # FileLock raises NotImplementedError on disks without locks
            raise InputError(f"{folder} cannot be written ({error}): set data.cache=FOLDER to where it can") from error
        found = self._read()
        if found is None:
            raise InputError(f"{self.array_file} was changed while it was written: start again")
        return found

    def _check_memory(self) -> None:
        needed, free = len(self.names) * int(np.prod(self.shape)), _get_free_memory()
        if needed > MAX_MEMORY_FRACTION * free:
            raise InputError(
                f"data.size={self.shape[1]}: {len(self.names):,} images take {needed:,} bytes in memory, of which "
                f"{free:,} are free: choose a smaller data.size"
            )

    def _read(self) -> DecodedImages | None:
        """Return the images in the cache; ``None`` if it is missing, outdated or damaged."""
        index: Any = read_json(self.index_file)
        if index is None or index.get("key") != self.key:
            return None
        try:
            with open(self.array_file, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != index["sha256"]:
                    return None
            # "c": the pages are read when they are needed, and shared by all processes.
            images = torch.from_numpy(np.load(self.array_file, mmap_mode="c", allow_pickle=False))
            return DecodedImages(images, index["digests"], index["failures"])
        except (OSError, ValueError, KeyError):
            return None

    def _write(self, images: Tensor, digests: list[str], failures: dict[str, list[int]]) -> None:
        with open_atomic(self.array_file) as file:
            np.lib.format.write_array(file, images.numpy(), allow_pickle=False)
        with open(self.array_file, "rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        write_json(self.index_file, {"key": self.key, "sha256": digest, "digests": digests, "failures": failures})

    def _decode(self) -> tuple[Tensor, list[str], dict[str, list[int]]]:
        """Decode all files in parallel; return what `DecodedImages` holds."""
        start, count = time.monotonic(), len(self.names)
        images = np.empty((count, *self.shape), dtype=np.uint8)
        # Threads, for Pillow decodes without Python's lock; processes would copy the images once more.
        with ThreadPoolExecutor(count_cores()) as pool:
            done = pool.map(lambda index: self._decode_file(index, images), range(count))
            hidden = True if count < PROGRESS_IMAGES else None  # None: hidden unless it is a terminal
            outcomes = list(tqdm(done, "decoding images", total=count, unit="image", disable=hidden, leave=False))
        failures: dict[str, list[int]] = {}
        for index, (_, reason) in enumerate(outcomes):
            if reason:
                failures.setdefault(reason, []).append(index)
        kept = [index for index, (digest, _) in enumerate(outcomes) if digest]
        for place, index in enumerate(kept):
            if place != index:
                images[place] = images[index]
        log.info(
            "%s of %s decoded in %s; kept in %s, which may be deleted",
            *(f"{count:,} images", self.root, format_long_duration(time.monotonic() - start)),
            to_relative_path(self.array_file),
        )
        return torch.from_numpy(images[: len(kept)]), [digest for digest, _ in outcomes], failures

    def _decode_file(self, index: int, images: NDArray[np.uint8]) -> tuple[str, str]:
        """Decode one file into its row of the images; return its SHA-256, or an empty text and why it failed."""
        try:
            content = read_bytes(self.root / self.names[index], MAX_FILE_BYTES)
            images[index] = decode_image(content, self.shape[1], self.shape[0])
        except InputError:
            return "", f"files have more than {MAX_FILE_BYTES // 2**20} MiB, or are no regular files"
        except OSError:
            return "", "files cannot be read"
        except ValueError as error:
            return "", str(error)
        return hashlib.sha256(content).hexdigest()[:32], ""


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
