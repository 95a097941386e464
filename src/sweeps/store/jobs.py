"""The jobs of a sweep: what each is, which number and folder it has, and how far it came."""

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.cli.main import swept_name
from src.core.errors import InputError
from src.core.places import LONGEST_NAME, read_subdir, shorten, slug
from src.storage import schema, strays
from src.storage.configs import flat, select_identifying
from src.storage.files import PARTIAL, remove, remove_tree, write_json
from src.storage.moved import update_names
from src.storage.records import DAMAGED, drop_damaged, read_metrics, read_status
from src.storage.schema import DamagedError

NOTES = "job.json"
STATUS = "status.json"
LOCK = ".lock"  # held by the process that trains in the folder
STACK = "stack.json"  # of a job that is trained together with others: where their state is kept
NOTED = ("number", "identity", "overrides", "choices", "settings")
LEFT = (".hydra", "checkpoints", "metrics.json", "train.log")  # what a job that has begun has in its folder


class Job(NamedTuple):
    """A job of a sweep, as its ``job.json`` tells it.

    Attributes:
        folder: where it lies.
        number: given when the job was first asked for; it stays.
        identity: a hash of the settings, paths and devices apart: equal for equal jobs.
        overrides: the settings that it was asked for with, as typed.
        choices: the choice taken in each config group.
        settings: all its settings by their full names.
        damage: what is wrong with its ``job.json``; then all that is known is its folder, with a number to call it by.
        closed: nothing in its folder is read, since something in it leads elsewhere.
    """

    folder: Path
    number: int
    identity: str
    overrides: list[str]
    choices: dict[str, Any]
    settings: dict[str, Any]
    damage: str | None = None
    closed: bool = False

    @property
    def status(self) -> dict[str, Any]:
        """How far it came: ``status``, ``reason``, ``message``."""
        if self.damage is not None:
            return {"status": DAMAGED, "reason": "its folder" if self.closed else NOTES, "message": self.damage}
        return read_status(self.folder)

    @property
    def metrics(self) -> dict[str, Any]:
        return {} if self.closed else read_metrics(self.folder)

    def write_status(self, status: str, reason: str | None = None, message: str | None = None) -> None:
        write_json(self.folder / STATUS, {"status": status, "reason": reason, "message": message})

    @property
    def stack(self) -> Path | None:
        """Where the state is that it goes on from together with others; ``None`` if it does not, or not any more."""
        try:
            told = schema.read(self.folder / STACK, schema.STACK)
        except DamagedError:
            return None
        path = self.folder.parent / told["state"] if told else None
        return path if path and path.is_file() else None

    def make_ready(self) -> None:
        """Let it begin, or go on from where it was kept; what an unfinished first epoch has left is removed."""
        if (self.folder / "checkpoints" / "last.ckpt").is_file() or self.stack:
            drop_damaged(self.folder)
            self.write_status("waiting")
        else:
            self.clear()

    def clear(self) -> None:
        """Remove what the job has left; it is waiting again, and so it is first of all, wherever this is stopped."""
        self.write_status("waiting")
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            elif path.name not in (NOTES, STATUS, LOCK):
                remove(path)


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of the sweep in a folder, in the order of their numbers; damaged ones tell so."""
    jobs, damage, closed = [], dict[Path, str](), set[Path]()
    for path in sorted(filter(is_job, folder.glob("*"))):
        try:
            jobs.append(read_job(path))
        except InputError as error:
            damage[path] = str(error)
            closed |= {path} if isinstance(error, strays.StrayError) else set()
    jobs.sort(key=lambda job: (job.number, number_of(job.folder) != job.number))
    for before, job in pairwise(jobs):
        if before.number == job.number:
            damage[job.folder] = f"{job.folder / NOTES} is damaged: its number {job.number} is that of {before.folder}"
    whole = [job for job in jobs if job.folder not in damage]
    told = damaged_jobs(damage, closed, {job.number for job in whole})
    return sorted([*whole, *told], key=lambda job: job.number)


def damaged_jobs(damage: dict[Path, str], closed: set[Path], taken: set[int]) -> list[Job]:
    """Return the jobs of which only the folder is known, by these; their numbers are those of none of the others."""
    jobs: list[Job] = []
    for path, fault in damage.items():
        number, numbers = number_of(path), taken | {job.number for job in jobs}
        if number is None or number in numbers:
            number = max(numbers, default=-1) + 1
        jobs.append(Job(path, number, "", [], {}, {}, fault, path in closed))
    return jobs


def refuse_strays_beside_jobs(folder: Path) -> None:
    """Refuse a sweep's folder with something beside its jobs that leads elsewhere; a job is looked at when it is read.

    A job's folder is named by a number, which no other folder here is: ``figures/`` with notes in it is none.

    Raises:
        StrayError: naming the first.
    """
    strays.refuse_strays(folder, but_for=lambda path: number_of(path) is not None and is_job(path))


def is_job(folder: Path) -> bool:
    """Whether a folder is a job's: it has notes, or a job's name and something in it that a job has left."""
    if (folder / NOTES).exists():
        return True
    return number_of(folder) is not None and any((folder / name).exists() for name in LEFT)


def number_of(folder: Path) -> int | None:
    """The number that a job's folder is named by; ``None`` if it is named otherwise."""
    found = re.match(r"(\d{1,9})(_|$)", folder.name, re.ASCII)
    return int(found[1]) if found else None


