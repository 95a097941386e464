"""Read what is to be predicted: pictures, folders of them, arrays, rows of numbers, and what standard input lists."""

import csv
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.core.errors import InputError
from src.data.base import EVAL_BATCH_SIZE
from src.data.own.decoding import decode_image, fit_image
from src.data.own.listing import SUFFIXES
from src.data.preprocessing import IMAGE, ROW, VALUES, DataDescription
from src.inference.tables import TableReader
from src.storage.files import open_regular_file, read_bytes

STDIN = "-"
MAX_FILE_BYTES = 2**30  # of a picture
ENCODING = "utf-8-sig"  # UTF-8, with or without a byte order mark


class Item(NamedTuple):
    """An input to predict: its name, and its raw values (*in_shape), uint8 pixels or float64 numbers."""

    name: str
    raw: Tensor


class Reader:
    """Reads the inputs of a network.

    Args:
        description: what the network takes.

    Attributes:
        errors: a line for each input that could not be read.

    Raises:
        InputError: if the inputs are of an unknown kind.
    """

    def __init__(self, description: DataDescription) -> None:
        steps = description.preprocessing
        if steps is None or steps.kind not in (IMAGE, VALUES, ROW):
            how = "its data set does not say how (describe_preprocessing, docs/extend.md)"
            raise InputError(f"files cannot be prepared for this network: {how}; its own samples can: split=test")
        self.in_shape, self.takes_images = description.in_shape, steps.kind == IMAGE
        self.table = TableReader(steps.options, self.in_shape[0]) if steps.kind == ROW else None
        self.errors: list[str] = []

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings of the files that can be read."""
        if self.table is not None:
            return (".csv", ".parquet")
        return (*SUFFIXES, ".npy") if self.takes_images else (".csv", ".npy")

    def find_files(self, paths: Sequence[str]) -> list[str]:
        """Return the files to read: folders are replaced by the files in them, sorted, hidden ones left out."""
        listed = [line for path in paths for line in (self._list_stdin() if path == STDIN else [path])]
        return [file for path in listed for file in self._expand(path)]

    def _list_stdin(self) -> list[str]:
        """Return the paths on standard input, if the network takes images; otherwise it holds rows itself."""
        return [line for text in sys.stdin if (line := text.rstrip("\r\n"))] if self.takes_images else [STDIN]

    def _expand(self, path: str) -> list[str]:
        folder = Path(path).expanduser()
        if path == STDIN or not folder.is_dir():
            return [path if path == STDIN else str(folder)]
        inside = sorted(each for each in folder.rglob("*") if each.suffix.lower() in self.suffixes and each.is_file())
        found = [str(each) for each in inside if not any(part[0] == "." for part in each.relative_to(folder).parts)]
        if not found:
            self.errors.append(f"{path} has no file that ends in {', '.join(self.suffixes)}")
        return found

    def read_batches(self, files: Sequence[str], advance: Callable[[int], object]) -> Iterator[list[Item]]:
        """Yield batches of inputs in the files' order; what cannot be read is left out and listed in ``errors``.

        Args:
            files: from `find_files`.
            advance: called with the number of files that have been read since.
        """
        for start in range(0, len(files), EVAL_BATCH_SIZE):
            group = files[start : start + EVAL_BATCH_SIZE]
            yield from batch_items(self._read_group(group))
            advance(len(group))

    def _read_group(self, files: Sequence[str]) -> Iterator[Item]:
        """Yield the inputs in files, in their order; pictures are decoded in threads."""
        pictures = [file for file in files if self.takes_images and _get_suffix(file) != ".npy"]
        with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
            decoded = {file: pool.submit(self._read_image, Path(file)) for file in pictures}
            for file in files:
                try:
                    yield from [Item(file, decoded[file].result())] if file in decoded else self._read(file)
                except InputError as error:
                    self.errors.append(str(error))

    def _read_image(self, path: Path) -> Tensor:
        """Return a picture as uint8 (C, H, W), fitted to the network's input.

        Raises:
            InputError: if the file is missing, damaged, too large or no picture.
        """
        channels, height, width = self.in_shape
        try:
            if height != width or channels not in (1, 3):
                raise ValueError(f"this network takes {channels}×{height}×{width} numbers, from a .npy file")
            return torch.from_numpy(decode_image(read_bytes(path, MAX_FILE_BYTES), height, channels).copy())
        except OSError as error:
            raise _explain(path, error) from error
        except ValueError as error:
            reason = re.sub(r"^(images|files) (are|have) ", "", str(error))  # elsewhere it describes many at once
            raise InputError(f"{path} cannot be read ({reason})") from error

    def _read(self, file: str) -> Iterator[Item]:
        """Yield the inputs in an array, a table or standard input."""
        suffix = _get_suffix(file)
        if self.table is not None:
            name = "standard input" if file == STDIN else file
            rows = self.table.read_stdin() if file == STDIN else self.table.read(Path(file))
            yield from (Item(f"{name}, row {number}", row) for number, row in enumerate(rows, 1))
        elif suffix == ".npy":
            yield from self.read_values(_open_array(Path(file)), file)
        elif file == STDIN:
            yield from self._read_rows("standard input", sys.stdin)
        elif suffix == ".csv":
            with _open_text(Path(file)) as text:
                yield from self._read_rows(file, text)
        else:
            raise InputError(f"{file}: this network takes {self.describe()}, from files that end in .csv or .npy")

    def describe(self) -> str:
        """Return what one input is, for messages."""
        shape = "×".join(map(str, self.in_shape))
        return "images" if self.takes_images else f"{shape} numbers" if len(self.in_shape) == 1 else f"arrays {shape}"

    def _read_rows(self, name: str, lines: TextIO) -> Iterator[Item]:
        """Yield the rows of numbers in a CSV file; a first line with words is a header.

        A line with other values than the network takes is left out and listed in ``errors``.

        Raises:
            InputError: if the network takes no rows, or the file is no text.
        """
        if len(self.in_shape) != 1:
            raise InputError(f"{name}: this network takes {self.describe()}, from files that end in .npy")
        try:
            for cells in (rows := csv.reader(lines)):
                numbers = _parse_numbers(cells)
                if not cells or (numbers is None and rows.line_num == 1):
                    continue
                if numbers is not None and len(numbers) == self.in_shape[0]:
                    yield Item(f"{name}:{rows.line_num}", torch.tensor(numbers, dtype=torch.float64))
                    continue
                found = "not all are numbers" if numbers is None else f"{len(cells)} values"
                self.errors.append(f"{name}, line {rows.line_num}: {found}; this network takes {self.describe()}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{name} is no CSV file ({error})") from error

    def read_python(self, inputs: Any) -> Iterator[Item]:
        """Yield the inputs in an array, a tensor, nested lists of numbers, or a data frame.

        Raises:
            InputError: if the network does not take them.
        """
        if self.table is not None:
            if not hasattr(inputs, "to_csv"):
                raise InputError("this network takes rows of a table: give a data frame, or the path of a CSV file")
            for number, row in enumerate(self.table.read_frame(inputs, "data frame"), 1):
                yield Item(f"row {number}", row)
            return
        try:
            array = np.asarray(inputs.detach().cpu() if isinstance(inputs, Tensor) else inputs)
        except (TypeError, ValueError) as error:
            raise InputError(f"the inputs are no array ({error})") from error
        yield from self.read_values(array, "input")

    def read_values(self, array: np.ndarray, name: str) -> Iterator[Item]:
        """Yield the inputs in an array of this name: one, or as many as its first dimension has.

        Raises:
            InputError: if it has another shape or type than the network takes.
        """
        number = np.uint8 if self.takes_images else np.number
        if not np.issubdtype(array.dtype, number) or np.issubdtype(array.dtype, np.complexfloating):
            needed = "pixels as uint8, 0 to 255" if self.takes_images else "real numbers"
            raise InputError(f"{name} holds {array.dtype}, and this network takes {needed}")
        single = self._fits(array.shape)
        if not single and not (array.ndim and self._fits(array.shape[1:])):
            shape = "×".join(map(str, array.shape)) or "one number"
            needed = "images H×W×3, H×W or C×H×W" if self.takes_images else self.describe()
            raise InputError(f"{name} has the shape {shape}, and this network takes {needed}, one or several")
        for index, values in enumerate(array[None] if single else array):
            yield Item(name if single else f"{name}[{index}]", self._to_raw(values))

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Return True if a shape is that of one input; an image may have any size."""
        if shape == self.in_shape or not self.takes_images:
            return shape == self.in_shape
        if self.in_shape[1] != self.in_shape[2] or self.in_shape[0] not in (1, 3):
            return False
        return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))

    def _to_raw(self, values: np.ndarray) -> Tensor:
        if not self.takes_images:
            return torch.from_numpy(values.astype(np.float64))
        if values.shape == self.in_shape:
            return torch.from_numpy(values.copy())
        squeezed = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        image = Image.fromarray(np.ascontiguousarray(squeezed))
        return torch.from_numpy(fit_image(image, self.in_shape[1], self.in_shape[0]).copy())


def batch_items(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield inputs in batches of the size of an evaluation's; the last may be smaller."""
    rest = iter(items)
    while batch := list(islice(rest, EVAL_BATCH_SIZE)):
        yield batch


def _get_suffix(file: str) -> str:
    return Path(file).suffix.lower()


def _open_text(path: Path) -> TextIO:
    try:
        return io.TextIOWrapper(open_regular_file(path), encoding=ENCODING, newline="")
    except OSError as error:
        raise _explain(path, error) from error


def _open_array(path: Path) -> np.ndarray:
    """Open an array without reading it: a file that claims to be larger than it is is refused."""
    try:
        open_regular_file(path).close()
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _explain(path, error) from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged, or no array of numbers") from error
    return array


def _explain(path: Path, error: OSError) -> InputError:
    missing = isinstance(error, FileNotFoundError)
    return InputError(f"{path} does not exist" if missing else f"{path} cannot be read ({error.strerror})")


def _parse_numbers(cells: list[str]) -> list[float] | None:
    """Return cells as finite numbers; ``None`` if one is none."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
