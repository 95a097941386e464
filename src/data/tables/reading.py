"""Read the columns of a CSV or Parquet file as plain numbers and words, limited in size."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.core.checks import format_escaped
from src.core.disk import to_storage_error
from src.core.errors import InputError
from src.core.extras import require_package
from src.storage.files import read_bytes

MAX_BYTES = 2**30  # bytes of a file
MAX_COLUMNS = 10_000
MAX_ROWS = 10_000_000
MAX_CELLS = 500_000_000  # of a Parquet file, which may be packed a thousandfold
CHUNK = 500  # rows that are split into columns at a time: small enough for the cache, which is three times as fast
SAMPLE = 65_536  # bytes from which the delimiter is found
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none", "?")  # cells without a value, in lower case
PARQUET_MAGIC = b"PAR1"


class Column(NamedTuple):
    """The N cells of a column.

    Attributes:
        values: numbers (N,) float64, NaN where a cell is empty; of words their codes (N,) int64, −1 where it is empty.
        words: the words, by code; ``None`` for a column of numbers.
    """

    values: np.ndarray
    words: tuple[str, ...] | None = None

    @property
    def is_missing(self) -> np.ndarray:
        """The empty cells: (N,) bool."""
        return np.isnan(self.values) if self.words is None else self.values < 0

    def take(self, rows: np.ndarray) -> "Column":
        """Return the cells of some rows, given by index or mask."""
        return Column(self.values[rows], self.words)


def read_columns(
    path: Path, delimiter: str | None = None, as_words: Collection[str] = ()
) -> tuple[dict[str, Column], str]:
    """Return all columns of a file by name, and the SHA-256 of its content.

    A column is one of numbers if all its cells with a value are.

    Args:
        path: a CSV file with the names of the columns in its first line, or a Parquet file.
        delimiter: a key of `DELIMITERS`; ``None``: the one that divides the first lines evenly.
        as_words: columns to read as words even if all of their cells are numbers.

    Raises:
        InputError: naming what is wrong with the file, and the line.
    """
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise to_storage_error(path, error, "read") from error
    return parse_file(content, path, delimiter, as_words), hashlib.sha256(content).hexdigest()


def parse_file(
    content: bytes, path: Path, delimiter: str | None = None, as_words: Collection[str] = ()
) -> dict[str, Column]:
    """Return the columns in a file's content, see `read_columns`; messages name ``path``.

    Raises:
        InputError: naming what is wrong with the content, and the line.
    """
    if content.startswith(PARQUET_MAGIC):
        content, delimiter = convert_parquet(content, path), "comma"
    try:
        return parse_columns(content, delimiter, as_words)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as CSV in UTF-8") from error
    except csv.Error as error:
        reason = "a quote is not closed" if "end of data" in str(error) else str(error)
        raise InputError(f"{path} cannot be read as CSV: {reason}") from error
    except ValueError as error:
        raise InputError(f"{path}: {format_escaped(str(error))}") from error


def convert_parquet(content: bytes, path: Path) -> bytes:
    """Return a Parquet file's content as CSV, so that the same rules hold for both.

    Raises:
        InputError: if pyarrow is not installed, or the file is damaged, too large or has nested columns.
    """
    require_package("pyarrow", "table", f"data.file={path}")
    import pyarrow.csv
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        rows, columns = file.metadata.num_rows, file.metadata.num_columns
        if rows * columns > MAX_CELLS:
            raise InputError(f"{path} has {rows:,} × {columns:,} cells; {MAX_CELLS:,} can be read")
        text = io.BytesIO()
        pyarrow.csv.write_csv(file.read(), text)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a Parquet file: {format_escaped(reason)}") from error
    return text.getvalue()


def parse_columns(content: bytes, delimiter: str | None = None, as_words: Collection[str] = ()) -> dict[str, Column]:
    """Return the columns of a CSV file's content, see `read_columns`.

    Raises:
        ValueError: naming what is wrong, and the line.
    """
    sign = DELIMITERS[delimiter] if delimiter else find_delimiter(content)
    names = _read_names(content, sign, as_words)
    numbers = _read_numbers(content, sign, names, as_words)
    words = _read_words(content, sign, names, [name for name in names if name not in numbers])
    return {name: numbers[name] if name in numbers else words[name] for name in names}


def find_delimiter(content: bytes) -> str:
    """Return the delimiter that divides most of the first lines into as many cells as the header, and into most."""
    *lines, last = content[:SAMPLE].decode("utf-8-sig", errors="replace").splitlines(keepends=True) or [""]
    lines = [*lines, last] if len(content) <= SAMPLE or not lines else lines  # the last one may be cut
    best = (0.0, 0, ",")
    for sign in DELIMITERS.values():
        widths = _count_cells(lines, sign)
        if widths and widths[0] > 1:
            best = max(best, (widths.count(widths[0]) / len(widths), widths[0], sign), key=lambda found: found[:2])
    return best[2]


def _count_cells(lines: list[str], sign: str) -> list[int]:
    """Return the numbers of cells of lines that are not empty; an empty list if the quotes do not fit."""
    try:
        return [len(row) for row in csv.reader(lines, delimiter=sign, skipinitialspace=True, strict=True) if row]
    except csv.Error:
        return []


def _open_rows(content: bytes, sign: str) -> Any:
    """Return a reader of the rows, the header's among them."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    return csv.reader(text, delimiter=sign, skipinitialspace=True, strict=True)


