"""What a sweep comes to: ``results.csv`` with a row per job, and the table that is told as it ends."""

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

STATUSES = (*schema.STATUSES[:2], DAMAGED, *schema.STATUSES[2:])  # the worst after the finished
STAGES = ("val/", "test/", "train/")
MOST_ROWS = 20
MOST_NUMBERS = 8
WIDE = 10_000  # columns where the output is no terminal: nothing is cut off
NOTHING = "–"


# The file


def write_results(folder: Path) -> Path:
    """Write ``results.csv`` of the sweep in a folder, anew from its jobs; at any time, by any process.

    Raises:
        InputError: if there are no jobs.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no sweep there")
    path = folder / "results.csv"
    with FileLock(folder / ".results.lock"):  # who reads last writes last
        write_csv(path, rows(read_runs(folder)))
    return path


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """A row per job, all with the same columns; what a job has not is ``None``."""
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
    """The names of the metrics that are one number each."""
    return [name for name, value in metrics.items() if name not in schema.ABOUT_METRICS and not isinstance(value, dict)]


def cell(value: Any) -> Any:
    """A setting's value in a table: numbers stay numbers."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else said(value)


# The table


class Entry(NamedTuple):
    """Runs of the same settings on the same data: repeats, which differ in their seeds or folds alone."""

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
        """How many have neither finished nor failed."""
        return len(self.runs) - len(self.finished) - self.failed - self.damaged

    @property
    def monitor(self) -> tuple[str | None, str | None] | None:
        """The metric that chooses and its mode, both ``None`` without a validation set; ``None`` if unknown yet."""
        known = [run.metrics for run in [*self.finished, *self.runs] if "monitor" in run.metrics]
        return (known[0]["monitor"], known[0].get("mode")) if known else None

    def values(self, metric: str) -> list[float]:
        """A metric of the finished runs that have measured it; NaN for one that is not finite."""
        found = [run.metrics[metric] for run in self.finished if metric in run.metrics]
        return [math.nan if value is None else value for value in found]


class Board(NamedTuple):
    """What can be compared: entries on one data set with one monitored metric, best first."""

    data: str | None
    monitor: str | None
    mode: str | None
    entries: list[Entry]

    @property
    def judge(self) -> str | None:
        """The monitored metric, if a finished run has measured it: where training ends early, none may have."""
        return self.monitor if self.monitor and any(entry.values(self.monitor) for entry in self.entries) else None

    @property
    def unmeasured(self) -> int:
        """How many finished runs have not measured the metric that others are judged by."""
        return sum(len(entry.finished) - len(entry.values(self.judge)) for entry in self.entries) if self.judge else 0

    @property
    def chosen(self) -> Entry | None:
        """The best entry; ``None`` if none has finished, or nothing says which of several is the best."""
        first = self.entries[0]
        if self.judge is None:
            return first if first.finished and len(self.entries) == 1 else None
        return first if math.isfinite(mean(first.values(self.judge))) else None

    @property
    def is_complete(self) -> bool:
        """Whether no run is left to do."""
        return not any(entry.left or entry.damaged for entry in self.entries)


