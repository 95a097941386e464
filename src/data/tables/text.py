"""Encode a column of texts as tokens: the numbers of their words, by the words of the training rows."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from src.core.errors import InputError
from src.data.tables.reading import Column

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2  # tokens: behind the end of a text, a word that is not known, the first word
WORD = re.compile(r"\w+|[^\w\s]")  # letters and digits, or one other sign
MAX_LENGTH = 10_000  # words of a text


class TextEncoder(NamedTuple):
    """The way from texts to tokens; plain values, which encode other rows as well.

    Attributes:
        name: the column's name.
        words: the words of the tokens from `FIRST_WORD` on.
        length: tokens of each text; what is longer is cut.
    """

    name: str
    words: tuple[str, ...]
    length: int

    @property
    def num_tokens(self) -> int:
        """The number of different tokens."""
        return FIRST_WORD + len(self.words)

    @property
    def width(self) -> int:
        """The number of inputs."""
        return self.length

    @property
    def word_columns(self) -> list[str]:
        """The names of the columns of words, which must be read as such."""
        return [self.name]

    def encode(self, columns: Mapping[str, Column], rows: np.ndarray) -> np.ndarray:
        """Return the tokens (N, L) int64 of rows given by index or mask.

        Raises:
            InputError: if there is no such column, or it holds numbers.
        """
        if self.name not in columns:
            raise InputError(f"there is no column {self.name}: there are {', '.join(columns)}")
        column = columns[self.name].take(rows)
        if column.words is None:
            raise InputError(f"column {self.name} has numbers, and was one of texts")
        places = {word: number for number, word in enumerate(self.words, FIRST_WORD)}
        tokens = np.full((len(column.values), self.length), PADDING, np.int64)
        for row, code in zip(tokens, column.values.tolist(), strict=True):
            found = split_words(column.words[code])[: self.length] if code >= 0 else []
            row[: len(found)] = [places.get(word, UNKNOWN) for word in found]
        return tokens

    def to_plain(self) -> dict[str, Any]:
        """Return the encoding as values that JSON holds exactly."""
        return {**self._asdict(), "words": list(self.words)}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "TextEncoder":
        """Return the encoder whose `to_plain` gave these values.

        Raises:
            KeyError, TypeError, ValueError: for any other values, such as a damaged file may hold.
        """
        name, words, length = content["name"], tuple(content["words"]), content["length"]
        if not all(isinstance(text, str) for text in (name, *words)) or type(length) is not int:
            raise TypeError
        if not 0 < length <= MAX_LENGTH or len(set(words)) != len(words):
            raise ValueError
        return cls(name, words, length)


def split_words(text: str) -> list[str]:
    """Return the words and other signs of a text, in lower case."""
    return WORD.findall(text.lower())


def _list_texts(column: Column) -> Iterator[list[str]]:
    """Yield the words of each text of a column without empty cells."""
    assert column.words is not None
    yield from (split_words(column.words[code]) for code in column.values.tolist())


def fit_text(name: str, column: Column, max_words: int, max_length: int) -> TextEncoder:
    """Return the encoder for the texts of training rows.

    Args:
        name: the column's name.
        column: the training rows' texts, without empty cells.
        max_words: the most different words, those that occur most often.
        max_length: the most words of a text; if all are shorter, the longest decides.
    """
    counts, longest = Counter[str](), 1
    for words in _list_texts(column):
        counts.update(words)
        longest = max(longest, len(words))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return TextEncoder(name, tuple(ranked[:max_words]), min(longest, max_length))


def count_cut(encoder: TextEncoder, column: Column) -> int:
    """Return the number of texts that are longer than the encoder's length."""
    return sum(len(words) > encoder.length for words in _list_texts(column))