def _read_names(content: bytes, sign: str, known: Collection[str] = ()) -> list[str]:
    """Return the names of the columns.

    Raises:
        ValueError: if there are none, only one that is not ``known``, too many or two of one name.
    """
    cells: list[str] = next((row for row in _open_rows(content, sign) if row), [])
    if not any(map(str.strip, cells)):
        raise ValueError("it is empty; a table begins with a line that names its columns")
    names = [format_escaped(" ".join(cell.split())) or f"column {place}" for place, cell in enumerate(cells, start=1)]
    if len(names) == 1 and names[0] not in known:
        raise ValueError("it has only one column; if it has more give the sign between them: data.delimiter=semicolon")
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"it has {len(names):,} columns; {MAX_COLUMNS:,} can be read")
    if (parsed := _parse_numbers(tuple(cells))) is not None and not np.isnan(parsed).all():
        raise ValueError("its first line must name the columns, and has only numbers")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} columns are named {name}: rename all but one of them")
    return names


def _read_chunks(content: bytes, sign: str, width: int) -> Iterator[list[tuple[str, ...]]]:
    """Yield the columns of up to `CHUNK` rows at a time; empty lines are skipped.

    Raises:
        ValueError: if a line has more or fewer cells than the header.
    """
    reader = _open_rows(content, sign)
    rows: list[list[str]] = []
    next(row for row in reader if row)  # the header
    for row in reader:
        if len(row) != width:
            if not row:
                continue
            raise ValueError(f"line {reader.line_num} has {len(row)} cells, and the first line has {width}")
        rows.append(row)
        if len(rows) == CHUNK:
            yield list(zip(*rows, strict=True))
            rows = []
    if rows:
        yield list(zip(*rows, strict=True))


def _read_numbers(content: bytes, sign: str, names: list[str], as_words: Collection[str]) -> dict[str, Column]:
    """Return the columns whose cells are all numbers or empty.

    Raises:
        ValueError: if there are no rows or too many, or a number is infinite.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names if name not in as_words}
    count = 0
    for chunk in _read_chunks(content, sign, len(names)):
        count += len(chunk[0])
        for name, cells in zip(names, chunk, strict=True):
            if name in parts:
                if (parsed := _parse_numbers(cells)) is None:
                    del parts[name]
                else:
                    parts[name].append(parsed)
        if count > MAX_ROWS:
            raise ValueError(f"it has more than {MAX_ROWS:,} rows")
    if not count:
        raise ValueError("it has no rows below the names of the columns")
    found = {name: Column(np.concatenate(each)) for name, each in parts.items()}
    for name, column in found.items():
        if len(infinite := np.flatnonzero(np.isinf(column.values))):
            raise ValueError(
                f"column {name} has an infinite number in row {infinite[0] + 1}: correct or empty the cell"
            )
    return found


def _parse_numbers(cells: tuple[str, ...]) -> np.ndarray | None:
    """Return cells as numbers (N,) float64, NaN for an empty one; ``None`` if one is something else."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    try:
        filled = (np.nan if cell.strip().lower() in MISSING_WORDS else float(cell) for cell in cells)
        return np.fromiter(filled, np.float64, len(cells))
    except ValueError:
        return None


def _read_words(content: bytes, sign: str, names: list[str], wanted: list[str]) -> dict[str, Column]:
    """Return columns as words, without the white space around them."""
    if not wanted:
        return {}
    codes: dict[str, dict[str, int]] = {name: {} for name in wanted}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for chunk in _read_chunks(content, sign, len(names)):
        for name, cells in zip(names, chunk, strict=True):
            if name in codes:
                known = codes[name]
                found = (known.setdefault(cell.strip(), len(known)) for cell in cells)
                parts[name].append(np.fromiter(found, np.int64, len(cells)))
    return {name: _drop_missing_words(np.concatenate(parts[name]), tuple(codes[name])) for name in wanted}


def _drop_missing_words(codes: np.ndarray, words: tuple[str, ...]) -> Column:
    """Return a column of words whose empty cells have the code −1."""
    kept = [word for word in words if word.lower() not in MISSING_WORDS]
    places = {word: place for place, word in enumerate(kept)}
    renumbered = np.array([places.get(word, -1) for word in words], np.int64)
    return Column(renumbered[codes], tuple(kept))
