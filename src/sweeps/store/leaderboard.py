"""The results of a sweep: ``results.csv`` with a row per job, and the leaderboards printed at its end."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from filelock import FileLock
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.core.commands import spell_command
from src.core.errors import InputError
from src.storage import schema
from src.storage.files import write_csv
from src.storage.records import DAMAGED
from src.storage.trust import spell_trust
from src.sweeps.store.runs import Run, is_seed, read_runs, said, spoken

STATUSES = (*schema.STATUSES[:2], DAMAGED, *schema.STATUSES[2:])  # finished first, then the worst first
STAGES = ("val/", "test/", "train/")
MOST_ROWS = 20
MOST_NUMBERS = 8
WIDE = 10_000  # columns if the output is not a terminal: nothing is cut off
NOTHING = "–"


# The file


def write_results(folder: Path) -> Path:
    """Write ``results.csv`` of the sweep in a folder from the current state of its jobs.

    It may be called at any time and by any process.

    Raises:
        InputError: if there are no jobs.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no sweep there")
    path = folder / "results.csv"
    with FileLock(folder / ".results.lock"):  # the process that read the jobs last also writes last
        write_csv(path, rows(read_runs(folder)))
    return path


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Return a row per job, all with the same columns; a value that a job lacks is ``None``."""
    settings = dict.fromkeys(key for run in runs for key in run.swept if key != "seed")
    names = dict.fromkeys(name for run in runs for name in scalars(run.metrics))
    metrics = sorted(names, key=lambda name: [not name.startswith(stage) for stage in STAGES])
    return [
        {
            "number": run.number,
            "status": run.status,
            "reason": run.reason,
            **{key: cell(run.swept[key]) if key in run.swept else None for key in settings},
            "seed": run.seed,
            **{name: run.metrics.get(name) for name in [*metrics, "best_epoch", "epochs", "seconds"]},
            "folder": run.folder.name,
        }
        for run in runs
    ]


def scalars(metrics: dict[str, Any]) -> list[str]:
    """Return the names of the metrics that are single numbers."""
    return [name for name, value in metrics.items() if name not in schema.ABOUT_METRICS and not isinstance(value, dict)]


def cell(value: Any) -> Any:
    """Return a setting's value for a table: a number unchanged, anything else as text."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else said(value)


# The table


class Entry(NamedTuple):
    """A group of runs with the same settings and data, which differ only in their seeds or folds."""

    settings: dict[str, Any]
    runs: list[Run]

    @property
    def data(self) -> str | None:
        return self.runs[0].data

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.status == "finished"]

    @property
    def failed(self) -> int:
        return sum(run.status == "failed" for run in self.runs)

    @property
    def damaged(self) -> int:
        return sum(run.status == DAMAGED for run in self.runs)

    @property
    def left(self) -> int:
        """The number of runs that have neither finished nor failed and are not damaged."""
        return len(self.runs) - len(self.finished) - self.failed - self.damaged

    @property
    def monitor(self) -> tuple[str | None, str | None] | None:
        """The monitored metric and its mode, both ``None`` without a validation set; ``None`` if not known yet."""
        known = [run.metrics for run in [*self.finished, *self.runs] if "monitor" in run.metrics]
        return (known[0]["monitor"], known[0].get("mode")) if known else None

    def values(self, metric: str) -> list[float]:
        """Return a metric's values in the finished runs that have measured it; NaN for a value that is not finite."""
        found = [run.metrics[metric] for run in self.finished if metric in run.metrics]
        return [math.nan if value is None else value for value in found]


class Board(NamedTuple):
    """A leaderboard: comparable entries, on one data set and with one monitored metric, best first."""

    data: str | None
    monitor: str | None
    mode: str | None
    entries: list[Entry]

    @property
    def judge(self) -> str | None:
        """The monitored metric, if a finished run has measured it; a run that ends early may not have."""
        return self.monitor if self.monitor and any(entry.values(self.monitor) for entry in self.entries) else None

    @property
    def unmeasured(self) -> int:
        """The number of finished runs that lack the metric that the others are ranked by."""
        return sum(len(entry.finished) - len(entry.values(self.judge)) for entry in self.entries) if self.judge else 0

    @property
    def chosen(self) -> Entry | None:
        """The best entry; ``None`` if none has finished, or several cannot be ranked."""
        first = self.entries[0]
        if self.judge is None:
            return first if first.finished and len(self.entries) == 1 else None
        return first if math.isfinite(mean(first.values(self.judge))) else None

    @property
    def is_complete(self) -> bool:
        """Return True if no run is left to do."""
        return not any(entry.left or entry.damaged for entry in self.entries)


