"""The runs of a sweep, read from their folders at any time, and texts that name them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.core.formatting import describe_settings, format_setting_value, format_settings
from src.storage.configs import is_identifying
from src.storage.schema import read_history
from src.storage.status import DAMAGED, STATUS_FILE
from src.sweeps.store.jobs import Job, read_job, read_jobs


class Run(NamedTuple):
    """A job of a sweep and its results so far.

    Attributes:
        folder: its folder.
        number: its number in the sweep.
        swept: its values of the settings that vary over the sweep, resolved; settings that it lacks are left out.
        seed: the seed that it used, if known.
        status: waiting, running, finished, interrupted, failed, or damaged if its files cannot be read.
        reason: why it was stopped, in a word or two; the damaged files if it is damaged.
        message: why it was stopped, in a sentence; the damage if it is damaged.
        metrics: the content of its ``metrics.json``; empty before the end of its first epoch.
        data: its data set.
        is_known: True if its job file is undamaged, so that its settings are known.
    """

    folder: Path
    number: int
    swept: dict[str, Any]
    seed: int | None
    status: str
    reason: str | None
    message: str | None
    metrics: dict[str, Any]
    data: str | None
    is_known: bool = True

    @property
    def label(self) -> str:
        """The settings that distinguish the run from others, without seeds: "hidden size 3, dropout 0.5"."""
        return format_settings({key: value for key, value in self.swept.items() if not is_seed(key)}) or "all runs"

    @property
    def title(self) -> str:
        """The settings that distinguish the run from all others, with seeds."""
        return format_settings(self.swept) or self.folder.name

    @property
    def caption(self) -> str:
        """The label in words, for a figure."""
        return describe_settings({key: value for key, value in self.swept.items() if not is_seed(key)}) or "all runs"

    @property
    def full_caption(self) -> str:
        """The title in words, for a figure."""
        return describe_settings(self.swept) or self.folder.name.replace("_", " ")

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch, from ``history.csv``.

        Raises:
            DamagedError: if the file is damaged.
        """
        epochs = self.metrics.get("epochs") if self.status == "finished" else None
        return read_history(self.folder / "history.csv", epochs)


def is_seed(key: str) -> bool:
    """Return True if a setting is a seed, as ``seed`` and ``data.split_seed`` are."""
    return key.endswith("seed")


def group_by_caption(runs: list[Run]) -> dict[str, list[Run]]:
    """Group runs by their captions in figures, so that runs that differ only in their seeds come together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.caption, []).append(run)
    return groups


def require_jobs(folder: Path, read: Callable[[Path], Job] | None = None) -> list[Job]:
    """Return the jobs of a sweep as `read_jobs` does.

    Raises:
        InputError: if there are none.
    """
    if jobs := read_jobs(folder, read):
        return jobs
    raise InputError(f"{folder}: it contains no jobs" if folder.is_dir() else f"{folder} is not a sweep's folder")


def read_runs(folder: Path) -> list[Run]:
    """Return the runs of all jobs of a sweep, in the order of their numbers.

    Raises:
        InputError: if there are no jobs.
    """
    jobs = require_jobs(folder)
    return [read_run(job, swept) for job, swept in zip(jobs, find_swept_settings(jobs), strict=True)]


class SweepReader:
    """A reader of a sweep that runs: it reads the files of a finished job once, as they no longer change.

    Args:
        folder: the sweep's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: dict[Path, tuple[int, Job, Run]] = {}  # by folder: when the status was written, job and run
        self.jobs: list[Job] = []
        self.swept: list[dict[str, Any]] = []

    def read(self) -> list[Run]:
        """Return the sweep's runs as `read_runs` does.

        Raises:
            InputError: if there are no jobs.
        """
        written_at: dict[Path, int | None] = {}  # when each status was written, before the job was read

        def read(folder: Path) -> Job:
            written_at[folder] = _read_status_time(folder)
            known = self.finished.get(folder)
            return known[1] if known and known[0] == written_at[folder] else read_job(folder)

        jobs = require_jobs(self.folder, read)
        if jobs != self.jobs:
            self.jobs, self.swept = jobs, find_swept_settings(jobs)
        runs = [self._read_run(job, swept) for job, swept in zip(jobs, self.swept, strict=True)]
        self.finished = {
            job.folder: (moment, job, run)
            for job, run in zip(jobs, runs, strict=True)
            if run.status == "finished" and (moment := written_at[job.folder]) is not None
        }
        return runs

    def _read_run(self, job: Job, swept: dict[str, Any]) -> Run:
        known = self.finished.get(job.folder)
        return known[2]._replace(swept=swept) if known and known[1] is job else read_run(job, swept)


def _read_status_time(folder: Path) -> int | None:
    """Return when a job's status was written, in nanoseconds; ``None`` if it has none."""
    try:
        return (folder / STATUS_FILE).lstat().st_mtime_ns
    except OSError:
        return None


def select_runs_with_metrics(folder: Path, runs: list[Run]) -> list[Run]:
    """Return those of a sweep's runs that can be drawn: with metrics, and neither failed nor damaged.

    Raises:
        InputError: if there are none.
    """
    if found := [run for run in runs if run.metrics and run.status not in ("failed", DAMAGED)]:
        return found
    raise InputError(f"{folder}: it contains no runs with metrics")


def read_run(job: Job, swept: dict[str, Any]) -> Run:
    """Return a job's run, from the files it has written so far."""
    status, metrics = job.read_results()
    seed, data = metrics.get("seed"), job.choices.get("data")
    return Run(
        folder=job.folder,
        number=job.number,
        swept=swept,
        seed=job.settings.get("seed") if seed is None else seed,
        **status,
        metrics=metrics,
        data=None if data is None else format_setting_value(data),
        is_known=job.damage is None,
    )


def find_swept_settings(jobs: list[Job]) -> list[dict[str, Any]]:
    """Return each job's resolved values of the settings that vary over the sweep.

    A setting varies if it was set on the command line, and its values differ both as typed and as resolved. Paths
    and devices are left out, as they do not change a job's result; damaged jobs are not compared.
    """
    typed = [_parse_overrides(job) for job in jobs]
    pairs = [(job.settings, key) for job, values in zip(jobs, typed, strict=True) for key in values]
    keys = list(dict.fromkeys(key for settings, key in pairs if is_identifying(key, settings)))
    resolved = [_select_resolved_settings(job, values, keys) for job, values in zip(jobs, typed, strict=True)]
    intact = [index for index, job in enumerate(jobs) if job.damage is None]
    # Values typed differently may mean the same (1e-3 and 0.001), and values typed alike may resolve differently
    # (${seed}): a setting varies only if both kinds of values differ.
    varying = [
        key
        for key in keys
        if len({typed[index].get(key) for index in intact}) > 1
        and len({format_setting_value(resolved[index][key]) if key in resolved[index] else None for index in intact})
        > 1
    ]
    return [{key: values[key] for key in varying if key in values} for values in resolved]


def _select_resolved_settings(job: Job, overrides: dict[str, str], keys: list[str]) -> dict[str, Any]:
    """Return a job's values of the given keys, without keys that it lacks."""
    known = {**overrides, **job.choices, **job.settings}
    return {key: known[key] for key in keys if key in known}


def _parse_overrides(job: Job) -> dict[str, str]:
    """Return a job's overrides from the command line, by setting and as typed, without deletions and Hydra's own."""
    pairs = [override.lstrip("+").split("=", 1) for override in job.overrides]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and not pair[0].startswith(("~", "hydra.", "hydra/"))}
