"""Inspect a table's columns: refuse those that cannot be encoded, and find those that a user should know of."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from src.core.checks import format_escaped
from src.core.errors import InputError
from src.core.names import suggest_name
from src.data.tables.reading import Column

DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T]\d.*)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
MAX_SHOWN = 5  # names in a message
MAX_EXAMPLE_LENGTH = 30  # characters
MIN_ROWS = 20  # from which a column that differs in every row, or agrees with the target, is no coincidence
SAMPLE = slice(0, 1000)  # rows


def require_columns(setting: str, names: Sequence[str], columns: Mapping[str, Column]) -> None:
    """Refuse names that are not those of columns.

    Raises:
        InputError: naming the first one, and the nearest name of a column.
    """
    for name in names:
        if name not in columns:
            hint = f"did you mean {near}?" if (near := suggest_name(name, columns)) else ""
            known = hint or f"there are {join_names(list(columns))}"
            raise InputError(f"{setting}={format_escaped(name)}: there is no such column, {known}")


def refuse_unusable(columns: Mapping[str, Column], max_categories: int, ignored: Sequence[str]) -> None:
    """Refuse columns of dates or of too many different words.

    Args:
        columns: the columns that are to be encoded.
        max_categories: the number of different words that a column may have.
        ignored: the columns that are left out already, for the setting in the message.

    Raises:
        InputError: naming all such columns, and how to leave them out.
    """
    problems = {name: why for name, column in columns.items() if (why := _explain_unusable(column, max_categories))}
    if problems:
        listed = join_names([f"{name} ({why})" for name, why in problems.items()])
        names = ",".join(_quote_name(name) for name in [*ignored, *problems])
        raise InputError(
            f"the columns {listed} cannot be used: leave them out with 'data.ignore=[{names}]', or replace them by "
            f"numbers or fewer words in the file (data.max_categories={max_categories} is the most)"
        )


def _explain_unusable(column: Column, max_categories: int) -> str:
    """Return why a column cannot be encoded, in a few words; "" if it can."""
    words = column.words or ()
    example = f", such as {format_escaped(words[0][:MAX_EXAMPLE_LENGTH])}" if words else ""
    if words and all(map(DATE.fullmatch, words)):
        return f"dates{example}"
    if len(words) > max_categories and all(map(DECIMAL_COMMA.fullmatch, words)):
        return f"numbers with a decimal comma{example}: write a point"
    return f"{len(words):,} different words{example}" if len(words) > max_categories else ""


def _quote_name(name: str) -> str:
    """Return a column's name as it is typed in a list."""
    return name if re.fullmatch(r"[\w. -]+", name) else f'"{name}"'


def find_suspects(columns: Mapping[str, Column], target: np.ndarray, is_regression: bool) -> Iterator[str]:
    """Yield a line for each column that probably should not be learned from: it counts rows, or gives the target away.

    Args:
        columns: the columns that are encoded, N rows.
        target: the targets (N,).
        is_regression: the targets are numbers, not classes.
    """
    agrees = _is_proportional if is_regression else _is_one_to_one
    for name, column in columns.items() if len(target) >= MIN_ROWS else ():
        how = f"'data.ignore=[{_quote_name(name)}]' leaves it out"
        # A sample of the rows decides for nearly all columns.
        if not column.is_missing.any() and all(agrees(column, target, each) for each in (SAMPLE, slice(None))):
            yield f"{name} gives the target away: {how}"
        elif _is_counter(column):
            yield f"{name} differs in every row, as the number of a row does: {how}"


def _is_counter(column: Column) -> bool:
    """Return True if a column has another word in every row, or each number of a range once."""
    values, count = column.values, len(column.values)
    if column.is_missing.any():
        return False
    spread_out = column.words is None and (values.max() - values.min() != count - 1 or (values % 1).any())
    return not spread_out and len(np.unique(values)) == count


def _is_proportional(column: Column, target: np.ndarray, rows: slice) -> bool:
    """Return True if a column's numbers are those of the target but for their unit."""
    values, wanted = column.values[rows], target[rows].astype(np.float64)
    if column.words is not None or not (values.std() and wanted.std()):
        return False
    return bool(abs(np.corrcoef(values, wanted)[0, 1]) > 1 - 1e-9)


def _is_one_to_one(column: Column, target: np.ndarray, rows: slice) -> bool:
    """Return True if each value of a column goes with one class and each class with one value."""
    (values, left), (classes, right) = (np.unique(each[rows], return_inverse=True) for each in (column.values, target))
    return len(values) == len(classes) > 1 and len(np.unique(left * len(classes) + right)) == len(classes)


def join_names(names: Sequence[str]) -> str:
    """Return names as a text, at most `MAX_SHOWN` of them."""
    more = [f"{len(names) - MAX_SHOWN} more"] if len(names) > MAX_SHOWN else []
    return ", ".join([*names[:MAX_SHOWN], *more])
