"""Format values as texts: numbers, metrics, settings and paths; and rows as tables for Python code."""

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

NO_VALUE = "–"
MAX_SHOWN_ROWS = 20  # of a table in a notebook
CHOICE_SETTINGS = ("experiment", "model", "data")  # settings whose values are clear without the setting's name
SETTING_WORDS = {"lr": "learning rate"}  # words for settings whose names are abbreviations


# Numbers and metrics


def is_fraction(metric: str) -> bool:
    """Return True if a metric is a fraction, which is shown in per cent."""
    return "/acc" in f"/{metric}"


def format_metric(metric: str, value: float, digits: int = 2, number_format: str = ".4g") -> str:
    """Return a metric's value: a fraction in per cent with that many digits, any other by a format."""
    return f"{value:.{digits}%}" if is_fraction(metric) else f"{value:{number_format}}"


def format_metrics(metrics: dict[str, float]) -> str:
    """Return metrics in one line: accuracies in per cent, the others with four significant digits."""
    return ", ".join(f"{name} {format_metric(name, value)}" for name, value in metrics.items())


def format_count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def format_duration(seconds: float) -> str:
    """Return seconds as ``minutes:seconds``, with hours if there are any: 3661 → 1:01:01."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def format_long_duration(seconds: float) -> str:
    """Format a duration in hours, minutes or seconds: "1 h 5 min", "12 s"."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


# Settings


def format_settings(settings: dict[str, Any]) -> str:
    """Return settings as short text: {"model.hidden_size": 3} → "hidden size 3"."""
    return ", ".join(
        format_setting_value(value)
        if key in CHOICE_SETTINGS and value is not None
        else f"{key.split('.')[-1].replace('_', ' ')} {format_setting_value(value)}"
        for key, value in settings.items()
    )


def describe_settings(settings: dict[str, Any]) -> str:
    """Return settings in words: {"optimizer.lr": 1, "model.batch_norm": False} → "learning rate 1, no batch norm"."""
    return ", ".join(_describe_setting(key, value) for key, value in settings.items())


def _describe_setting(key: str, value: Any) -> str:
    name = describe_setting_name(key)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    text = "none" if value is None or value == [] else format_setting_value(value)
    text = text.replace("_", " ") if text.isidentifier() else text
    return text if key in CHOICE_SETTINGS and value is not None else f"{name} {text}"


def describe_setting_name(key: str) -> str:
    """Return a setting's name as words for a figure: "optimizer.lr" → "learning rate"."""
    name = key.split(".")[-1]
    return SETTING_WORDS.get(name, name.replace("_", " "))


def format_setting_value(value: Any) -> str:
    """Return a setting's value as on the command line: 0.001, [4,4], true, null; equal values give equal texts."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(format_setting_value, value))}]"
    return str(value)


def get_short_names(keys: list[str]) -> list[str]:
    """Shorten settings' names for a heading to their last parts; a name that would become ambiguous stays whole."""
    last = [key.split(".")[-1] for key in keys]
    return [
        (name if last.count(name) == 1 else key).replace("_", " ").replace(".", " ")
        for key, name in zip(keys, last, strict=True)
    ]


# Paths


def to_relative_path(path: object) -> str:
    """Return a path relative to the working directory if it is inside, else the path as it is."""
    with suppress(ValueError, OSError):
        return str(Path(str(path)).relative_to(Path.cwd()))
    return str(path)


def quote_relative_path(path: Path) -> str:
    """Return a path as by `to_relative_path`, quoted for a shell command."""
    return quote(to_relative_path(path))


# Tables for Python code and notebooks


def to_table(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a pandas data frame; as they are, a list of dictionaries, if pandas is not installed."""
    if find_spec("pandas") is None:
        return rows
    import pandas

    return pandas.DataFrame(rows)


def format_html(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return a title and the first rows as HTML, numbers with four digits; the texts may be a stranger's."""
    names = list(dict.fromkeys(name for row in rows[:MAX_SHOWN_ROWS] for name in row))
    lines: list[list[Any]] = [names, *([row.get(name) for name in names] for row in rows[:MAX_SHOWN_ROWS])]
    cells = ["".join(f"<td>{escape(_format_cell(value))}</td>" for value in line) for line in lines]
    more = f"<p>… and {len(rows) - MAX_SHOWN_ROWS:,} more</p>" if len(rows) > MAX_SHOWN_ROWS else ""
    return f"<p>{escape(title)}</p><table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>{more}"


def _format_cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
