"""The file of Lightning's CSVLogger for resumed runs: rows are appended, while Lightning's own writer starts over."""

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from src.storage.files import remove_file, write_csv

Row = dict[str, str]


class Table(ExperimentWriter):
    """Writer of ``metrics.csv``, with one row per call of the logger.

    Args:
        folder: the folder of the file.
        step: existing rows from this step on are removed; ``None`` removes all.
    """

    def __init__(self, folder: str, step: int | None) -> None:
        super().__init__(folder)
        self.path = Path(self.metrics_file_path)
        rows = [] if step is None else [row for row in self._read() if _is_before(row, step)]
        self.metrics_keys = sorted({key for row in rows for key in row})
        if rows:
            write_csv(self.path, rows)
        else:
            remove_file(self.path)

    def _check_log_dir_exists(self) -> None:
        """Do nothing: Lightning's own method deletes an existing file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Rewrite the existing rows with empty columns for new metrics."""
        write_csv(self.path, [{key: row.get(key, "") for key in fieldnames} for row in self._read()])

    def _read(self) -> list[Row]:
        if not self.path.is_file():
            return []
        with open(self.path, newline="") as file:
            return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]


def _is_before(row: Mapping[str, str], step: int) -> bool:
    """Return True if a row is of an earlier step; False for a row that was cut off."""
    return row.get("step", "").isdecimal() and int(row["step"]) < step
