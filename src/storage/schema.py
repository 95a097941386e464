"""Schemas of the files of runs and sweeps: the fields of each file and a check for each field.

Every such file is read with its schema. A file that does not match is damaged: the error names the file, the fields
and what they must be. A missing file is not damaged.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from src.core.errors import InputError
from src.storage.files import read_text

MAX_SHOWN_FAULTS, MAX_VALUE_LENGTH = (
    3,
    40,
)  # maximum faults of a file in its error message, and maximum characters of a value there
MAX_NAMES = 10_000  # maximum names in a mapping: our files have fewer, and more could not be shown
MAX_INTEGER = 2**63 - 1
NUMBER_PATTERN = re.compile(r"(-?\d+(\.\d*)?(e[+-]?\d+)?|nan|-?inf)?", re.ASCII)  # as Python writes it, or empty
Check = Callable[[str, Any], Iterator[str]]  # takes a field's name and value and yields a message for each fault


class DamagedError(InputError):
    """An error for a file that is not as this project writes it; the message names the file and the fault."""


# Kinds of values


def _make_check(description: str, is_valid: Callable[[Any], bool]) -> Check:
    """Return a check that a value is valid; ``description`` describe the valid values, as they follow "must be"."""

    def check(name: str, value: Any) -> Iterator[str]:
        if not is_valid(value):
            yield f"{name} is {_describe_value(value)} and must be {description}"

    return check


def _allow_one_of(*words: str) -> Check:
    return _make_check(" or ".join(words), lambda value: isinstance(value, str) and value in words)


def _allow_null_or(check: Check) -> Check:
    return lambda name, value: iter(()) if value is None else check(name, value)


def _allow_list(check: Check) -> Check:
    def check_all(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{name} is {_describe_value(value)} and must be a list"
            return
        for index, item in enumerate(value):
            yield from check(f"{name}[{index}]", item)

    return check_all


def _allow_mapping(check: Check) -> Check:
    """Return a check for mappings from any names to values that each pass a check."""
    return _allow_record({}, {}, other=check)


def _allow_record(required: Mapping[str, Check], optional: Mapping[str, Check], other: Check | None = None) -> Check:
    """Return a check for mappings with known fields; ``other`` checks the other fields, ``None`` accepts them all."""
    known = {**required, **optional}

    def check_fields(name: str, value: Any) -> Iterator[str]:
        start = f"{name}." if name else ""
        if not isinstance(value, dict):
            yield f"{name or 'it'} is {_describe_value(value)} and must be a mapping"
            return
        if len(value) > MAX_NAMES:
            yield f"{name or 'it'} has {len(value):,} values and must have at most {MAX_NAMES:,}"
            return
        yield from (f"{start}{key} is missing" for key in required if key not in value)
        for key, item in value.items():
            if check := known.get(key, other):
                yield from check(f"{start}{key}", item)

    return check_fields


def _check_value(name: str, value: Any) -> Iterator[str]:
    """Check a setting's value: null, a bool, text, a finite number, or a list or mapping of such values."""
    if isinstance(value, list):
        yield from _allow_list(_check_value)(name, value)
    elif isinstance(value, dict):
        yield from _allow_mapping(_check_value)(name, value)
    elif value is not None and not isinstance(value, (bool, str)):
        yield from NUMBER(name, value)


