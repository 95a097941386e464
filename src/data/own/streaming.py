"""Images that stay in a file and are read batch by batch, ahead of their use, where they are too large for memory."""

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
BLOCK_BYTES = 2**24  # read at once where all images are needed
READERS = 2  # threads: while one waits for the disk, the other one copies
AHEAD = 4  # batches that are read before they are used


class MappedFile:
    """The array uint8 (N, …) of a .npy file, of which the process keeps no more in memory than it has just read."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{path} has another version of the format")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype != np.uint8:
                raise ValueError(f"{path} does not hold bytes")
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            content = np.frombuffer(self.memory, np.uint8, offset=file.tell())
        self.array = content.reshape(shape)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of some rows; other threads run meanwhile."""
        found = self.array.take(rows, axis=0)
        self.memory.madvise(mmap.MADV_DONTNEED)  # the system may keep the pages, but they are no longer this process's
        return found


class StreamedImages:
    """Images uint8 (N, C, H, W) in a file, which are read when they are indexed.

    It has those methods of a tensor that data sets are asked for.

    Args:
        file: the file with these images and others.
        rows: where they are in it, (N,).
    """

    device = torch.device("cpu")
    dtype = torch.uint8

    def __init__(self, file: MappedFile, rows: NDArray[np.int64] | None = None) -> None:
        self.file = file
        self.rows = np.arange(len(file.array)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.file.array.shape[1:]))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel()

    def __getitem__(self, index: Any) -> Tensor:
        return torch.from_numpy(self.file.read(self._find_rows(index)))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        assert dim == 0
        return self[index]

    def select(self, index: Tensor | slice) -> "StreamedImages":
        """Return some of the images, still in the file."""
        return StreamedImages(self.file, self._find_rows(index))

    def numel(self) -> int:
        return self.shape.numel()

    def to(self, device: torch.device, non_blocking: bool = False) -> "Tensor | StreamedImages":
        """Return all images on another device; no more than some blocks are in this computer's memory meanwhile."""
        if device == self.device:
            return self
        images, start = torch.empty(self.shape, dtype=self.dtype, device=device), 0
        for block in self.split(self.block_size):
            images[start : start + len(block)] = block
            start += len(block)
        return images

    @property
    def block_size(self) -> int:
        """The number of images to read at once where all are needed."""
        return max(1, BLOCK_BYTES // self.shape[1:].numel())

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, ``size`` at a time."""
        return read_ahead(self.__getitem__, (slice(start, start + size) for start in range(0, len(self), size)))

    def sort(self) -> "StreamedImages":
        """Return the images in the order of the file, in which they are read fastest."""
        return StreamedImages(self.file, np.sort(self.rows))

    def _find_rows(self, index: Any) -> NDArray[np.int64]:
        return self.rows[index.numpy() if isinstance(index, Tensor) else index]


def select_rows(values: Tensor, index: Tensor | slice) -> Tensor:
    """Return some rows of a tensor; those of streamed images stay in the file."""
    if isinstance(values, StreamedImages):
        return values.select(index)
    return values[index] if isinstance(index, slice) else gather_rows(values, index)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return ``values[index]`` for an index of positions (B,) or a boolean mask (N,)."""
    # index_select copies each row at once, which is ten times as fast for images.
    return values.index_select(0, index) if index.dtype == torch.long else values[index]


def read_ahead(read: Callable[[Any], T], indices: Iterable[Any]) -> Iterator[T]:
    """Yield what is read for each index, in order, while threads read the next ones."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque[Any]()
        for index in indices:
            waiting.append(pool.submit(read, index))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