def read_job(folder: Path) -> Job:
    """The job in a folder.

    Raises:
        InputError: if its notes are missing or damaged, or something in it leads elsewhere.
    """
    strays.refuse_strays_of_job(folder)
    notes = schema.read(folder / NOTES, schema.JOB)
    if notes is None:
        raise DamagedError(f"{folder / NOTES} is missing")
    return Job(folder, *(notes[name] for name in NOTED))._replace(settings=update_names(notes["settings"]))


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
    return hashlib.sha256(json.dumps(select_identifying(settings), sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]


class Register:
    """Gives each job of a sweep its number and folder when it is first asked for.

    A job whose notes are damaged is not known: its folder is left as it is, and the job gets another.

    Args:
        folder: the sweep's folder, which the caller holds alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        jobs = read_jobs(folder)
        self.known = {job.identity: job for job in jobs if job.damage is None}
        self.next = max((job.number for job in jobs), default=-1) + 1

    def job(self, config: DictConfig, swept: set[str]) -> Job:
        """The job that a config asks for; a new one gets the next number and a folder named by what is swept."""
        told = describe(config)
        known = self.known.get(told["identity"])
        if known is None:
            swept_part = swept_name(told["overrides"], swept)
            while not is_new(folder := self.folder / name_folder(config, self.next, swept_part)):
                self.next += 1
            known = note(folder, self.next, told)
            self.next += 1
        known = known._replace(settings=told["settings"])  # paths and devices are those asked for now
        self.known[told["identity"]] = known
        return known


def name_folder(config: DictConfig, number: int, swept_part: str) -> str:
    """Return the name of a job's folder: its number and what is swept, or what ``hydra.sweep.subdir`` makes of them."""
    if "${swept:" in read_subdir(config):
        return f"{number}{swept_part}"
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = number
    return shorten(slug(str(config.hydra.sweep.subdir)), LONGEST_NAME)


def is_new(folder: Path) -> bool:
    """Return whether a folder is not there, or holds no more than a start leaves that was stopped as it made it."""
    if not (folder.exists() or folder.is_symlink()):
        return True
    return folder.is_dir() and all(path.name == STATUS or path.name.endswith(PARTIAL) for path in folder.iterdir())


def note(folder: Path, number: int, told: dict[str, Any]) -> Job:
    """Write a job's notes into its folder, and that it waits."""
    job = Job(folder, number, **told)
    job.write_status("waiting")
    write_notes(job)  # last: a folder with notes is complete
    return job


def write_notes(job: Job) -> None:
    write_json(job.folder / NOTES, {name: getattr(job, name) for name in NOTED})


def note_running(config: DictConfig) -> None:
    """Note the job that Hydra runs at present, if its launcher is one that notes nothing."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not (folder / NOTES).exists():
        write_notes(Job(folder, config.hydra.job.num, **describe(config)))


def find_damage(folder: Path) -> list[str]:
    """Return a line for each job of the sweep in a folder that is damaged: what is wrong."""
    return [status["message"] for job in read_jobs(folder) if (status := job.status)["status"] == DAMAGED]
