"""The leaderboards of a sweep, and the tables that are printed at its end."""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.core.commands import format_command
from src.core.formatting import (
    format_count,
    format_setting_value,
    format_settings,
    get_short_names,
    quote_relative_path,
)
from src.storage import schema
from src.storage.status import DAMAGED
from src.storage.trust import format_trust
from src.sweeps.store.aggregate import compute_mean, format_mean_std
from src.sweeps.store.entries import LeaderboardEntry, find_entries_on_front, group_repeats, rank_entries
from src.sweeps.store.evidence import (
    Evidence,
    collect_evidence,
    compute_interval,
    describe_optimism,
    describe_tied,
    format_interval,
)
from src.sweeps.store.results import find_scalar_metrics
from src.sweeps.store.runs import Run, read_runs
from src.sweeps.store.searches import format_objective, read_objectives

STATUSES = (*schema.STATUSES[:2], DAMAGED, *schema.STATUSES[2:])  # finished first, then the worst first
MAX_ROWS = 20
MAX_RUN_NUMBERS = 8
FRONT_MARK = "◆"  # of an entry on the Pareto front
UNLIMITED_WIDTH = 10_000  # columns if the output is not a terminal: nothing is cut off


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard: comparable entries, on one data set and with one monitored metric, best first.

    If a search judged them by several metrics, the ``objectives``, those on the Pareto front come before the others.
    """

    data: str | None
    monitor: str | None
    mode: str | None
    entries: list[LeaderboardEntry]
    objectives: dict[str, str] = field(default_factory=dict)

    @property
    def ranking_metric(self) -> str | None:
        """The monitored metric, if a finished run has measured it; a run that ends early may not have."""
        return (
            self.monitor if self.monitor and any(entry.collect_values(self.monitor) for entry in self.entries) else None
        )

    @property
    def unmeasured_count(self) -> int:
        """The number of finished runs that lack the metric that the others are ranked by."""
        return (
            sum(len(entry.finished) - len(entry.collect_values(self.ranking_metric)) for entry in self.entries)
            if self.ranking_metric
            else 0
        )

    @property
    def chosen(self) -> LeaderboardEntry | None:
        """The best entry; ``None`` if none has finished, or several cannot be ranked, or have several objectives."""
        first = self.entries[0]
        if self.objectives:
            return None
        if self.ranking_metric is None:
            return first if first.finished and len(self.entries) == 1 else None
        return first if math.isfinite(compute_mean(first.collect_values(self.ranking_metric))) else None

    @cached_property
    def evidence(self) -> Evidence | None:
        """What repeated runs show of the entries; ``None`` if they cannot be compared, or have several objectives."""
        if self.objectives:
            return None
        return collect_evidence([entry.finished for entry in self.entries], self.ranking_metric, self.mode)

    @cached_property
    def front(self) -> list[bool]:
        """Return for each entry whether it is on the Pareto front of the objectives; without any it is none."""
        return find_entries_on_front(self.entries, self.objectives)

    @property
    def is_complete(self) -> bool:
        """Return True if no run is left to do."""
        return not any(entry.left or entry.damaged for entry in self.entries)


def print_leaderboards(
    folder: Path, console: Console | None = None, packages: tuple[str, ...] = (), runs: list[Run] | None = None
) -> None:
    """Print a sweep's results: a table for each data set, best first, and the test metrics of the best entry only.

    Args:
        folder: the sweep's folder.
        console: the console to print to; standard output by default.
        packages: further packages that the user trusts; the printed commands that open a run name them, too.
        runs: the sweep's runs; ``None``: they are read now.

    Raises:
        InputError: if there are no jobs.
    """
    runs = read_runs(folder) if runs is None else runs
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    statuses = Counter(run.status for run in runs)
    counts = ", ".join(f"{statuses[status]} {status}" for status in STATUSES if statuses[status])
    _print_line(console, f"\n{folder.resolve().name}: {format_count(len(runs), 'job')}, {counts}", "bold")
    found_boards = build_leaderboards(runs)
    for board in found_boards:
        _print_line(console, "\n" + format_table_title(board, several=len({board.data for board in found_boards}) > 1))
        console.print(_build_table(board))
        if len(board.entries) > MAX_ROWS:
            _print_line(
                console, f"… and {len(board.entries) - MAX_ROWS} more: {quote_relative_path(folder / 'results.csv')}"
            )
        for line in [*describe_tied(board.evidence), *_format_winner_lines(board, format_trust(packages))]:
            _print_line(console, line)


def _print_line(console: Console, line: str, style: str = "") -> None:
    """Print a line verbatim, so that it can be copied: without wrapping, highlighting or markup."""
    console.print(Text(line, style), soft_wrap=True)


def build_leaderboards(runs: list[Run]) -> list[Leaderboard]:
    """Divide runs into leaderboards, in the order of their first jobs.

    Runs without metrics join the first leaderboard on the same data. Runs whose job file is damaged are left out.
    """
    entries = group_repeats([run for run in runs if run.is_known])
    monitors = {entry.data: entry.monitor for entry in reversed(entries) if entry.monitor}
    objectives = read_objectives(sorted({run.folder.parent for run in runs}))
    parts: dict[tuple[str | None, str | None, str | None], list[LeaderboardEntry]] = {}
    for entry in entries:
        monitor, mode = entry.monitor or monitors.get(entry.data) or (None, None)
        parts.setdefault((entry.data, monitor, mode), []).append(entry)
    return [
        Leaderboard(data, monitor, mode, rank_entries(part, monitor, mode, objectives), objectives)
        for (data, monitor, mode), part in parts.items()
    ]


def format_table_title(board: Leaderboard, several: bool) -> str:
    """Return the title of a leaderboard: its order, what is missing and, if there are several, its data set."""
    finished = any(entry.finished for entry in board.entries)
    if board.ranking_metric or (board.monitor and not finished):
        better = "higher" if board.mode == "max" else "lower"
        text = f"{'best first by ' if len(board.entries) > 1 else ''}{board.monitor}, {better} is better"
    elif board.monitor:
        text = f"no run has measured {board.monitor}: there is nothing to rank by"
    else:
        text = "no validation set to rank by" if finished else "no run has finished"
    repeated = any(len(entry.finished) > 1 for entry in board.entries)
    spread = "; mean ± standard deviation of n runs" if repeated and board.ranking_metric else ""
    missing = (
        f"; not measured by {format_count(board.unmeasured_count, 'finished run')}" if board.unmeasured_count else ""
    )
    front = f"Pareto front of {' and '.join(board.objectives)} ({FRONT_MARK}) first; " if board.objectives else ""
    return f"{f'{board.data}: ' if several else ''}{front}{text}{spread}{missing}"


def _build_table(board: Leaderboard) -> Table:
    """Return a leaderboard as a table, a row per entry: its rank if that is known, settings, metric, number of runs."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    settings, numbers = find_varying_settings(board.entries), _build_number_columns(board)
    ranks = [board.evidence.ranks] if board.evidence else []
    for _ in ranks:
        grid.add_column("#", justify="right", no_wrap=True)
    for key, name in zip(settings, get_short_names(settings), strict=True):
        numeric = all(isinstance(entry.settings.get(key, 0), (int, float)) for entry in board.entries)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for name in numbers:
        grid.add_column(name, justify="right", no_wrap=True)
    for row, entry in enumerate(board.entries[:MAX_ROWS]):
        values = [format_setting_value(entry.settings[key]) if key in entry.settings else "" for key in settings]
        style = "dim" if not entry.finished else "bold" if row == 0 and board.chosen else ""
        cells = [*(rank[row] for rank in ranks), *values, *(column[row] for column in numbers.values())]
        grid.add_row(*map(Text, cells), style=style)
    return grid


