"""Texts of your own: a CSV or Parquet file with a column of texts, and one to predict from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.core.errors import InputError
from src.core.formatting import format_count
from src.data.loading.samples import Samples
from src.data.preprocessing import ROW, Preprocessing
from src.data.table import FileDataModule
from src.data.tables.inspection import require_columns
from src.data.tables.reading import Column
from src.data.tables.text import TextEncoder, count_cut, fit_text


class Text(FileDataModule):
    """The rows of a file: inputs (L,) int64, the numbers of a text's words, and the target columns.

    The words are those of the training rows (`src.data.tables.text`). Rows without a text are left out.

    Args:
        text: the name of the column of texts.
        max_words: the number of different words that are distinguished, the most frequent ones.
        max_length: the words of a text that are read.
        settings: those of `FileDataModule`.
    """

    encoder: TextEncoder
    dropping = "data.text"

    def __init__(self, text: str | None, max_words: int, max_length: int, **settings: Any) -> None:
        if text is None:
            needed = "data.file=FILE.csv data.text=COLUMN data.target=COLUMN"
            raise InputError(f"data=text needs a file, its column of texts and the column to predict: {needed}")
        self.text, self.max_words, self.max_length = text, max_words, max_length
        super().__init__(**settings)
        self.num_tokens = self.encoder.num_tokens

    def choose_columns(self, columns: Mapping[str, Column]) -> list[str]:
        require_columns("data.text", [self.text], columns)
        if self.text in self.target_names:
            raise InputError(f"data.text={self.text} is the target, which cannot be learned from")
        if columns[self.text].words is None:
            raise InputError(f"data.text={self.text} has numbers and no texts: data=table learns from numbers")
        return [self.text]

    def fit_encoder(self, columns: Mapping[str, Column], names: Sequence[str], rows: np.ndarray) -> TextEncoder:
        return fit_text(self.text, columns[self.text].take(rows), self.max_words, self.max_length)

    def describe_columns(self, names: Sequence[str]) -> str:
        words, length = format_count(len(self.encoder.words), "word"), self.encoder.length
        return f"texts {self.text} ({words}, up to {length} in a text)"

    def inspect_rows(self, columns: Mapping[str, Column], samples: Samples) -> list[str]:
        cut = count_cut(self.encoder, columns[self.text].take(samples.inputs.numpy()))
        return [f"{format_count(cut, 'text')} cut to {self.encoder.length} words (data.max_length)"] if cut else []

    def describe_preprocessing(self) -> Preprocessing:
        return Preprocessing(ROW, options={"delimiter": self.delimiter, "text": self.encoder.to_plain()})
