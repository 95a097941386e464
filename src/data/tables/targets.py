"""Find the task from a table's target column, and turn the column into targets."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.core.checks import format_escaped
from src.core.errors import InputError
from src.data.tables.reading import Column

MAX_CLASSES = 1000
MAX_NUMBER_CLASSES = 20  # whole numbers up to which a target is taken for classes
MIN_ROWS_PER_CLASS = 5  # on average, for whole numbers to be taken for classes
MAX_NAME_LENGTH = 100  # characters of a class's name


class Target(NamedTuple):
    """What is to be predicted.

    Attributes:
        task: the task.
        class_names: sorted, numbers by value; the columns for labels; empty for regression.
        unit: what the numbers of a regression are divided by.
        value_names: the columns of a regression of several values.
    """

    task: str
    class_names: tuple[str, ...] = ()
    unit: float = 1.0
    value_names: tuple[str, ...] = ()

    def encode(self, columns: Mapping[str, Column], where: str = "") -> Tensor:
        """Return columns without empty cells as targets: int64 classes (N,) or labels (N, K), float32 numbers (N, …).

        Raises:
            InputError: if there is a class that is not one of ``class_names``, or words instead of numbers; it says
                ``where`` the columns are.
        """
        if self.task == "regression":
            values = [_read_numbers(column, f"{name}{where}") / self.unit for name, column in columns.items()]
            return torch.from_numpy(np.stack(values, axis=1).astype(np.float32)).squeeze(1)
        if self.task == "multilabel":
            labels = [_read_labels(column, f"{name}{where}") for name, column in columns.items()]
            return torch.from_numpy(np.stack(labels, axis=1))
        (name, column), *_ = columns.items()
        name = f"{name}{where}"
        column = label_classes(column, name)
        assert column.words is not None
        places = {word: place for place, word in enumerate(self.class_names)}
        if unknown := [word for word in column.words if word not in places]:
            raise InputError(f"target {name} has the class {unknown[0]}, which is none of {', '.join(places)}")
        return torch.from_numpy(np.array([places[word] for word in column.words], np.int64)[column.values])


def _read_numbers(column: Column, name: str) -> np.ndarray:
    """Return a column's numbers (N,); refuse words."""
    if column.words is not None:
        raise InputError(f"target {name} has words, such as {column.words[0]}: regression needs numbers")
    return column.values


def _read_labels(column: Column, name: str) -> np.ndarray:
    """Return a column of 0 and 1 as int64 (N,); refuse other values."""
    if not _has_labels(column):
        wrong = column.words[0] if column.words else f"{column.values[~np.isin(column.values, (0, 1))][0]:g}"
        raise InputError(f"target {name} has the value {wrong}, and a label of data.task=multilabel is 0 or 1")
    return column.values.astype(np.int64)


def _has_labels(column: Column) -> bool:
    return column.words is None and bool(np.isin(column.values, (0, 1)).all())


def find_targets(columns: Mapping[str, Column], task: str | None, unit: float = 1.0) -> Target:
    """Return the target that columns without empty cells stand for.

    Args:
        columns: the target columns by their names, at least one.
        task: the task; ``None``: of several columns labels if all values are 0 or 1, otherwise regression; of one see
            `find_target`.
        unit: what the numbers of a regression are divided by.

    Raises:
        InputError: if the columns do not suit the task, or one is the same in every row.
    """
    names = tuple(columns)
    if len(names) == 1:
        if task == "multilabel":
            raise InputError(f"data.task=multilabel needs several targets: {names[0]} alone is binary")
        return find_target(columns[names[0]], names[0], task, unit)
    chosen = task or ("multilabel" if all(map(_has_labels, columns.values())) else "regression")
    if chosen not in ("multilabel", "regression"):
        raise InputError(f"data.task={task} is for one target: {len(names)} are multilabel or regression")
    is_regression = chosen == "regression"
    if unit != 1 and not is_regression:
        raise InputError(f"data.target_unit={unit:g} is for regression, and the targets are labels")
    target = Target(chosen, () if is_regression else names, unit, names if is_regression else ())
    target.encode(columns)  # raises for words, and for labels that are none
    for name, column in columns.items():
        _refuse_constant(column, name)
    return target


def _refuse_constant(column: Column, name: str) -> None:
    if column.values.min() == column.values.max():
        raise InputError(f"target {name} is {column.values[0]:g} in every row: there is nothing to learn")


def find_target(column: Column, name: str, task: str | None, unit: float = 1.0) -> Target:
    """Return the target that a column without empty cells stands for.

    Args:
        column: the target column.
        name: its name.
        task: the task; ``None``: classes for words and for few whole numbers, otherwise regression.
        unit: what the numbers of a regression are divided by.

    Raises:
        InputError: if the column does not suit the task, has a single class, or a class of a single row.
    """
    if task == "regression" or (task is None and not _has_classes(column)):
        target = Target("regression", unit=unit)
        target.encode({name: column})  # raises for words
        _refuse_constant(column, name)
        return target
    if unit != 1:
        raise InputError(f"data.target_unit={unit:g} is for regression, and target {name} has classes")
    column = label_classes(column, name)
    names, counts = column.words or (), np.bincount(column.values)
    if len(names) == 1:
        raise InputError(f"target {name} is {names[0]} in every row: there is nothing to learn")
    if task == "binary" and len(names) != 2:
        raise InputError(f"data.task=binary: target {name} has {len(names)} classes, not 2")
    if counts.min() < 2:
        problem = f"target {name}: only one row has the class {names[int(counts.argmin())]}"
        raise InputError(
            f"{problem}, and each needs two or more; take the row out, or data.task=regression for numbers"
        )
    return Target(task or ("binary" if len(names) == 2 else "multiclass"), names)


def _has_classes(column: Column) -> bool:
    """Return True if a column's values are classes: words, or few whole numbers that repeat."""
    if column.words is not None:
        return True
    distinct = np.unique(column.values)
    is_whole = bool((distinct == np.round(distinct)).all())
    few = min(MAX_NUMBER_CLASSES, max(2, len(column.values) // MIN_ROWS_PER_CLASS))
    return is_whole and len(distinct) <= few


def suggest_unit(targets: Tensor) -> float | None:
    """Return the power of ten in which targets (N, …) of a regression are near 1; ``None`` if they are already."""
    size = float(targets.double().square().mean().sqrt())
    return None if 0.1 <= size <= 30 or size == 0 else 10.0 ** round(math.log10(size))


def label_classes(column: Column, name: str) -> Column:
    """Return a column without empty cells as one of words, each of which occurs, sorted; numbers by value.

    Raises:
        InputError: if there are more than `MAX_CLASSES` words, or a word cannot be a class's name.
    """
    present, codes = np.unique(column.values, return_inverse=True)
    if len(present) > MAX_CLASSES:
        how = "for numbers data.task=regression"
        raise InputError(
            f"target {name} has {len(present):,} different values; up to {MAX_CLASSES:,} can be classes, {how}"
        )
    if column.words is None:
        return Column(codes, tuple(_format_number(value) for value in present.tolist()))
    words = [column.words[code] for code in present]
    if wrong := [word for word in words if len(word) > MAX_NAME_LENGTH or format_escaped(word) != word]:
        shown = format_escaped(wrong[0][:MAX_NAME_LENGTH])
        raise InputError(
            f"target {name}: {shown} cannot name a class: up to {MAX_NAME_LENGTH} printable characters can"
        )
    order = np.argsort(np.array(words, dtype=object))
    return Column(np.argsort(order)[codes], tuple(words[place] for place in order))


def _format_number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