def _describe_value(value: Any) -> str:
    """Return a short form of a value for a message."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "a mapping"
    text = json.dumps(value[:MAX_VALUE_LENGTH] if isinstance(value, str) else value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 1]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _is_timestamp(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) >= len("2000-01-01T00:00") and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


# Files

TEXT = _make_check("text", lambda value: isinstance(value, str))
NUMBER = _make_check("a finite number", _is_number)
COUNT = _make_check("a whole number from 0", _is_count)
SECONDS = _make_check("seconds from 0", lambda value: _is_number(value) and 0 <= value < 1e10)
FRACTION = _make_check("a fraction from 0 to 1", lambda value: _is_number(value) and 0 <= value < 1 + 1e-6)
BOOLEAN = _make_check("true or false", lambda value: isinstance(value, bool))
TIMESTAMP = _make_check("a time like 2000-01-31T12:00:00+00:00", _is_timestamp)
CHECKPOINT_PATH = _make_check(
    "a path like stacks/NAME.ckpt", lambda value: bool(re.fullmatch(r"\w+/[\w.-]+\.ckpt", str(value)))
)

STATUSES = ("finished", "failed", "interrupted", "running", "waiting", "paused", "pruned")
STATUS = _allow_record(
    {"status": _allow_one_of(*STATUSES)}, {"reason": _allow_null_or(TEXT), "message": _allow_null_or(TEXT)}
)
JOB = _allow_record(
    {
        "number": COUNT,
        "identity": TEXT,
        "overrides": _allow_list(TEXT),
        "choices": _allow_mapping(_check_value),
        "settings": _allow_mapping(_check_value),
    },
    {},
)
METRICS_FIELDS = {
    "monitor": _allow_null_or(TEXT),
    "mode": _allow_null_or(_allow_one_of("min", "max")),
    "best": _allow_null_or(NUMBER),
    "best_epoch": _allow_null_or(COUNT),
    "epochs": COUNT,
    "seconds": SECONDS,
    "compile_seconds": SECONDS,
    "parameters": COUNT,
    "seed": _allow_null_or(COUNT),
}
START_FIELDS = {
    "command": TEXT,
    "started": TIMESTAMP,
    "git": _allow_record({}, {"commit": _allow_null_or(TEXT), "dirty": _allow_null_or(BOOLEAN)}),
    "python": TEXT,
    "packages": _allow_mapping(TEXT),
    "device": TEXT,
    "samples": _allow_mapping(COUNT),
}
PROVENANCE = _allow_record({}, {**START_FIELDS, "resumed": _allow_list(_allow_record({}, START_FIELDS))})
STACK = _allow_record({"state": CHECKPOINT_PATH}, {})
TRIAL = _allow_record(
    {
        "number": COUNT,
        "job": COUNT,
        "state": _allow_one_of("complete", "pruned", "failed", "running"),
        "value": _allow_null_or(NUMBER),
    },
    {"values": _allow_null_or(_allow_list(NUMBER)), "epochs": _allow_null_or(COUNT)},
)
SEARCH = _allow_record(
    {
        "sampler": TEXT,
        "metric": TEXT,
        "mode": _allow_one_of("min", "max"),
        "trials": _allow_list(TRIAL),
        "importance": _allow_mapping(FRACTION),
    },
    {
        "objectives": _allow_null_or(_allow_mapping(_allow_one_of("min", "max"))),
        "importance_intervals": _allow_mapping(_allow_list(FRACTION)),
    },
)


def _check_metric(name: str, value: Any) -> Iterator[str]:
    """Check a metric: a number, null where it was not finite, or a mapping with one value for each class."""
    yield from (_allow_mapping(_allow_null_or(NUMBER)) if isinstance(value, dict) else _allow_null_or(NUMBER))(
        name, value
    )


def check_metrics(name: str, value: Any) -> Iterator[str]:
    """Check ``metrics.json``; a file with a best value must have the monitored metric, too."""
    yield from _allow_record({}, METRICS_FIELDS, other=_check_metric)(name, value)
    if isinstance(value, dict) and value.get("best") is not None and str(value.get("monitor")) not in value:
        yield f"{_describe_value(value.get('monitor'))} is missing, although best is its best value"


# Reading


def read_checked(path: Path, check: Check) -> dict[str, Any] | None:
    """Read a JSON file and check it; return ``None`` if it does not exist.

    Raises:
        DamagedError: if it cannot be read, or does not pass the check.
    """
    text = _read_if_exists(path)
    if text is None:
        return None
    try:
        content: dict[str, Any] = json.loads(text, object_pairs_hook=_refuse_duplicates)
        if "\\u" in text:
            json.dumps(
                content, ensure_ascii=False
            ).encode()  # raises for half of a surrogate pair, which cannot be written or shown
        faults = list(islice(check("", content), MAX_SHOWN_FAULTS + 1))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: it is {f'not JSON ({error})' if text.strip() else 'empty'}") from error
    if faults:
        more = ["and more"] if len(faults) > MAX_SHOWN_FAULTS else []
        raise DamagedError(f"{path} is damaged: {'; '.join([*faults[:MAX_SHOWN_FAULTS], *more])}")
    return content


def _read_if_exists(path: Path) -> str | None:
    """Read a text file; return ``None`` if it does not exist.

    Raises:
        DamagedError: if it cannot be read.
    """
    try:
        return read_text(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from error
    except InputError as error:
        raise DamagedError(str(error)) from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict.

    Raises:
        ValueError: if a name occurs twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{_describe_value(name)} occurs twice")
        found[name] = value
    return found


def read_history(path: Path, epochs: int | None = None) -> list[dict[str, float]]:
    """Read the rows of a ``history.csv``; return an empty list if the file does not exist.

    A row has no entry for a metric that was not measured in its epoch.

    Args:
        path: the file.
        epochs: the number of epochs that it must have; ``None``: any number.

    Raises:
        DamagedError: if it cannot be read, is not a table of numbers with an increasing ``epoch``, or lacks epochs.
    """
    text = _read_if_exists(path)
    if text is None:
        if epochs:
            raise DamagedError(f"{path} is missing")
        return []
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        _check_columns(header)
        found = _check_epochs([_read_row(header, row, line) for line, row in enumerate(rows, start=2)])
    except (ValueError, csv.Error) as error:
        raise DamagedError(f"{path} is damaged: {error if text.strip() else 'it is empty'}") from error
    if epochs is not None and len(found) != epochs:
        raise DamagedError(f"{path} is damaged: it has {len(found)} epochs and must have {epochs}")
    return found


def _check_columns(header: list[str]) -> None:
    """Raise `ValueError` if ``epoch`` is missing from the columns, a name occurs twice, or there are too many."""
    if "epoch" not in header:
        raise ValueError("its column epoch is missing")
    if len(set(header)) < len(header) or len(header) > MAX_NAMES:
        raise ValueError(f"its column names must be unique, and at most {MAX_NAMES:,}")


def _read_row(header: list[str], row: list[str], line: int) -> dict[str, float]:
    """Return a row's numbers by the names of their columns, without empty cells.

    Raises:
        ValueError: if a cell is not a number, or the row has more or fewer cells than there are columns.
    """
    if len(row) != len(header):
        raise ValueError(f"line {line} has {len(row)} values and must have {len(header)}")
    for name, cell in zip(header, row, strict=True):
        if not NUMBER_PATTERN.fullmatch(cell):
            raise ValueError(f"{name} in line {line} is {_describe_value(cell)} and must be a number")
    return {name: float(cell) for name, cell in zip(header, row, strict=True) if cell}


def _check_epochs(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the rows if their epochs are increasing whole numbers.

    Raises:
        ValueError: if they are not.
    """
    epochs = [0.0, *(row.get("epoch", 0.0) for row in rows)]
    for line, (before, now) in enumerate(pairwise(epochs), start=2):
        if not (before < now <= MAX_INTEGER and now.is_integer()):
            raise ValueError(f"epoch in line {line} is {now:g} and must be a whole number above {before:g}")
    return rows
