"""List all runs and sweeps: start, settings, result and status.

    python -m src.runs                                  # those under outputs/, newest first
    python -m src.runs --filter mnist --sort result     # those with MNIST, best first
    python -m src.runs --filter failed elsewhere/outputs

A filter is a word that a row must contain; with several filters, all of them.
"""

import sys
from pathlib import Path

if not __package__:  # started as python src/runs.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

import csv
import io
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from src.core.commands import OneLineParser, format_command
from src.core.errors import InputError
from src.core.formatting import format_metric
from src.storage import schema
from src.storage.files import read_text
from src.storage.records import read_metrics
from src.storage.schema import DamagedError
from src.storage.status import DAMAGED, read_status
from src.storage.strays import refuse_strays

SORT_KEYS = ("when", "result", "status", "name")


class Row(NamedTuple):
    """A row of the table: a run or a sweep.

    Attributes:
        started: the time of its first start.
        folder: its folder.
        settings: the settings that were typed.
        status: of a run; for a sweep the number of jobs with each status.
        metric: the monitored metric, and "min" or "max", whichever is best.
        value: the metric's best value; NaN if there is none yet.
    """

    started: datetime
    folder: Path
    settings: str
    status: str
    metric: tuple[str, str]
    value: float

    @property
    def result(self) -> str:
        name, _ = self.metric
        if math.isnan(self.value):
            return ""
        return f"{name} {format_metric(name, self.value)}"

    @property
    def cells(self) -> list[str]:
        return [
            f"{self.started.astimezone():%Y-%m-%d %H:%M}",
            str(self.folder),
            self.settings,
            self.result,
            self.status,
        ]


def main() -> None:
    parser = OneLineParser(prog=format_command("src.runs"), description="List all runs and sweeps.")
    parser.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"), help="the folder that holds them")
    parser.add_argument(
        "--sort",
        choices=SORT_KEYS,
        default="when",
        help="sort by a column: newest, best or alphabetically first on top",
    )
    parser.add_argument("--filter", action="append", default=[], metavar="WORD", help="show rows that contain it")
    given = parser.parse_args()
    try:
        rows = _read_rows(given.outputs)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    words = [word.lower() for word in given.filter]
    kept = [row for row in rows if all(word in " ".join(row.cells).lower() for word in words)]
    _print_rows(sorted(kept, key=_get_sort_key(given.sort)))


def _read_rows(outputs: Path) -> list[Row]:
    """Read the runs in ``runs/`` and the sweeps in ``sweeps/`` of a folder.

    Raises:
        InputError: if it has neither folder.
    """
    runs, sweeps = outputs / "runs", outputs / "sweeps"
    if not (runs.is_dir() or sweeps.is_dir()):
        flag, _, value = str(outputs).partition("=")
        hint = f"; did you mean --{flag} {value}?" if flag in ("filter", "sort") else ""
        there = "it contains neither runs/ nor sweeps/" if outputs.is_dir() else "there is no such folder"
        raise InputError(f"{outputs}: {there}{hint}")
    found = dict.fromkeys(_find_folders(runs, ".hydra/config.yaml"), _read_run)
    found |= dict.fromkeys(_find_folders(sweeps, "multirun.yaml"), _read_sweep)
    return [_describe_refused_folder(folder) or read(folder) for folder, read in found.items()]


