"""What the folder of a run or of a sweep shows about how its results came about."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.core.formatting import format_setting_value
from src.storage.configs import CONFIG_FILE, flatten_config, read_config
from src.storage.files import read_text
from src.storage.schema import DamagedError
from src.storage.status import read_results
from src.storage.strays import refuse_strays
from src.storage.weights import read_checkpoint
from src.sweeps.store.jobs import JOB_FILE, read_jobs, refuse_strays_outside_jobs
from src.sweeps.store.leaderboard import Leaderboard, build_leaderboards
from src.sweeps.store.runs import Run, read_runs
from src.training.checkpointing.checkpoint import find_checkpoint
from src.training.repeat import read_last_start

MAX_NOTES = 10  # of a run's log
MAX_SHOWN = 6  # different values of a setting


class Facts(NamedTuple):
    """What is known of a folder.

    Attributes:
        folder: the folder.
        is_sweep: True if it is a sweep's.
        runs: its runs.
        settings: the settings of each run by their full names; empty where they are damaged.
        starts: what each run's last start has recorded, see `src.storage.records.collect_provenance`.
        boards: the sweep's leaderboards.
        shown: the run whose checkpoint and log are read: the first of the best entry, else the first that finished.
        checkpoint: the content of its checkpoint; empty if there is none.
        notes: what its log noted about the data.
    """

    folder: Path
    is_sweep: bool
    runs: list[Run]
    settings: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    boards: list[Leaderboard]
    shown: Run
    checkpoint: dict[str, Any]
    notes: list[str]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.status == "finished"]

    @property
    def shown_settings(self) -> dict[str, Any]:
        """The settings of the shown run."""
        return self.settings[self.runs.index(self.shown)]

    def list_values(self, name: str) -> list[str]:
        """Return the different values of a setting, as on the command line; not null."""
        values = [settings[name] for settings in self.settings if settings.get(name) is not None]
        return list(dict.fromkeys(map(format_setting_value, values)))

    def describe(self, names: Iterable[str], prefix: str = "") -> str:
        """Return settings with their values over all runs: "val_size=5000, seed=0 or 1"; those without are left out."""
        found = {name: self.list_values(f"{prefix}{name}") for name in names}
        return ", ".join(f"{name}={join_values(values)}" for name, values in found.items() if values)

    def list_recorded(self, read: Callable[[dict[str, Any]], Any]) -> list[str]:
        """Return the different texts that a function reads from the records of the starts; not ``None``."""
        return list(dict.fromkeys(str(value) for start in self.starts if (value := read(start)) is not None))


def join_values(values: list[str]) -> str:
    """Return values as a text: "1, 2 or 3"."""
    if len(values) > MAX_SHOWN:
        return f"{', '.join(values[: MAX_SHOWN - 1])} … {values[-1]} ({len(values)} values)"
    return " or ".join(filter(None, [", ".join(values[:-1]), *values[-1:]]))


def read_facts(folder: Path) -> Facts:
    """Read the folder of a run or a sweep, which may be a stranger's.

    Raises:
        InputError: if there is neither, or a link leads out of the folder.
    """
    if is_sweep := any(folder.glob(f"*/{JOB_FILE}")):
        refuse_strays_outside_jobs(folder)
        runs, settings = read_runs(folder), [job.settings for job in read_jobs(folder)]
    else:
        refuse_strays(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise InputError(f"run={folder}: there is neither a run nor a sweep")
        settings = [flatten_config(read_config(folder))]
        status, metrics = read_results(folder)
        runs = [Run(folder, 0, {}, metrics.get("seed"), **status, metrics=metrics, data=None)]
    boards = build_leaderboards(runs)
    chosen = [board.chosen.finished[0] for board in boards if board.chosen]
    shown = next(iter([*chosen, *(run for run in runs if run.status == "finished"), *runs]))
    checkpoint = dict[str, Any]()
    with suppress(InputError):
        checkpoint = read_checkpoint(find_checkpoint(shown.folder, None))
    starts = [read_last_start(run.folder) for run in runs]
    return Facts(folder, is_sweep, runs, settings, starts, boards, shown, checkpoint, read_notes(shown.folder))


def read_notes(folder: Path) -> list[str]:
    """Return the notes in a run's log, which are about its data."""
    try:
        lines = read_text(folder / "train.log").splitlines()
    except (OSError, InputError, DamagedError):
        return []
    return list(dict.fromkeys(line.partition("note: ")[2] for line in lines if "note: " in line))[:MAX_NOTES]
