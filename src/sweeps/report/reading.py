"""The content of a report: the runs of one or several sweeps, and their provenance."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from src.core.errors import InputError
from src.storage import schema
from src.storage.plain import read_yaml
from src.storage.records import DAMAGED
from src.storage.schema import DamagedError
from src.sweeps.store.jobs import Job, read_jobs
from src.sweeps.store.runs import Run, find_swept_settings, read_run

History = list[dict[str, float]]


class Sweeps(NamedTuple):
    """One or several sweeps, read from their folders at one moment.

    Attributes:
        folders: the folders of the sweeps; the page is written into the first.
        runs: the runs of all sweeps; if there are several sweeps, ``swept`` has the key "sweep", too.
        histories: the metrics of each epoch of each run, in the order of the runs.
        warnings: warnings about what could not be read or drawn, a line each.
    """

    folders: list[Path]
    runs: list[Run]
    histories: list[History]
    warnings: list[str]

    def get_url(self, path: Path) -> str:
        """Return the relative URL of a file from the page, which stays valid when the folders are moved together."""
        relative = Path(os.path.relpath(path.resolve(), self.folders[0].resolve()))
        return "/".join(quote(part) for part in relative.parts)


def read_sweeps(folders: list[Path]) -> Sweeps:
    """Read the runs of sweeps and their histories.

    Raises:
        InputError: if one of the folders has no jobs in it.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    found = [(name, job) for folder, name in get_sweep_names(folders).items() for job in _read_sweep_jobs(folder)]
    swept = find_swept_settings([job for _, job in found])
    if len(folders) > 1:
        swept = [{"sweep": name} | values for (name, _), values in zip(found, swept, strict=True)]
    runs = [read_run(job, values) for (_, job), values in zip(found, swept, strict=True)]
    notes = [str(run.message) for run in runs if run.status == DAMAGED]
    return Sweeps(folders, runs, [_read_history(run, notes) for run in runs], notes)


def get_sweep_names(folders: list[Path]) -> dict[Path, str]:
    """Return the name of each sweep: that of its folder, with the parent folder's if two names would be equal."""
    paths = {folder: folder.resolve() for folder in folders}
    last = [path.name for path in paths.values()]
    return {
        folder: path.name if last.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        for folder, path in paths.items()
    }


def _read_sweep_jobs(folder: Path) -> list[Job]:
    """Return a sweep's jobs in the order of their numbers.

    Raises:
        InputError: if there are none.
    """
    if jobs := read_jobs(folder):
        return jobs
    raise InputError(f"{folder}: it contains no jobs" if folder.is_dir() else f"{folder} is not a sweep's folder")


def _read_history(run: Run, warnings: list[str]) -> History:
    """Read a run's history; empty if it is damaged, which is added to ``warnings``, or if the run is not known."""
    try:
        return run.history if run.is_known else []
    except DamagedError as error:
        warnings.append(str(error))
        return []


# Provenance of the results


class Provenance(NamedTuple):
    """The provenance of results.

    Attributes:
        commands: the commands that started the runs.
        started: the time of the first start, if known.
        commits: the commits of the code.
        versions: the versions of Python and of packages.
        devices: the devices that the runs used.
        seconds: the training time of all runs together.
    """

    commands: list[str]
    started: str | None
    commits: list[str]
    versions: list[str]
    devices: list[str]
    seconds: float


def read_provenance(sweeps: Sweeps) -> Provenance:
    """Return the provenance in the runs' ``provenance.json``; commands from ``multirun.yaml`` if none has started."""
    origins = [_read_run_provenance(run, sweeps.warnings) for run in sweeps.runs if run.is_known]
    starts = [start for first in origins for start in (first, *first.get("resumed", [])) if start]
    commands = _filter_distinct(start.get("command") for start in starts) or _filter_distinct(
        map(_read_command, sweeps.folders)
    )
    return Provenance(
        commands=commands,
        started=min((start["started"] for start in starts if start.get("started")), default=None),
        commits=_filter_distinct(_format_commit(start.get("git") or {}) for start in starts),
        versions=_filter_distinct(_format_versions(start) for start in starts),
        devices=_filter_distinct(start.get("device") for start in starts),
        seconds=sum(run.metrics.get("seconds", 0.0) for run in sweeps.runs),
    )


def _read_run_provenance(run: Run, warnings: list[str]) -> dict[str, Any]:
    """Read a run's provenance; empty if the file is missing, or damaged, which is added to ``warnings``."""
    try:
        return schema.read_checked(run.folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError as error:
        warnings.append(str(error))
        return {}


def _filter_distinct(texts: Iterable[str | None]) -> list[str]:
    """Return the texts without duplicates and empty ones, in their order."""
    return list(dict.fromkeys(text for text in texts if text))


def _read_command(folder: Path) -> str | None:
    """Return the command that started a sweep, from its ``multirun.yaml``; ``None`` if that cannot be read."""
    try:
        overrides = read_yaml(folder / "multirun.yaml")["hydra"]["overrides"]["task"]
        return shlex.join(["python", "-m", "src.train", "-m", *map(str, overrides)])
    except (InputError, KeyError, TypeError):
        return None


def _format_commit(git: dict[str, Any]) -> str | None:
    """Return a short commit hash, marked if the code had changes; ``None`` without a commit."""
    return f"{git['commit'][:10]}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else None


def _format_versions(start: dict[str, Any]) -> str:
    packages = {"Python": start.get("python"), **(start.get("packages") or {})}
    return ", ".join(f"{name} {number}" for name, number in packages.items() if number)
