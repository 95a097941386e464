"""Encode columns as a network's inputs, by statistics of the training rows; the encoding is kept as plain values."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from src.core.errors import InputError
from src.data.tables.reading import Column


class NumberEncoding(NamedTuple):
    """A column of numbers as (value − mean) / std; the median stands in for an empty cell.

    Attributes:
        name: the column's name.
        mean, std: of the training cells that are not empty; ``std`` > 0.
        median: of these cells.
        marks_missing: a second input is 1 where the cell is empty, else 0.
    """

    name: str
    mean: float
    std: float
    median: float
    marks_missing: bool

    @property
    def feature_names(self) -> list[str]:
        """The names of the inputs."""
        return [self.name, f"{self.name} is missing"][: 1 + self.marks_missing]

    def encode(self, column: Column) -> np.ndarray:
        """Return a column's inputs (N, 1 or 2) float32.

        Raises:
            InputError: if it holds words.
        """
        if column.words is not None:
            example = f", such as {column.words[0]}," if column.words else ""
            raise InputError(f"column {self.name} has words{example} and was one of numbers")
        values = np.where(column.is_missing, self.median, column.values)
        parts = [(values - self.mean) / self.std, column.is_missing]
        return np.stack(parts[: 1 + self.marks_missing], axis=1).astype(np.float32)


class WordEncoding(NamedTuple):
    """A column of words as one-hot inputs; a word that is none of ``words`` makes them all 0.

    Attributes:
        name: the column's name.
        words: the words of the training rows, sorted.
        marks_missing: a last input is 1 where the cell is empty, else 0.
    """

    name: str
    words: tuple[str, ...]
    marks_missing: bool

    @property
    def feature_names(self) -> list[str]:
        """The names of the inputs."""
        return [*(f"{self.name} = {word}" for word in self.words), *[f"{self.name} is missing"] * self.marks_missing]

    def encode(self, column: Column) -> np.ndarray:
        """Return a column's inputs (N, number of words, one more if ``marks_missing``) float32.

        Raises:
            InputError: if it holds numbers.
        """
        if column.words is None:
            raise InputError(f"column {self.name} has numbers, and was one of words: read it as words")
        places = {word: place for place, word in enumerate(self.words)}
        count = len(self.words)
        # Row `count` of the identity is for unknown words, the one after it for empty cells (code −1, the last).
        codes = np.array([*(places.get(word, count) for word in column.words), count + 1])
        width = count + self.marks_missing
        rows = np.zeros((count + 2, width), np.float32)
        rows[:count, :count] = np.eye(count)
        rows[count + 1, count:] = 1
        return rows[codes[column.values]]

    def find_unseen(self, column: Column) -> list[str]:
        """Return a column's words that no training row has, sorted."""
        present = np.unique(column.values[~column.is_missing])
        return sorted({(column.words or ())[code] for code in present} - set(self.words))


class ColumnEncoder(NamedTuple):
    """The encoding of each column that is used, in the order of the inputs."""

    columns: tuple[NumberEncoding | WordEncoding, ...]

    @property
    def feature_names(self) -> list[str]:
        """The names of all inputs."""
        return [name for column in self.columns for name in column.feature_names]

    @property
    def width(self) -> int:
        """The number of inputs."""
        return len(self.feature_names)

    @property
    def word_columns(self) -> list[str]:
        """The names of the columns of words, which must be read as such."""
        return [column.name for column in self.columns if isinstance(column, WordEncoding)]

    def encode(self, columns: Mapping[str, Column], rows: np.ndarray) -> np.ndarray:
        """Return the inputs (N, D) float32 of rows given by index or mask; columns that are not used may be missing.

        Raises:
            InputError: if a column is missing or of the other kind.
        """
        if missing := [column.name for column in self.columns if column.name not in columns]:
            raise InputError(f"there is no column {', '.join(missing)}: there are {', '.join(columns)}")
        return np.concatenate([each.encode(columns[each.name].take(rows)) for each in self.columns], axis=1)

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the encoding as values that JSON holds exactly."""
        return [
            {key: list(value) if isinstance(value, tuple) else value for key, value in column._asdict().items()}
            for column in self.columns
        ]

    @classmethod
    def from_plain(cls, content: Iterable[Mapping[str, Any]]) -> "ColumnEncoder":
        """Return the encoder whose `to_plain` gave these values.

        Raises:
            KeyError, TypeError, ValueError: for any other values, such as a damaged file may hold.
        """
        return cls(tuple(_parse_words(each) if "words" in each else _parse_numbers(each) for each in content))


def _parse_numbers(content: Mapping[str, Any]) -> NumberEncoding:
    mean, std, median = (float(content[name]) for name in ("mean", "std", "median"))
    if not np.isfinite([mean, std, median]).all() or std <= 0:
        raise ValueError
    return NumberEncoding(_parse_text(content["name"]), mean, std, median, bool(content["marks_missing"]))


def _parse_words(content: Mapping[str, Any]) -> WordEncoding:
    words = tuple(map(_parse_text, content["words"]))
    return WordEncoding(_parse_text(content["name"]), words, bool(content["marks_missing"]))


def _parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def fit_encoder(columns: Mapping[str, Column]) -> ColumnEncoder:
    """Return the encoder for columns of training rows; columns that are the same in all of these rows are left out.

    Raises:
        InputError: if a column's numbers are too large.
    """
    fitted = (
        fit_numbers(name, column) if column.words is None else fit_words(name, column)
        for name, column in columns.items()
    )
    return ColumnEncoder(tuple(column for column in fitted if column is not None))


def fit_numbers(name: str, column: Column) -> NumberEncoding | None:
    """Return the encoding of a column of numbers; ``None`` if it says nothing.

    Raises:
        InputError: if the numbers are too large.
    """
    values, some_missing = column.values[~column.is_missing], bool(column.is_missing.any())
    if not len(values) or (not some_missing and values.min() == values.max()):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not np.isfinite(std):
        raise InputError(f"column {name} has numbers up to {np.abs(values).max():g}, which are too large")
    return NumberEncoding(name, mean, std or 1.0, float(np.median(values)), some_missing)


def fit_words(name: str, column: Column) -> WordEncoding | None:
    """Return the encoding of a column of words; ``None`` if it says nothing."""
    assert column.words is not None
    words = sorted(column.words[code] for code in np.unique(column.values[~column.is_missing]))
    some_missing = bool(column.is_missing.any())
    return WordEncoding(name, tuple(words), some_missing) if len(words) + some_missing > 1 else None
