"""Build the tables of a report: for the page, and as CSV and LaTeX to download."""

import csv
import io
import math
import re
from typing import Any, NamedTuple

from src.storage.records import DAMAGED
from src.sweeps.report.reading import Sweeps, names
from src.sweeps.store.leaderboard import (
    Board,
    Entry,
    boards,
    deviation,
    heading,
    mean,
    measured,
    rows,
    scalars,
    short,
    varying,
)
from src.sweeps.store.runs import Run, said, spoken

MOST_IN_LATEX = 20
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\dots{}",
    "\n": " ",
}


class Column(NamedTuple):
    """A column of a leaderboard.

    Attributes:
        name: the heading.
        title: the heading in full, shown as a tooltip.
        cells: the text of each entry.
        order: the sort key of each entry.
        number: True if the cells are numbers, which are aligned to the right.
    """

    name: str
    title: str
    cells: list[str]
    order: list[Any]
    number: bool = True


def columns(board: Board) -> list[Column]:
    """Return a board's columns: the settings that vary, the validation metrics, the numbers of runs, and costs."""
    entries = board.entries
    keys = varying(entries)
    found = [setting(key, name, entries) for key, name in zip(keys, short(keys), strict=True)]
    found += [metric(name, entries) for name in validation(board)]
    counts = [
        count("n", "finished runs", [len(entry.finished) for entry in entries]),
        count("failed", "failed runs", [entry.failed for entry in entries]),
        count(DAMAGED, "runs whose files are damaged", [entry.damaged for entry in entries]),
        count("left", "runs that have neither finished nor failed", [entry.left for entry in entries]),
    ]
    found += [column for column in counts if column.name == "n" or any(column.order)]
    about = [average("best epoch", "best_epoch", entries, ".4g"), average("seconds", "seconds", entries, ".3g")]
    found += [column for column in about if any(column.cells)]
    parameters = average("parameters", "parameters", entries, ",.0f")
    return [*found, parameters] if len({*parameters.cells} - {""}) > 1 else found


def validation(board: Board) -> list[str]:
    """Return the names of the validation metrics, the one that ranks the board first."""
    names = [name for entry in board.entries for run in entry.finished for name in scalars(run.metrics)]
    found = [name for name in names if name.startswith("val/")]
    return list(dict.fromkeys([*([board.judge] if board.judge else []), *found]))


def setting(key: str, name: str, entries: list[Entry]) -> Column:
    values = [entry.settings.get(key, "") for entry in entries]
    number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values if value != "")
    return Column(name, key, [said(value) for value in values], [said(value) for value in values], number)


def metric(name: str, entries: list[Entry]) -> Column:
    values = [entry.values(name) for entry in entries]
    return Column(
        name, f"{name}, mean ± standard deviation", [measured(name, each) for each in values], ordered(values)
    )


def count(name: str, title: str, numbers: list[int]) -> Column:
    return Column(name, title, [str(number or "") for number in numbers], numbers)


def average(name: str, key: str, entries: list[Entry], form: str) -> Column:
    """Return a column with the mean of a number that each run records."""
    values = [[value for value in entry.values(key) if math.isfinite(value)] for entry in entries]
    return Column(name, f"{name}, mean", [f"{mean(each):{form}}" if each else "" for each in values], ordered(values))


def ordered(values: list[list[float]]) -> list[float | str]:
    """Return the sort keys of a column: the means, or "" where there is none."""
    return [value if math.isfinite(value := mean(each)) else "" for each in values]


class Chosen(NamedTuple):
    """The entry that was chosen by the validation set, in texts for the page."""

    said: str
    what: str
    value: str
    tests: list[tuple[str, str]]
    runs: list[Run]


def chosen(board: Board) -> Chosen | None:
    """Return the chosen entry with its test metrics, or ``None``.

    No other function of the report reads test metrics.
    """
    if not (entry := board.chosen):
        return None
    names = dict.fromkeys(name for run in entry.finished for name in scalars(run.metrics) if name.startswith("test/"))
    return Chosen(
        said="Only one" if len(board.entries) == 1 else "Chosen" if board.is_complete else "Best so far",
        what=spoken(entry.settings) or "all runs",
        value=f"{board.judge} {measured(board.judge, entry.values(board.judge))}" if board.judge else "",
        tests=[(name, measured(name, entry.values(name))) for name in names],
        runs=entry.finished,
    )


class RunRow(NamedTuple):
    """A row of the table of all runs: settings, seed, validation metrics, epochs and seconds."""

    run: Run
    cells: list[str]


