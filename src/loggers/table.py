"""The file of Lightning's CSVLogger, for runs that go on: it is added to, where Lightning's own starts anew."""

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from src.storage.files import remove, write_csv

Row = dict[str, str]


class Table(ExperimentWriter):
    """Write ``metrics.csv``: a row for each time that something is logged.

    Args:
        folder: where it lies.
        step: rows from this step on are taken back; ``None``: all.
    """

    def __init__(self, folder: str, step: int | None) -> None:
        super().__init__(folder)
        self.path = Path(self.metrics_file_path)
        rows = [] if step is None else [row for row in self._read() if _is_before(row, step)]
        self.metrics_keys = sorted({key for row in rows for key in row})
        if rows:
            write_csv(self.path, rows)
        else:
            remove(self.path)

    def _check_log_dir_exists(self) -> None:
        """Leave the folder as it is: Lightning deletes the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Give the rows that are there places for new metrics, all at once."""
        write_csv(self.path, [{key: row.get(key, "") for key in fieldnames} for row in self._read()])

    def _read(self) -> list[Row]:
        if not self.path.is_file():
            return []
        with open(self.path, newline="") as file:
            return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]


def _is_before(row: Mapping[str, str], step: int) -> bool:
    """Return whether a row is of an earlier step; one that was cut off is not."""
    return row.get("step", "").isdecimal() and int(row["step"]) < step