def leaderboard(folder: Path, console: Console | None = None, packages: tuple[str, ...] = ()) -> None:
    """Print a sweep's results: a table for each data set, best first, and the test metrics of the best entry only.

    Args:
        folder: the sweep's folder.
        console: the console to print to; standard output by default.
        packages: further packages that the user trusts; the printed commands that open a run name them, too.

    Raises:
        InputError: if there are no jobs.
    """
    runs = read_runs(folder)
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    statuses = Counter(run.status for run in runs)
    counts = ", ".join(f"{statuses[status]} {status}" for status in STATUSES if statuses[status])
    told(console, f"\n{folder.resolve().name}: {many(len(runs), 'job')}, {counts}", "bold")
    found_boards = boards(runs)
    for board in found_boards:
        told(console, "\n" + heading(board, several=len({board.data for board in found_boards}) > 1))
        console.print(table(board))
        if len(board.entries) > MOST_ROWS:
            told(console, f"… and {len(board.entries) - MOST_ROWS} more: {typed(folder / 'results.csv')}")
        for line in conclusion(board, spell_trust(packages)):
            told(console, line)


def told(console: Console, line: str, style: str = "") -> None:
    """Print a line verbatim, so that it can be copied: without wrapping, highlighting or markup."""
    console.print(Text(line, style), soft_wrap=True)


def boards(runs: list[Run]) -> list[Board]:
    """Divide runs into leaderboards, in the order of their first jobs.

    Runs without metrics join the first leaderboard on the same data. Runs whose job file is damaged are left out.
    """
    entries = repeats([run for run in runs if run.known])
    monitors = {entry.data: entry.monitor for entry in reversed(entries) if entry.monitor}
    parts: dict[tuple[str | None, str | None, str | None], list[Entry]] = {}
    for entry in entries:
        monitor, mode = entry.monitor or monitors.get(entry.data) or (None, None)
        parts.setdefault((entry.data, monitor, mode), []).append(entry)
    return [Board(data, monitor, mode, ranked(part, monitor, mode)) for (data, monitor, mode), part in parts.items()]


def repeats(runs: list[Run]) -> list[Entry]:
    """Group the runs that differ only in their seeds or folds."""
    entries: dict[tuple[str | None, str], Entry] = {}
    for run in runs:
        settings = {key: value for key, value in run.swept.items() if not is_seed(key) and key != "data.fold"}
        key = (run.data, str({name: said(value) for name, value in settings.items()}))
        entries.setdefault(key, Entry(settings, [])).runs.append(run)
    return list(entries.values())


def ranked(entries: list[Entry], monitor: str | None, mode: str | None) -> list[Entry]:
    """Sort entries by their mean, best first; ties go to the entry with more runs, then to the earlier one."""

    def place(entry: Entry) -> tuple[bool, bool, float, int]:
        # Entries without finished runs come last, before them those whose mean is not finite.
        value = mean(entry.values(monitor)) if monitor else 0.0
        finite = math.isfinite(value)
        sign = -1 if mode == "max" else 1
        return (not entry.finished, not finite, sign * value if finite else 0.0, -len(entry.finished))

    return sorted(entries, key=place)


def heading(board: Board, several: bool) -> str:
    """Return the title of a leaderboard: its order, what is missing and, if there are several, its data set."""
    finished = any(entry.finished for entry in board.entries)
    if board.judge or (board.monitor and not finished):
        better = "higher" if board.mode == "max" else "lower"
        text = f"{'best first by ' if len(board.entries) > 1 else ''}{board.monitor}, {better} is better"
    elif board.monitor:
        text = f"no run has measured {board.monitor}: nothing to choose by"
    else:
        text = "no validation set to choose by" if finished else "nothing has finished"
    repeated = any(len(entry.finished) > 1 for entry in board.entries)
    spread = "; mean ± standard deviation of n runs" if repeated and board.judge else ""
    missing = f"; not measured by {many(board.unmeasured, 'finished run')}" if board.unmeasured else ""
    return f"{f'{board.data}: ' if several else ''}{text}{spread}{missing}"


