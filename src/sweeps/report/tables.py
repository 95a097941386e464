"""Build the tables of a report: for the page, and as CSV to download."""

import csv
import io
import math
from typing import Any, NamedTuple

from src.core.formatting import format_setting_value, format_settings, get_short_names
from src.storage.status import DAMAGED
from src.sweeps.report.reading import Sweeps
from src.sweeps.store.aggregate import compute_mean, compute_std, format_mean_std
from src.sweeps.store.entries import LeaderboardEntry
from src.sweeps.store.evidence import compute_interval, format_interval
from src.sweeps.store.leaderboard import (
    FRONT_MARK,
    Leaderboard,
    find_varying_settings,
    make_interval_column,
)
from src.sweeps.store.results import build_rows, find_scalar_metrics
from src.sweeps.store.runs import Run

INTERVAL = "interval of the mean: Student's t, or Wilson's if all runs have 0 or 100%"
MORE = "more runs"  # heading of the column with the runs that would tell a setting from the best


class Column(NamedTuple):
    """A column of a leaderboard.

    Attributes:
        name: the heading.
        title: the heading in full, shown as a tooltip.
        cells: the text of each entry.
        sort_keys: the sort key of each entry.
        is_numeric: True if the cells are numbers, which are aligned to the right.
    """

    name: str
    title: str
    cells: list[str]
    sort_keys: list[Any]
    is_numeric: bool = True


def make_columns(board: Leaderboard) -> list[Column]:
    """Return a board's columns: the settings that vary, the validation metrics, the numbers of runs, and costs."""
    entries = board.entries
    keys = find_varying_settings(entries)
    found = [_make_setting_column(key, name, entries) for key, name in zip(keys, get_short_names(keys), strict=True)]
    for name in find_validation_metrics(board):
        found.append(_make_metric_column(name, entries))
        intervals = make_interval_column(name, entries) if name == board.ranking_metric else {}
        found += [Column(heading, INTERVAL, cells, found[-1].sort_keys) for heading, cells in intervals.items()]
    if board.objectives:
        others = [name for name in board.objectives if not name.startswith(("val/", "parameters", "seconds"))]
        found += [_make_metric_column(name, entries) for name in others]
        title, marks = (
            "no other is as good in each metric and better in one",
            [FRONT_MARK * is_on for is_on in board.front],
        )
        found.append(Column("front", title, marks, marks, is_numeric=False))
    counts = [
        _make_count_column("n", "finished runs", [len(entry.finished) for entry in entries]),
        _make_count_column("failed", "failed runs", [entry.failed for entry in entries]),
        _make_count_column(DAMAGED, "runs whose files are damaged", [entry.damaged for entry in entries]),
        _make_count_column("pruned", "runs stopped early, as others were better", [entry.pruned for entry in entries]),
        _make_count_column("left", "runs that have neither finished nor failed", [entry.left for entry in entries]),
    ]
    found += [column for column in counts if column.name == "n" or any(column.sort_keys)]
    if board.evidence and any(board.evidence.more):
        found.append(_make_more_column(board.evidence.more))
    about = [
        _make_mean_column("best epoch", "best_epoch", entries, ".4g"),
        _make_mean_column("seconds", "seconds", entries, ".3g"),
    ]
    found += [column for column in about if any(column.cells)]
    parameters = _make_mean_column("parameters", "parameters", entries, ",.0f")
    return [*found, parameters] if len({*parameters.cells} - {""}) > 1 else found


def find_validation_metrics(board: Leaderboard) -> list[str]:
    """Return the names of the validation metrics, the one that ranks the board first."""
    names = [name for entry in board.entries for run in entry.finished for name in find_scalar_metrics(run.metrics)]
    found = [name for name in names if name.startswith("val/")]
    return list(dict.fromkeys([*([board.ranking_metric] if board.ranking_metric else []), *found]))


def _make_setting_column(key: str, name: str, entries: list[LeaderboardEntry]) -> Column:
    values = [entry.settings.get(key, "") for entry in entries]
    number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values if value != "")
    return Column(
        name,
        key,
        [format_setting_value(value) for value in values],
        [format_setting_value(value) for value in values],
        number,
    )


def _make_metric_column(name: str, entries: list[LeaderboardEntry]) -> Column:
    values = [entry.collect_values(name) for entry in entries]
    return Column(
        name,
        f"{name}, mean ± standard deviation",
        [format_mean_std(name, each) for each in values],
        _compute_sort_keys(values),
    )


def _make_count_column(name: str, title: str, numbers: list[int]) -> Column:
    return Column(name, title, [str(number or "") for number in numbers], numbers)


def _make_more_column(more: list[str]) -> Column:
    title = "further runs after which the setting would probably (80%) be told from the best, if they differ as seen"
    return Column(MORE, title, more, [each.removeprefix("> ") for each in more])