def _build_number_columns(board: Leaderboard) -> dict[str, list[str]]:
    """Return the columns of numbers: the metric, ``n`` and, if any are above 0, counts of runs that did not finish."""
    entries, metric = board.entries, board.monitor
    columns = {metric: [format_mean_std(metric, entry.collect_values(metric)) for entry in entries]} if metric else {}
    if metric:
        columns |= make_interval_column(metric, entries)
    for name in board.objectives:
        columns[name] = [format_objective(name, entry.collect_values(name)) for entry in entries]
    if board.objectives:
        columns["front"] = [FRONT_MARK * is_on for is_on in board.front]
    columns["n"] = [str(len(entry.finished)) for entry in entries]
    counts = {name: [getattr(entry, name) for entry in entries] for name in ("failed", DAMAGED, "pruned", "left")}
    return columns | {name: [str(count or "") for count in column] for name, column in counts.items() if any(column)}


def make_interval_column(metric: str, entries: list[LeaderboardEntry]) -> dict[str, list[str]]:
    """Return a column with the 95% interval of a metric's mean in each entry, by a heading that names its kind.

    It is empty where there is no interval; without any interval there is no column.
    """
    found = [compute_interval(metric, entry.collect_values(metric)) for entry in entries]
    kinds = sorted({interval.kind for interval in found if interval}, reverse=True)
    return {f"95% interval ({', '.join(kinds)})": [format_interval(metric, each) for each in found]} if kinds else {}


def find_varying_settings(entries: list[LeaderboardEntry]) -> list[str]:
    """Return the names of the settings in which entries differ."""
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    return [key for key in keys if len({format_setting_value(entry.settings.get(key, "")) for entry in entries}) > 1]


def _format_winner_lines(board: Leaderboard, trust_arguments: str) -> list[str]:
    """Return the lines on the chosen entry: its test metrics, what its choice is worth, and a command to evaluate it.

    ``trust_arguments`` is the part of the command that lets it open a run with classes of other packages.
    """
    if any(board.front):
        first = quote_relative_path(board.entries[0].finished[0].folder)
        return [f"evaluate one of them:  {format_command('src.eval')} run={first}{trust_arguments}"]
    if not (chosen := board.chosen):
        return []
    tests = dict.fromkeys(
        name for run in chosen.finished for name in find_scalar_metrics(run.metrics) if name.startswith("test/")
    )
    results = (
        ", ".join(f"{name} {format_mean_std(name, chosen.collect_values(name))}" for name in tests) or "not tested"
    )
    prefix = "chosen: " if board.is_complete else "best so far: "
    title = f"{prefix if len(board.entries) > 1 else ''}{format_settings(chosen.settings) or 'all runs'}"
    command = f"{format_command('src.eval')} run={quote_relative_path(chosen.finished[0].folder)}{trust_arguments}"
    return [
        f"{title}: {results} (n = {len(chosen.finished)})",
        *(f"  {line}" for line in describe_optimism(board.evidence, board.ranking_metric, len(board.entries))),
        f"  evaluate it:  {command}{_describe_other_runs(chosen.finished)}",
    ]


def _describe_other_runs(runs: list[Run]) -> str:
    """Return a hint at the other runs of an entry, after its first."""
    if len(runs) > MAX_RUN_NUMBERS:
        return f"  (one of its {len(runs)} runs)"
    numbers = ", ".join(str(run.number) for run in runs[1:])
    return f"  (its other runs: {numbers})" if numbers else ""