def table(board: Board) -> Table:
    """Return a leaderboard as a table, a row per entry: settings, monitored metric, number of runs."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    settings, numbers = varying(board.entries), figures(board)
    for key, name in zip(settings, short(settings), strict=True):
        numeric = all(isinstance(entry.settings.get(key, 0), (int, float)) for entry in board.entries)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for name in numbers:
        grid.add_column(name, justify="right", no_wrap=True)
    for row, entry in enumerate(board.entries[:MOST_ROWS]):
        values = [said(entry.settings[key]) if key in entry.settings else "" for key in settings]
        style = "dim" if not entry.finished else "bold" if row == 0 and board.chosen else ""
        grid.add_row(*map(Text, [*values, *(column[row] for column in numbers.values())]), style=style)
    return grid


def figures(board: Board) -> dict[str, list[str]]:
    """Return the columns of numbers: the metric, ``n`` and, if any are above 0, counts of runs that did not finish."""
    entries, metric = board.entries, board.monitor
    columns = {metric: [measured(metric, entry.values(metric)) for entry in entries]} if metric else {}
    columns["n"] = [str(len(entry.finished)) for entry in entries]
    counts = {name: [getattr(entry, name) for entry in entries] for name in ("failed", DAMAGED, "left")}
    return columns | {name: [str(count or "") for count in column] for name, column in counts.items() if any(column)}


def varying(entries: list[Entry]) -> list[str]:
    """Return the names of the settings in which entries differ."""
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    return [key for key in keys if len({said(entry.settings.get(key, "")) for entry in entries}) > 1]


def short(keys: list[str]) -> list[str]:
    """Shorten settings' names for a heading to their last parts; a name that would become ambiguous stays whole."""
    last = [key.split(".")[-1] for key in keys]
    return [
        (name if last.count(name) == 1 else key).replace("_", " ").replace(".", " ")
        for key, name in zip(keys, last, strict=True)
    ]


def conclusion(board: Board, trust: str) -> list[str]:
    """Return the lines on the chosen entry: its test metrics, and the command that evaluates it.

    ``trust`` is the part of the command that lets it open a run with classes of other packages.
    """
    if not (chosen := board.chosen):
        return []
    tests = dict.fromkeys(name for run in chosen.finished for name in scalars(run.metrics) if name.startswith("test/"))
    results = ", ".join(f"{name} {measured(name, chosen.values(name))}" for name in tests) or "not tested"
    prefix = "chosen: " if board.is_complete else "best so far: "
    title = f"{prefix if len(board.entries) > 1 else ''}{spoken(chosen.settings) or 'all runs'}"
    command = f"{spell_command('src.eval')} run={typed(chosen.finished[0].folder)}{trust}"
    return [
        f"{title}: {results} (n = {len(chosen.finished)})",
        f"  evaluate it:  {command}{others(chosen.finished)}",
    ]


def others(runs: list[Run]) -> str:
    """Return a hint at the other runs of an entry, after its first."""
    if len(runs) > MOST_NUMBERS:
        return f"  (one of its {len(runs)} runs)"
    numbers = ", ".join(str(run.number) for run in runs[1:])
    return f"  (its other runs: {numbers})" if numbers else ""


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN without values, infinite if the sum overflows."""
    numbers = list(values)
    try:
        return statistics.fmean(numbers) if numbers else math.nan
    except OverflowError:
        return sum(numbers) / len(numbers)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation (over n − 1); ``None`` for fewer than two values or one that is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    try:
        return statistics.stdev(values)
    except OverflowError:
        return math.inf


def measured(metric: str, values: list[float]) -> str:
    """Return the mean ± standard deviation (over n − 1) as text, accuracies in per cent: "97.42 ± 0.14%"."""
    if not values:
        return NOTHING
    factor, form, unit = (100, ".2f", "%") if "/acc" in metric else (1, ".4g", "")
    std = deviation(values)
    spread = f" ± {factor * std:{form if unit else '.2g'}}" if std is not None else ""
    return f"{factor * mean(values):{form}}{spread}{unit}"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def typed(path: Path) -> str:
    """Return a path for a shell command: quoted, and relative to the current directory if it lies in it."""
    path, current = path.absolute(), Path.cwd()
    return quote(str(path.relative_to(current) if path.is_relative_to(current) else path))
