"""Read the rows of a table, encoded as those of the run's own table were."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.tables.encoding import ColumnEncoder
from src.data.tables.reading import DELIMITERS, MAX_BYTES, Column, parse_file, read_columns
from src.data.tables.text import TextEncoder


class TableReader:
    """Reads and encodes the rows of CSV and Parquet files; columns are found by their names.

    Args:
        options: those of the preprocessing in a checkpoint.
        width: the number of the network's inputs.

    Raises:
        InputError: if they are damaged.
    """

    def __init__(self, options: Mapping[str, Any], width: int) -> None:
        self.delimiter = options.get("delimiter")
        try:
            self.encoder: ColumnEncoder | TextEncoder
            if "text" in options:
                self.encoder = TextEncoder.from_plain(options["text"])
            else:
                self.encoder = ColumnEncoder.from_plain(options["columns"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError("the checkpoint is damaged: what it says about its table is no description") from error
        if self.delimiter not in (None, *DELIMITERS) or self.encoder.width != width:
            raise InputError("the checkpoint is damaged: what it says about its table does not fit its network")

    def read(self, path: Path) -> Tensor:
        """Return the rows of a file as a network's inputs: (N, D) float32, or tokens int64.

        Raises:
            InputError: if the file is damaged, or lacks a column that the network learned from.
        """
        return self._encode(read_columns(path, self.delimiter, self.encoder.word_columns)[0], path)

    def read_stdin(self) -> Tensor:
        """Return the rows on standard input, see `read`."""
        path = Path("standard input")
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES:,} bytes")
        return self._encode(parse_file(content, path, self.delimiter, self.encoder.word_columns), path)

    def read_frame(self, frame: Any, name: str) -> Tensor:
        """Return the rows of a data frame of pandas, or of another library with ``to_csv``, see `read`."""
        content = frame.to_csv(index=False).encode()
        return self._encode(parse_file(content, Path(name), "comma", self.encoder.word_columns), Path(name))

    def _encode(self, columns: dict[str, Column], path: Path) -> Tensor:
        count = len(next(iter(columns.values())).values)
        try:
            return torch.from_numpy(self.encoder.encode(columns, np.arange(count)))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
