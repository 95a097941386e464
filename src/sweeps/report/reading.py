"""What a report tells of: the runs of a sweep or of several, and where they come from."""

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
from src.sweeps.store.runs import Run, read_run, swept_settings

History = list[dict[str, float]]


class Sweeps(NamedTuple):
    """One sweep or several, as their folders tell them at one moment.

    Attributes:
        folders: where they lie; the page is written into the first.
        runs: all of them together; where there are several sweeps, ``swept`` has "sweep", too.
        histories: the runs' metrics epoch by epoch, in the order of the runs.
        notes: what could not be read, a line each.
    """

    folders: list[Path]
    runs: list[Run]
    histories: list[History]
    notes: list[str]

    def link(self, path: Path) -> str:
        """Where a file is found from the page, as an address: it stays right when all of it is moved."""
        relative = Path(os.path.relpath(path.resolve(), self.folders[0].resolve()))
        return "/".join(quote(part) for part in relative.parts)


def read_sweeps(folders: list[Path]) -> Sweeps:
    """Read what there is of the sweeps.

    Raises:
        InputError: if one of the folders has no jobs in it.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    found = [(name, job) for folder, name in names(folders).items() for job in jobs_of(folder)]
    swept = swept_settings([job for _, job in found])
    if len(folders) > 1:
        swept = [{"sweep": name} | each for (name, _), each in zip(found, swept, strict=True)]
    runs = [read_run(job, each) for (_, job), each in zip(found, swept, strict=True)]
    notes = [str(run.message) for run in runs if run.status == DAMAGED]
    return Sweeps(folders, runs, [read_history(run, notes) for run in runs], notes)


def names(folders: list[Path]) -> dict[Path, str]:
    """What each sweep is called: by its folder, with the folders above where two would be called the same."""
    paths = {folder: folder.resolve() for folder in folders}
    last = [path.name for path in paths.values()]
    return {
        folder: path.name if last.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        for folder, path in paths.items()
    }


def jobs_of(folder: Path) -> list[Job]:
    """A sweep's jobs in the order of their numbers.

    Raises:
        InputError: if there is none.
    """
    if jobs := read_jobs(folder):
        return jobs
    raise InputError(f"{folder}: there are no jobs in it" if folder.is_dir() else f"{folder}: no sweep there")


def read_history(run: Run, notes: list[str]) -> History:
    """A run's history; none if it is damaged, which is noted, or if it is not known what the run is."""
    try:
        return run.history if run.known else []
    except DamagedError as error:
        notes.append(str(error))
        return []


# Where the results come from


class Origin(NamedTuple):
    """Where results come from: what was typed, with which code, on what."""

    commands: list[str]
    started: str | None
    commits: list[str]
    versions: list[str]
    devices: list[str]
    seconds: float


def origin(sweeps: Sweeps) -> Origin:
    """What the runs' ``provenance.json`` tell; the commands from ``multirun.yaml`` where none has started yet."""
    told = [read_origin(run, sweeps.notes) for run in sweeps.runs if run.known]
    starts = [start for each in told for start in (each, *each.get("resumed", [])) if start]
    commands = distinct(start.get("command") for start in starts) or distinct(map(command, sweeps.folders))
    return Origin(
        commands=commands,
        started=min((start["started"] for start in starts if start.get("started")), default=None),
        commits=distinct(commit(start.get("git") or {}) for start in starts),
        versions=distinct(versions(start) for start in starts),
        devices=distinct(start.get("device") for start in starts),
        seconds=sum(run.metrics.get("seconds", 0.0) for run in sweeps.runs),
    )


def read_origin(run: Run, notes: list[str]) -> dict[str, Any]:
    """Where a run comes from; nothing if that is not there or damaged, which is noted."""
    try:
        return schema.read(run.folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError as error:
        notes.append(str(error))
        return {}


def distinct(texts: Iterable[str | None]) -> list[str]:
    """The texts that there are, each once, in their order."""
    return list(dict.fromkeys(text for text in texts if text))


def command(folder: Path) -> str | None:
    """The command that a sweep was started with, as its ``multirun.yaml`` has it."""
    try:
        overrides = read_yaml(folder / "multirun.yaml")["hydra"]["overrides"]["task"]
        return shlex.join(["python", "-m", "src.train", "-m", *map(str, overrides)])
    except (InputError, KeyError, TypeError):
        return None


def commit(git: dict[str, Any]) -> str | None:
    """A commit, and whether the code differed from it."""
    return f"{git['commit'][:10]}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else None


def versions(start: dict[str, Any]) -> str:
    packages = {"Python": start.get("python"), **(start.get("packages") or {})}
    return ", ".join(f"{name} {number}" for name, number in packages.items() if number)