def leaderboard(folder: Path, console: Console | None = None, packages: tuple[str, ...] = ()) -> None:
    """Tell what a sweep came to: for each data set a table, best first, and the test of the best alone.

    Args:
        folder: the sweep's.
        console: where it is told.
        packages: those beside this project's that the user trusts; commands to open a run have them, too.

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
    found = boards(runs)
    for board in found:
        told(console, "\n" + heading(board, several=len({board.data for board in found}) > 1))
        console.print(table(board))
        if len(board.entries) > MOST_ROWS:
            told(console, f"… and {len(board.entries) - MOST_ROWS} more: {typed(folder / 'results.csv')}")
        for line in conclusion(board, spell_trust(packages)):
            told(console, line)


def told(console: Console, line: str, style: str = "") -> None:
    """A line as it is, to be copied: nothing in it is broken by us, coloured or taken for markup."""
    console.print(Text(line, style), soft_wrap=True)


def boards(runs: list[Run]) -> list[Board]:
    """The runs in boards, in the order of their first jobs; those without metrics with others on the same data.

    Those are left out of which it is not known what they are.
    """
    entries = repeats([run for run in runs if run.known])
    known = {entry.data: entry.monitor for entry in reversed(entries) if entry.monitor}
    parts: dict[tuple[str | None, str | None, str | None], list[Entry]] = {}
    for entry in entries:
        monitor, mode = entry.monitor or known.get(entry.data) or (None, None)
        parts.setdefault((entry.data, monitor, mode), []).append(entry)
    return [Board(data, monitor, mode, ranked(part, monitor, mode)) for (data, monitor, mode), part in parts.items()]


def repeats(runs: list[Run]) -> list[Entry]:
    """The runs with those together that differ in their seeds or folds alone."""
    entries: dict[tuple[str | None, str], Entry] = {}
    for run in runs:
        settings = {key: value for key, value in run.swept.items() if not is_seed(key) and key != "data.fold"}
        key = (run.data, str({name: said(value) for name, value in settings.items()}))
        entries.setdefault(key, Entry(settings, [])).runs.append(run)
    return list(entries.values())


def ranked(entries: list[Entry], monitor: str | None, mode: str | None) -> list[Entry]:
    """Best mean first; of equals the one of more runs, then the one that came first."""

    def place(entry: Entry) -> tuple[bool, bool, float, int]:
        value = mean(entry.values(monitor)) if monitor else 0.0
        finite = math.isfinite(value)
        sign = -1 if mode == "max" else 1
        return (not entry.finished, not finite, sign * value if finite else 0.0, -len(entry.finished))

    return sorted(entries, key=place)


def heading(board: Board, several: bool) -> str:
    """What a board's table shows, and what is missing; its data where there are several."""
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
    """A board's best entries, a row each: settings, the monitored metric, how many runs it is of."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    settings, numbers = varying(board.entries), figures(board)
    for key, name in zip(settings, short(settings), strict=True):
        aligned = all(isinstance(entry.settings.get(key, 0), (int, float)) for entry in board.entries)
        shown.add_column(name, justify="right" if aligned else "left", overflow="fold")
    for name in numbers:
        shown.add_column(name, justify="right", no_wrap=True)
    for row, entry in enumerate(board.entries[:MOST_ROWS]):
        values = [said(entry.settings[key]) if key in entry.settings else "" for key in settings]
        style = "dim" if not entry.finished else "bold" if row == 0 and board.chosen else ""
        shown.add_row(*map(Text, [*values, *(column[row] for column in numbers.values())]), style=style)
    return shown


def figures(board: Board) -> dict[str, list[str]]:
    """The columns of a board's numbers; of failed runs and those to come only where there are some."""
    entries, metric = board.entries, board.monitor
    columns = {metric: [measured(metric, entry.values(metric)) for entry in entries]} if metric else {}
    columns["n"] = [str(len(entry.finished)) for entry in entries]
    counts = {name: [getattr(entry, name) for entry in entries] for name in ("failed", DAMAGED, "left")}
    return columns | {name: [str(count or "") for count in column] for name, column in counts.items() if any(column)}


def varying(entries: list[Entry]) -> list[str]:
    """The settings in which entries differ."""
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    return [key for key in keys if len({said(entry.settings.get(key, "")) for entry in entries}) > 1]


def short(keys: list[str]) -> list[str]:
    """Settings' names in a heading: their last parts, the whole where two would be the same."""
    last = [key.split(".")[-1] for key in keys]
    return [
        (name if last.count(name) == 1 else key).replace("_", " ").replace(".", " ")
        for key, name in zip(keys, last, strict=True)
    ]


def conclusion(board: Board, trust: str) -> list[str]:
    """The test metrics of the chosen entry, and how to evaluate it, with what lets its run be opened."""
    if not (chosen := board.chosen):
        return []
    tests = dict.fromkeys(name for run in chosen.finished for name in scalars(run.metrics) if name.startswith("test/"))
    results = ", ".join(f"{name} {measured(name, chosen.values(name))}" for name in tests) or "not tested"
    which = "chosen: " if board.is_complete else "best so far: "
    what = f"{which if len(board.entries) > 1 else ''}{spoken(chosen.settings) or 'all runs'}"
    command = f"{spell_command('src.eval')} run={typed(chosen.finished[0].folder)}{trust}"
    return [
        f"{what}: {results} (n = {len(chosen.finished)})",
        f"  evaluate it:  {command}{others(chosen.finished)}",
    ]


def others(runs: list[Run]) -> str:
    """Where the runs beside the first are found."""
    if len(runs) > MOST_NUMBERS:
        return f"  (one of its {len(runs)} runs)"
    numbers = ", ".join(str(run.number) for run in runs[1:])
    return f"  (its other runs: {numbers})" if numbers else ""


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of none, infinite where it is too large for a number."""
    found = list(values)
    try:
        return statistics.fmean(found) if found else math.nan
    except OverflowError:
        return sum(found) / len(found)


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation (over n − 1); ``None`` of fewer than two values, or where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    try:
        return statistics.stdev(values)
    except OverflowError:
        return math.inf


def measured(metric: str, values: list[float]) -> str:
    """Mean ± standard deviation (over n − 1), accuracies in per cent: "97.42 ± 0.14%"."""
    if not values:
        return NOTHING
    factor, form, unit = (100, ".2f", "%") if "/acc" in metric else (1, ".4g", "")
    found = deviation(values)
    spread = f" ± {factor * found:{form if unit else '.2g'}}" if found is not None else ""
    return f"{factor * mean(values):{form}}{spread}{unit}"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def typed(path: Path) -> str:
    """A path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