def runs_table(sweeps: Sweeps) -> tuple[list[str], list[RunRow]]:
    """Return the headings and the rows of the table of all runs."""
    runs = sweeps.runs
    keys = list(dict.fromkeys(key for run in runs for key in run.swept if key != "seed"))
    metrics = [
        name for name in dict.fromkeys(name for run in runs for name in scalars(run.metrics)) if name[:4] == "val/"
    ]
    about = ["best_epoch", "epochs", "seconds"]
    table = [
        RunRow(
            run,
            [
                *(said(run.swept[key]) if key in run.swept else "" for key in keys),
                said(run.seed) if run.seed is not None else "",
                *(measured(name, [value]) if (value := run.metrics.get(name)) is not None else "" for name in metrics),
                *(f"{value:.4g}" if (value := run.metrics.get(name)) is not None else "" for name in about),
            ],
        )
        for run in runs
    ]
    return [*short(keys), "seed", *metrics, "best epoch", "epochs", "seconds"], table


# Files to download


def runs_csv(sweeps: Sweeps) -> str:
    """Return a CSV table with a row per run, without test metrics: nobody is to choose a run by them."""
    table = rows(sweeps.runs)
    return csv_text([{key: value for key, value in row.items() if not key.startswith("test/")} for row in table])


def leaderboard_csv(sweeps: Sweeps) -> str:
    """Return a CSV table with a row per entry, with unformatted numbers."""
    return csv_text([row for board in boards(sweeps.runs) for row in board_rows(board)])


def board_rows(board: Board) -> list[dict[str, Any]]:
    table, names = [], validation(board)
    for entry in board.entries:
        row: dict[str, Any] = {"data": board.data, **{key: said(value) for key, value in entry.settings.items()}}
        for name in names:
            values = entry.values(name)
            row[f"{name} mean"] = mean(values) if values else None
            row[f"{name} sd"] = deviation(values)
        counts = {"failed": entry.failed, DAMAGED: entry.damaged, "left": entry.left}
        table.append({**row, "n": len(entry.finished), **counts})
    return table


def csv_text(table: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def latex(sweeps: Sweeps) -> str:
    """Return a LaTeX table per board, which needs the package booktabs; the chosen row is bold.

    The only test metric is the counterpart of the metric that chose, given for the chosen row only.
    """
    found = boards(sweeps.runs)
    name = " and ".join(names(sweeps.folders).values())
    labels = [_make_label(name, board.data if len(found) > 1 else None) for board in found]
    tables = [
        latex_table(board, name, label if labels.count(label) == 1 else f"{label}-{index + 1}")
        for index, (board, label) in enumerate(zip(found, labels, strict=True))
    ]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _make_label(*parts: str | None) -> str:
    """Return a table's LaTeX label made of parts: "tab:width-mnist"."""
    return "tab:" + "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts if part)


def latex_table(board: Board, sweep: str, label: str) -> str:
    """Return a board's LaTeX table with caption and label.

    Args:
        board: the board.
        sweep: the name of the sweep.
        label: the label for ``\\ref``.
    """
    shown = [column for column in columns(board) if column.name not in ("seconds", "failed", DAMAGED, "left")]
    count = min(len(board.entries), MOST_IN_LATEX)
    best = chosen(board)
    tests = _find_counterparts(board, best)
    cells_by_name = [
        *((each.name, each.cells) for each in shown),
        *((test, [value] + [""] * count) for test, value in tests),
    ]
    rows = [
        latex_row([escaped(cells[row]) for _, cells in cells_by_name], bold=row == 0 and best is not None)
        for row in range(count)
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escaped(_write_caption(board, sweep, count, [test for test, _ in tests]))}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in shown)}{'r' * len(tests)}}}",
        r"\toprule",
        latex_row([escaped(name) for name, _ in cells_by_name]),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _find_counterparts(board: Board, best: Chosen | None) -> list[tuple[str, str]]:
    """Return the test metric that corresponds to the one that chose the entry, or all test metrics if there is none."""
    tests = best.tests if best else []
    counterpart = f"test/{(board.judge or '').split('/', 1)[-1]}"
    return [test for test in tests if test[0] == counterpart] or tests


def _write_caption(board: Board, sweep: str, count: int, tests: list[str]) -> str:
    """Return the caption of a table: its subject, its order, how much of it is shown, and which row is bold."""
    parts = [f"{sweep}{f' on {board.data}' if board.data else ''}: {heading(board, several=False)}"]
    if count < len(board.entries):
        parts.append(f"The first {count} of {len(board.entries)}")
    if board.judge and board.chosen and len(board.entries) > 1:
        parts.append(f"Bold: {'chosen' if board.is_complete else 'best so far'} by the validation set")
    if tests:
        parts.append(f"{' and '.join(tests)} of the chosen one alone")
    return ". ".join(" ".join(part.split()) for part in parts) + "."


def latex_row(cells: list[str], bold: bool = False) -> str:
    return " & ".join(f"\\textbf{{{cell}}}" if bold and cell else cell for cell in cells) + r" \\"


def escaped(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)