def _print_rows(rows: list[Row]) -> None:
    """Print rows as a table; lines are wrapped only in a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("started", "folder", "settings", "best", "status"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.cells), style="red" if "failed" in row.status or DAMAGED in row.status else "")
    console.print(table)


def _get_sort_key(sort_by: str) -> Callable[[Row], Any]:
    keys: dict[str, Callable[[Row], Any]] = {
        "when": lambda row: -row.started.timestamp(),
        "result": lambda row: (row.metric, math.isnan(row.value), -row.value if row.metric[1] == "max" else row.value),
        "status": lambda row: (row.status, -row.started.timestamp()),
        "name": lambda row: str(row.folder),
    }
    return keys[sort_by]


def _find_folders(folder: Path, marker: str) -> Iterator[Path]:
    """Yield the subfolders that contain the file ``marker``, sorted by name."""
    return (path for path in sorted(folder.glob("*")) if (path / marker).is_file())


def _describe_refused_folder(folder: Path) -> Row | None:
    """Return the row of a folder that must not be read, since a link leads out of it; ``None`` for other folders."""
    try:
        refuse_strays(folder)
    except InputError as error:
        return Row(_read_time(folder, {}), folder, "", f"damaged: {error}", ("", ""), math.nan)
    return None


def _read_run(folder: Path) -> Row:
    metrics, provenance = read_metrics(folder), _read_provenance(folder)
    return Row(
        started=_read_time(folder, provenance),
        folder=folder,
        settings=_read_settings(provenance),
        status=_read_status(folder),
        metric=(str(metrics.get("monitor") or ""), str(metrics.get("mode") or "")),
        value=_parse_number(metrics.get("best")),
    )


def _read_sweep(folder: Path) -> Row:
    jobs = list(_find_folders(folder, "job.json"))
    statuses = Counter(_read_job_status(job) for job in jobs)
    metrics = next((found for job in jobs if (found := read_metrics(job))), {})
    provenance = next((found for job in jobs if (found := _read_provenance(job))), {})
    metric = (str(metrics.get("monitor") or ""), str(metrics.get("mode") or ""))
    if statuses["running"] and not _is_locked(folder):
        statuses["stopped"] = statuses.pop("running")
    return Row(
        started=_read_time(folder, provenance),
        folder=folder,
        settings=_read_settings(provenance),
        status=f"{len(jobs)} jobs: " + ", ".join(f"{count} {status}" for status, count in statuses.most_common()),
        metric=metric,
        value=_read_best(folder / "results.csv", *metric),
    )


def _read_status(folder: Path) -> str:
    """Return a run's status, with the reason if damaged; "stopped" if it was killed while its file says "running"."""
    status = read_status(folder)
    if status["status"] == DAMAGED:
        return f"{DAMAGED} ({status['reason']})"
    return "stopped" if status["status"] == "running" and not _is_locked(folder) else str(status["status"])


def _read_job_status(folder: Path) -> str:
    try:
        schema.read_checked(folder / "job.json", schema.JOB)
    except DamagedError:
        return DAMAGED
    return str(read_status(folder)["status"])


def _read_provenance(folder: Path) -> dict[str, Any]:
    """Return the contents of a run's ``provenance.json``; empty if the file is missing or damaged."""
    try:
        return schema.read_checked(folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError:
        return {}


def _is_locked(folder: Path) -> bool:
    """Return True if a process holds the lock of a folder."""
    lock = folder / ".lock"
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _read_time(folder: Path, provenance: dict[str, Any]) -> datetime:
    """Return the time of a run's first start; if it was not recorded, the folder's modification time."""
    try:
        return datetime.fromisoformat(str(provenance.get("started")))
    except ValueError:
        return datetime.fromtimestamp(folder.stat().st_mtime, UTC)


def _read_settings(provenance: dict[str, Any]) -> str:
    """Return the settings of the command that started a run, without the program and the name."""
    try:
        words = shlex.split(str(provenance.get("command") or ""))
    except ValueError:
        return ""
    return shlex.join(word for word in words[3:] if not word.startswith(("name=", "-m")))


def _read_best(path: Path, metric: str, mode: str) -> float:
    """Return the best value of a metric in a sweep's results; NaN if there is none."""
    try:
        values = [_parse_number(row.get(metric)) for row in csv.DictReader(io.StringIO(read_text(path)))]
    except (OSError, ValueError, csv.Error, InputError):
        return math.nan
    return (max if mode == "max" else min)((value for value in values if math.isfinite(value)), default=math.nan)


def _parse_number(value: Any) -> float:
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


if __name__ == "__main__":
    main()
