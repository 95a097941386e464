"""The results of a sweep as a table: ``results.csv`` with a row per job."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.core.errors import InputError
from src.core.formatting import format_setting_value
from src.storage import schema
from src.storage.files import write_csv
from src.sweeps.store.runs import Run, read_runs

STAGES = ("val/", "test/", "train/")


@contextmanager
def lock_results(folder: Path) -> Iterator[None]:
    """Hold a sweep's results from reading its runs to writing them: the process that read last also writes last.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a sweep's folder")
    with FileLock(folder / ".results.lock"):
        yield


def write_results(folder: Path, runs: list[Run] | None = None) -> Path:
    """Write ``results.csv`` of the sweep in a folder from the current state of its jobs.

    It may be called at any time and by any process.

    Args:
        folder: the sweep's folder.
        runs: its runs, read while the caller holds `lock_results`; ``None``: they are read now.

    Raises:
        InputError: if there are no jobs.
    """
    if runs is None:
        with lock_results(folder):
            return write_results(folder, read_runs(folder))
    write_csv(folder / "results.csv", build_rows(runs))
    return folder / "results.csv"


def build_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """Return a row per job, all with the same columns; a value that a job lacks is ``None``."""
    settings = dict.fromkeys(key for run in runs for key in run.swept if key != "seed")
    names = dict.fromkeys(name for run in runs for name in find_scalar_metrics(run.metrics))
    metrics = sorted(names, key=lambda name: [not name.startswith(stage) for stage in STAGES])
    return [
        {
            "number": run.number,
            "status": run.status,
            "reason": run.reason,
            **{key: _format_cell(run.swept[key]) if key in run.swept else None for key in settings},
            "seed": run.seed,
            **{name: run.metrics.get(name) for name in [*metrics, "best_epoch", "epochs", "seconds"]},
            "folder": run.folder.name,
        }
        for run in runs
    ]


def find_scalar_metrics(metrics: dict[str, Any]) -> list[str]:
    """Return the names of the metrics that are single numbers."""
    return [
        name for name, value in metrics.items() if name not in schema.METRICS_FIELDS and not isinstance(value, dict)
    ]


def _format_cell(value: Any) -> Any:
    """Return a setting's value for a table: a number unchanged, anything else as text."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else format_setting_value(value)
