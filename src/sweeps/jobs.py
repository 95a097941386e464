"""The jobs of a sweep: what each is, which number and folder it has, and how far it came."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import swept_name
from src.configs import APART, flat
from src.core.files import read_json, write_json
from src.core.strays import refuse_strays_of_job
from src.errors import InputError

NOTES = "job.json"
STACK = "stack.json"  # of a job that is trained together with others: where their state is kept
STATES = "stacks"  # the folder of the states of stacks under way, in the sweep's


class Job(NamedTuple):
    """A job of a sweep, as its ``job.json`` tells it.

    Attributes:
        folder: where it lies.
        number: given when the job was first asked for; it stays.
        identity: a hash of the settings, paths and devices apart: equal for equal jobs.
        overrides: the settings that it was asked for with, as typed.
        choices: the choice taken in each config group.
        settings: all its settings by their full names.
    """

    folder: Path
    number: int
    identity: str
    overrides: list[str]
    choices: dict[str, Any]
    settings: dict[str, Any]

    @property
    def status(self) -> dict[str, Any]:
        """How far it came: ``status``, ``reason``, ``message``."""
        found = read_json(self.folder / "status.json") or {}
        return {
            "status": found.get("status", "waiting"),
            "reason": found.get("reason"),
            "message": found.get("message"),
        }

    @property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.folder / "metrics.json") or {}

    def write_status(self, status: str, reason: str | None = None, message: str | None = None) -> None:
        write_json(self.folder / "status.json", {"status": status, "reason": reason, "message": message})

    @property
    def stack(self) -> Path | None:
        """Where the state is that it goes on from together with others; ``None`` if it does not."""
        name = str((read_json(self.folder / STACK) or {}).get("state"))
        path = self.folder.parent / name
        return path if re.fullmatch(rf"{STATES}/[\w.-]+", name) and path.is_file() else None

    def make_ready(self) -> None:
        """Let it begin, or go on from where it was kept; what an unfinished first epoch has left is removed."""
        if (self.folder / "checkpoints" / "last.ckpt").is_file() or self.stack:
            self.write_status("waiting")
        else:
            self.clear()

    def clear(self) -> None:
        """Remove what the job has left; it is waiting again."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != NOTES:
                path.unlink()
        self.write_status("waiting")


def read_jobs(folder: Path) -> list[Job]:
    """The jobs of the sweep in a folder, in the order of their numbers.

    Raises:
        InputError: if one's notes are damaged.
    """
    return sorted((read_job(path.parent) for path in folder.glob(f"*/{NOTES}")), key=lambda job: job.number)


def read_job(folder: Path) -> Job:
    """The job in a folder.

    Raises:
        InputError: if its notes are missing or damaged, or something in it leads elsewhere.
    """
    refuse_strays_of_job(folder)
    notes = read_json(folder / NOTES) or {}
    try:
        return Job(folder, **notes)
    except TypeError as error:
        raise InputError(f"{folder / NOTES} is damaged: it does not tell a job") from error


def describe(config: DictConfig) -> dict[str, Any]:
    """What a job is, from its config composed by Hydra: identity, overrides, choices and settings.

    The config has to be Hydra's current one (`HydraConfig`), which references are resolved with.
    """
    hydra = config.hydra
    settings = flat(config)
    return {
        "identity": identity(settings),
        "overrides": list(hydra.overrides.task),
        "choices": OmegaConf.to_container(hydra.runtime.choices),
        "settings": settings,
    }


def identity(settings: dict[str, Any]) -> str:
    """A hash of settings, those of paths and devices apart."""
    kept = {key: value for key, value in settings.items() if not key.startswith(APART)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Register:
    """Gives each job of a sweep its number and folder when it is first asked for.

    Args:
        folder: the sweep's folder, which the caller holds alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known = {job.identity: job for job in read_jobs(folder)}
        self.next = max((job.number for job in self.known.values()), default=-1) + 1

    def job(self, config: DictConfig, swept: set[str]) -> Job:
        """The job that a config asks for; a new one gets the next number and a folder named by what is swept."""
        told = describe(config)
        if told["identity"] not in self.known:
            name = f"{self.next}{swept_name(told['overrides'], swept)}"
            self.known[told["identity"]] = note(self.folder / name, self.next, told)
            self.next += 1
        return self.known[told["identity"]]


def note(folder: Path, number: int, told: dict[str, Any]) -> Job:
    """Write a job's notes into its folder, and that it waits."""
    job = Job(folder, number, **told)
    job.write_status("waiting")
    write_json(folder / NOTES, {"number": number, **told})  # last: a folder with notes is complete
    return job


def note_running(config: DictConfig) -> None:
    """Note the job that Hydra runs at present, if its launcher is one that notes nothing."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not (folder / NOTES).exists():
        write_json(folder / NOTES, {"number": config.hydra.job.num, **describe(config)})
