"""Tables of your own: a CSV or Parquet file with a column to predict from the others."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.core.errors import InputError
from src.core.formatting import format_count
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.loading.splits import resolve_count, split_stratified
from src.data.preprocessing import ROW, Preprocessing
from src.data.tables.encoding import ColumnEncoder, WordEncoding, fit_encoder
from src.data.tables.inspection import find_suspects, join_names, refuse_unusable, require_columns
from src.data.tables.reading import Column, read_columns
from src.data.tables.targets import Target, find_targets, suggest_unit

log = logging.getLogger(__name__)


class FileDataModule(TensorDataModule):
    """The rows of a file: inputs encoded from some of its columns, and the target columns.

    Targets of regression are not standardised. The file is read when the data module is created, because the shape of a
    model depends on it.

    Args:
        file: a CSV file with the names of its columns in the first line, or a Parquet file.
        target: the name of the column to predict, or the names of several: labels or values.
        test_size: the rows to test on, a count or a fraction, stratified by class; unused with ``test_file``.
        test_file: a second file, with the rows to test on in place of ``test_size``; ``None``: there is none.
        task: the task; ``None``: found from the target.
        target_unit: for regression, what one unit of the target is, > 0: 1000 to predict thousands.
        delimiter: the sign between two cells, a key of `src.data.tables.reading.DELIMITERS`; ``None``: found.
        settings: those of `TensorDataModule`.

    Attributes:
        target: the task and the names of the classes, labels or values.
        target_names: the names of the columns to predict.
        encoder: how columns become inputs; plain values, which encode other rows as well.
        dropping: the setting that leaves out rows with empty cells; empty: there is none.
    """

    target: Target
    encoder: Any
    dropping = ""

    def __init__(
        self,
        file: str | None,
        target: str | Sequence[str] | None,
        test_size: int | float | None,
        test_file: str | None = None,
        task: str | None = None,
        delimiter: str | None = None,
        target_unit: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if file is None or not target:
            name = type(self).__name__.lower()
            raise InputError(
                f"data={name} needs a file and the column to predict: data.file=FILE.csv data.target=COLUMN"
            )
        self.path, self.test_path = Path(file), Path(test_file) if test_file else None
        self.target_names = [target] if isinstance(target, str) else list(map(str, target))
        self.test_size, self.delimiter = test_size or 0, delimiter
        self.notes: list[str] = []
        self.digests: dict[str, str] = {}  # SHA-256 of each file's content
        self._read(task, target_unit)

    def choose_columns(self, columns: Mapping[str, Column]) -> list[str]:
        """Return the names of the columns to learn from.

        Raises:
            InputError: if a setting names no column, or a column cannot be encoded.
        """
        raise AttributeError(f"{type(self).__name__} must define choose_columns()")

    def fit_encoder(self, columns: Mapping[str, Column], names: Sequence[str], rows: np.ndarray) -> Any:
        """Return the encoder of the columns with these names, by the training rows (N,)."""
        raise AttributeError(f"{type(self).__name__} must define fit_encoder()")

    def describe_columns(self, names: Sequence[str]) -> str:
        """Return what is learned from, in words; ``names`` are the columns that could be used."""
        raise AttributeError(f"{type(self).__name__} must define describe_columns()")

    def inspect_rows(self, columns: Mapping[str, Column], samples: Samples) -> list[str]:
        """Return notes about the usable rows, whose numbers are the inputs of the samples."""
        return []

    def find_unseen(self, columns: Mapping[str, Column], samples: Samples, stage: str) -> list[str]:
        """Return notes about rows to validate or test on that have what no training row has."""
        return []

    @property
    def note(self) -> str:
        return "; ".join(self.notes)

    def _read(self, task: str | None, target_unit: float) -> None:
        """Read the files, split the rows and encode them."""
        columns = self._read_file(self.path)
        require_columns("data.target", self.target_names, columns)
        if twice := next((name for name in self.target_names if self.target_names.count(name) > 1), None):
            raise InputError(f"data.target names the column {twice} twice")
        names = self.choose_columns(columns)
        rows = self._find_usable_rows(columns, names, self.path)
        self.target = find_targets(self._take_targets(columns, rows), task, target_unit)
        self.task, self.class_names = self.target.task, self.target.class_names
        self.value_names = self.target.value_names
        # Until they are encoded, the inputs of samples are the numbers of their rows.
        every = self._number_rows(columns, rows, self.path)
        if self.test_path is None:
            rest, test = self._split_test(every)
            tested = columns
        else:
            rest, (tested, test) = every, self._read_test_file(self.test_path, columns, names)
        train, val = self.split(rest)
        self.encoder = self.fit_encoder(columns, names, train.inputs.numpy())
        self.notes.insert(0, f"{self.path.name}: {format_count(every.size, 'row')}, {self.describe_columns(names)}")
        self._note_target(train)
        self.notes += self.inspect_rows(columns, every)
        self.notes += [*self.find_unseen(columns, val, "validation"), *self.find_unseen(tested, test, "test")]
        self.train_set, self.val_set = self._encode(columns, train, self.path), self._encode(columns, val, self.path)
        self.test_set = self._encode(tested, test, self.test_path or self.path)
        self.in_shape = (self.encoder.width,)

    def _read_file(self, path: Path, as_words: Sequence[str] = ()) -> dict[str, Column]:
        """Return a file's columns, and keep the digest of its content."""
        columns, self.digests[str(path)] = read_columns(path, self.delimiter, as_words)
        return columns

    def _read_test_file(
        self, path: Path, columns: Mapping[str, Column], names: Sequence[str]
    ) -> tuple[dict[str, Column], Samples]:
        """Return the columns of the file to test on and its samples, whose inputs are the numbers of their rows.

        Raises:
            InputError: if the file lacks a column, or has a class that the first file lacks.
        """
        tested = self._read_file(path, [name for name, column in columns.items() if column.words is not None])
        if lacking := [name for name in (*names, *self.target_names) if name not in tested]:
            raise InputError(f"data.test_file={path} lacks the columns {join_names(lacking)}")
        return tested, self._number_rows(tested, self._find_usable_rows(tested, names, path), path)

    def _find_usable_rows(self, columns: Mapping[str, Column], names: Sequence[str], path: Path) -> np.ndarray:
        """Return the numbers of the rows with a target and, if rows with empty cells are dropped, without any: (N,).

        Raises:
            InputError: if there are none.
        """
        lacks_target = np.logical_or.reduce([columns[name].is_missing for name in self.target_names])
        lacks_value = np.zeros_like(lacks_target)
        for name in names:
            lacks_value |= columns[name].is_missing
        is_usable = ~lacks_target & (~lacks_value | (not self.dropping))
        if lacks_target.all():
            raise InputError(f"{path}: the target {', '.join(self.target_names)} has no value in any row")
        if not is_usable.any():
            raise InputError(f"{path}: each row has an empty cell, and {self.dropping} leaves such rows out")
        for count, what in (
            (lacks_target.sum(), "without a target"),
            ((~lacks_target & ~is_usable).sum(), "with empty cells"),
        ):
            if count:
                self.notes.append(f"{path.name}: {format_count(int(count), 'row')} {what} left out")
        return np.flatnonzero(is_usable)

    def _number_rows(self, columns: Mapping[str, Column], rows: np.ndarray, path: Path) -> Samples:
        """Return samples of the rows (N,), whose inputs are the rows' numbers."""
        targets = self.target.encode(self._take_targets(columns, rows), f" of {path}")
        return Samples(torch.from_numpy(rows), targets)

    def _take_targets(self, columns: Mapping[str, Column], rows: np.ndarray) -> dict[str, Column]:
        return {name: columns[name].take(rows) for name in self.target_names}

    def _encode(self, columns: Mapping[str, Column], samples: Samples, path: Path) -> Samples:
        """Return samples whose inputs are the numbers of their rows with the inputs (N, D) of these rows.

        Raises:
            InputError: if a column has words instead of numbers.
        """
        try:
            return Samples(torch.from_numpy(self.encoder.encode(columns, samples.inputs.numpy())), samples.targets)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _split_test(self, samples: Samples) -> tuple[Samples, Samples]:
        """Split the samples into those to train and validate on, and those to test on, stratified by class."""
        count = resolve_count(self.test_size, samples.size, "data.test_size")
        if count in (0, samples.size):
            raise InputError(
                f"data.test_size={self.test_size} of {samples.size} rows leaves none to test or to train on"
            )
        test, rest = split_stratified(self.get_strata(samples), count, torch.Generator().manual_seed(self.split_seed))
        return samples.take(rest), samples.take(test)

    # For the log

    def _note_target(self, train: Samples) -> None:
        """Note what is predicted, and what is odd about it; the first note gets the former."""
        task, title = self.task, "target" if len(self.target_names) == 1 else "targets"
        if self.class_names and title == "target":
            task += f", {self.num_classes} classes ({join_names(self.class_names)})"
        self.notes[0] += f", {title} {join_names(self.target_names)}: {task}"
        if self.class_names:
            present = train.targets if train.targets.ndim == 1 else train.targets.nonzero()[:, 1]  # labels that are 1
            counts = present.bincount(minlength=self.num_classes).tolist()
            if absent := [name for name, count in zip(self.class_names, counts, strict=True) if not count]:
                self.notes.append(f"no training row has the class {join_names(absent)}")
        elif unit := suggest_unit(train.targets):
            self.notes.append(
                f"a network learns numbers near 1 best, and the target's are not: data.target_unit={unit:g} divides "
                "them by this unit, in which the metrics are then"
            )

    # What a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the data: the digests of the files."""
        return {"digests": list(self.digests.values())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if a file has changed since the checkpoint was written."""
        before = state_dict.get("digests")  # anything, in a stranger's checkpoint
        for path, digest in self.digests.items():
            if not isinstance(before, list) or digest not in before:
                log.warning("%s has changed since this run was trained: the results are those of other rows", path)


class Table(FileDataModule):
    """The rows of a table: inputs (D,) float32 from all other columns than the target.

    Numbers are standardised and words are one-hot, by statistics of the training rows only
    (`src.data.tables.encoding`).

    Args:
        max_categories: the number of different words that a column may have.
        ignore: a name or names of columns to leave out.
        missing: "median": an empty cell gets the median, or no word, and an input that marks it; "drop": rows with an
            empty cell are left out.
        settings: those of `FileDataModule`.
    """

    encoder: ColumnEncoder

    def __init__(
        self, max_categories: int, ignore: str | Sequence[str] = (), missing: str = "median", **settings: Any
    ) -> None:
        self.max_categories, self.dropping = max_categories, "data.missing=drop" if missing == "drop" else ""
        self.ignore = [ignore] if isinstance(ignore, str) else list(map(str, ignore))
        super().__init__(**settings)

    def choose_columns(self, columns: Mapping[str, Column]) -> list[str]:
        require_columns("data.ignore", self.ignore, columns)
        if wrong := next((name for name in self.target_names if name in self.ignore), None):
            raise InputError(f"data.ignore: {wrong} is the target, which cannot be left out")
        self.learned = [name for name in columns if name not in (*self.ignore, *self.target_names)]
        refuse_unusable({name: columns[name] for name in self.learned}, self.max_categories, self.ignore)
        return self.learned

    def fit_encoder(self, columns: Mapping[str, Column], names: Sequence[str], rows: np.ndarray) -> ColumnEncoder:
        return fit_encoder({name: columns[name].take(rows) for name in names})

    def describe_columns(self, names: Sequence[str]) -> str:
        used = [each.name for each in self.encoder.columns]
        if not used:
            reason = "each is the same in all training rows" if names else "data.ignore leaves all of them out"
            raise InputError(f"{self.path}: there is no column to learn from: {reason}")
        words = len(self.encoder.word_columns)
        kinds = f"{len(used) - words} of numbers, {words} of words"
        left_out = f", ignored: {join_names(self.ignore)}" if self.ignore else ""
        return f"{format_count(len(used), 'column')} ({kinds}{left_out})"

    def inspect_rows(self, columns: Mapping[str, Column], samples: Samples) -> list[str]:
        """Return notes about columns that are the same in all training rows, that give targets away or count rows."""
        used = {each.name: columns[each.name].take(samples.inputs.numpy()) for each in self.encoder.columns}
        constant = [name for name in self.learned if name not in used]
        notes = [f"the same in all training rows and so left out: {join_names(constant)}"] if constant else []
        for targets in samples.targets.view(samples.size, -1).numpy().T:
            notes += [note for note in find_suspects(used, targets, not self.class_names) if note not in notes]
        return notes

    def find_unseen(self, columns: Mapping[str, Column], samples: Samples, stage: str) -> list[str]:
        rows, unseen = samples.inputs.numpy(), dict[str, str]()
        for each in self.encoder.columns:
            if isinstance(each, WordEncoding) and (words := each.find_unseen(columns[each.name].take(rows))):
                unseen[each.name] = join_names(words)
        return [f"{name}: no training row has the {stage} rows' {words}" for name, words in unseen.items()]

    def describe_preprocessing(self) -> Preprocessing:
        return Preprocessing(ROW, options={"delimiter": self.delimiter, "columns": self.encoder.to_plain()})