def _make_mean_column(name: str, key: str, entries: list[LeaderboardEntry], number_format: str) -> Column:
    """Return a column with the mean of a number that each run records."""
    values = [[value for value in entry.collect_values(key) if math.isfinite(value)] for entry in entries]
    return Column(
        name,
        f"{name}, mean",
        [f"{compute_mean(each):{number_format}}" if each else "" for each in values],
        _compute_sort_keys(values),
    )


def _compute_sort_keys(values: list[list[float]]) -> list[float | str]:
    """Return the sort keys of a column: the means, or "" where there is none."""
    return [value if math.isfinite(value := compute_mean(each)) else "" for each in values]


class ChosenSummary(NamedTuple):
    """The entry that was chosen by the validation set, in texts for the page."""

    label: str
    settings: str
    value: str
    tests: list[tuple[str, str]]
    intervals: str
    runs: list[Run]


def summarize_chosen(board: Leaderboard) -> ChosenSummary | None:
    """Return the chosen entry with its test metrics, or ``None``.

    No other function of the report reads test metrics.
    """
    if not (entry := board.chosen):
        return None
    metric = board.ranking_metric
    names = dict.fromkeys(
        name for run in entry.finished for name in find_scalar_metrics(run.metrics) if name.startswith("test/")
    )
    return ChosenSummary(
        label="Only candidate" if len(board.entries) == 1 else "Chosen" if board.is_complete else "Best so far",
        settings=format_settings(entry.settings) or "all runs",
        value=f"{metric} {format_mean_std(metric, entry.collect_values(metric))}" if metric else "",
        tests=[(name, format_mean_std(name, entry.collect_values(name))) for name in names],
        intervals=", ".join(
            f"{name} {interval}"
            for name in [*([metric] if metric else []), *names]
            if (interval := format_interval(name, compute_interval(name, entry.collect_values(name))))
        ),
        runs=entry.finished,
    )


class RunRow(NamedTuple):
    """A row of the table of all runs: settings, seed, validation metrics, epochs and seconds."""

    run: Run
    cells: list[str]


def make_runs_table(sweeps: Sweeps) -> tuple[list[str], list[RunRow]]:
    """Return the headings and the rows of the table of all runs."""
    runs = sweeps.runs
    keys = list(dict.fromkeys(key for run in runs for key in run.swept if key != "seed"))
    metrics = [
        name
        for name in dict.fromkeys(name for run in runs for name in find_scalar_metrics(run.metrics))
        if name[:4] == "val/"
    ]
    about = ["best_epoch", "epochs", "seconds"]
    table = [
        RunRow(
            run,
            [
                *(format_setting_value(run.swept[key]) if key in run.swept else "" for key in keys),
                format_setting_value(run.seed) if run.seed is not None else "",
                *(
                    format_mean_std(name, [value]) if (value := run.metrics.get(name)) is not None else ""
                    for name in metrics
                ),
                *(f"{value:.4g}" if (value := run.metrics.get(name)) is not None else "" for name in about),
            ],
        )
        for run in runs
    ]
    return [*get_short_names(keys), "seed", *metrics, "best epoch", "epochs", "seconds"], table


# Files to download


def format_runs_csv(sweeps: Sweeps) -> str:
    """Return a CSV table with a row per run, without test metrics: nobody is to choose a run by them."""
    table = build_rows(sweeps.runs)
    return _format_csv([{key: value for key, value in row.items() if not key.startswith("test/")} for row in table])


def format_leaderboard_csv(sweeps: Sweeps) -> str:
    """Return a CSV table with a row per entry, with unformatted numbers."""
    return _format_csv([row for board in sweeps.leaderboards for row in _make_leaderboard_rows(board)])


def _make_leaderboard_rows(board: Leaderboard) -> list[dict[str, Any]]:
    table, names, evidence = [], find_validation_metrics(board), board.evidence
    for place, entry in enumerate(board.entries):
        row: dict[str, Any] = {
            "data": board.data,
            **{key: format_setting_value(value) for key, value in entry.settings.items()},
        }
        for name in names:
            values = entry.collect_values(name)
            row[f"{name} mean"] = compute_mean(values) if values else None
            row[f"{name} sd"] = compute_std(values)
            if interval := compute_interval(name, values):
                row |= {
                    f"{name} 95% low": interval.low,
                    f"{name} 95% high": interval.high,
                    f"{name} 95%": interval.kind,
                }
        counts = {"failed": entry.failed, DAMAGED: entry.damaged, "left": entry.left}
        if any(each.pruned for each in board.entries):
            counts["pruned"] = entry.pruned
        differs = "no" if evidence and evidence.ranks[place] in ("1", "=1") else "yes"
        compared = {"told from the best": differs, MORE: evidence.more[place]} if evidence else {}
        table.append({**row, "n": len(entry.finished), **counts, **compared})
    return table


def _format_csv(table: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
