"""The jobs of a sweep: their numbers, folders, settings and status, as recorded in each job's folder."""

import hashlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.cli.names import format_swept_name
from src.core.errors import InputError
from src.core.places import MAX_NAME_BYTES, cut_to_bytes, read_subdir, to_slug
from src.storage import schema, strays
from src.storage.configs import flatten_config, select_identifying
from src.storage.files import PARTIAL_SUFFIX, remove_file, remove_tree, write_json
from src.storage.moved import update_settings
from src.storage.records import drop_damaged_metrics
from src.storage.schema import DamagedError
from src.storage.status import DAMAGED, STATUS_FILE, Status, make_status, read_results, write_status

JOB_FILE = "job.json"
LOCK_FILE = ".lock"  # held by the process that trains in the folder
STACK_FILE = "stack.json"  # in the folder of a job that is trained in a stack: the path of the stack's state
JOB_FIELDS = ("number", "identity", "overrides", "choices", "settings")
RUN_FILES = (".hydra", "checkpoints", "metrics.json", "train.log")  # files and folders of a job that has started


class Job(NamedTuple):
    """A job of a sweep, as recorded in its ``job.json``.

    Attributes:
        folder: the job's folder.
        number: assigned when the job is first requested; it never changes.
        identity: a hash of the settings except paths and devices: equal jobs have equal hashes.
        overrides: the command line's overrides for this job, as typed.
        choices: the choice in each config group.
        settings: all settings by their full names.
        damage: an error message if ``job.json`` is damaged; then only the folder is known, and the number is a
            placeholder.
        closed: True if nothing in the folder is read, because a link in it leads out of the folder.
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
    def status(self) -> Status:
        """The job's ``status``, ``reason`` and ``message``."""
        return self.read_results()[0]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.read_results()[1]

    def read_results(self) -> tuple[Status, dict[str, Any]]:
        """Read the job's status and its metrics."""
        status, metrics = ({}, {}) if self.closed else read_results(self.folder)
        if self.damage is not None:
            status = make_status(DAMAGED, "its folder" if self.closed else JOB_FILE, self.damage)
        return status, metrics

    def write_status(self, status: str, reason: str | None = None, message: str | None = None) -> None:
        write_status(self.folder, make_status(status, reason, message))

    @property
    def stack(self) -> Path | None:
        """The file with the state of the stack that this job resumes in; ``None`` if there is none (any more)."""
        try:
            record = schema.read_checked(self.folder / STACK_FILE, schema.STACK)
        except DamagedError:
            return None
        path = self.folder.parent / record["state"] if record else None
        return path if path and path.is_file() else None

    def prepare(self) -> None:
        """Set the job to waiting; keep a state to resume from, else remove what an unfinished first epoch has left."""
        if (self.folder / "checkpoints" / "last.ckpt").is_file() or self.stack:
            drop_damaged_metrics(self.folder)
            self.write_status("waiting")
        else:
            self.reset()

    def reset(self) -> None:
        """Set the job to waiting and remove its files, except its notes, status and lock."""
        # First the status: if this is interrupted, the job counts as waiting and not as finished.
        self.write_status("waiting")
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            elif path.name not in (JOB_FILE, STATUS_FILE, LOCK_FILE):
                remove_file(path)


def read_jobs(folder: Path, read: Callable[[Path], Job] | None = None) -> list[Job]:
    """Return the jobs of the sweep in a folder, ordered by number; `Job.damage` is set for damaged ones.

    ``read`` reads the job in a folder, by default as `read_job` does.
    """
    jobs, damage, closed = [], dict[Path, str](), set[Path]()
    for path in sorted(filter(_is_job, folder.glob("*"))):
        try:
            jobs.append((read or read_job)(path))
        except InputError as error:
            damage[path] = str(error)
            closed |= {path} if isinstance(error, strays.StrayError) else set()
    # Of two jobs with the same number (a copied folder), the one whose folder is named by it comes first and is kept.
    jobs.sort(key=lambda job: (job.number, _parse_number(job.folder) != job.number))
    for before, job in pairwise(jobs):
        if before.number == job.number:
            damage[job.folder] = (
                f"{job.folder / JOB_FILE} is damaged: its number {job.number} is already used by {before.folder}"
            )
    whole = [job for job in jobs if job.folder not in damage]
    damaged = _make_damaged_jobs(damage, closed, {job.number for job in whole})
    return sorted([*whole, *damaged], key=lambda job: job.number)


def _make_damaged_jobs(damage: dict[Path, str], closed: set[Path], taken: set[int]) -> list[Job]:
    """Return a `Job` for each damaged folder.

    Args:
        damage: the error message of each folder.
        closed: folders that a link leads out of.
        taken: the numbers of the other jobs, which are not used again.
    """
    jobs: list[Job] = []
    for path, fault in damage.items():
        number, numbers = _parse_number(path), taken | {job.number for job in jobs}
        if number is None or number in numbers:
            number = max(numbers, default=-1) + 1
        jobs.append(Job(path, number, "", [], {}, {}, fault, path in closed))
    return jobs


def refuse_strays_outside_jobs(folder: Path) -> None:
    """Refuse a sweep's folder if a link outside its jobs' folders leads out of it; `read_job` checks the jobs' folders.

    Only a folder whose name starts with a number is taken for a job's here: ``figures/`` is checked even if it
    contains a ``job.json``.

    Raises:
        StrayError: naming the first such link.
    """
    strays.refuse_strays(folder, should_skip=lambda path: _parse_number(path) is not None and _is_job(path))


def _is_job(folder: Path) -> bool:
    """Return True if a folder is a job's: it has a ``job.json``, or a job's name and files that a job writes."""
    if (folder / JOB_FILE).exists():
        return True
    return _parse_number(folder) is not None and any((folder / name).exists() for name in RUN_FILES)


def _parse_number(folder: Path) -> int | None:
    """Return the number at the start of a folder's name; ``None`` if there is none."""
    found = re.match(r"(\d{1,9})(_|$)", folder.name, re.ASCII)
    return int(found[1]) if found else None


def read_job(folder: Path) -> Job:
    """Read the job in a folder.

    Raises:
        InputError: if its ``job.json`` is missing or damaged, or a link in the folder leads out of it.
    """
    strays.refuse_job_strays(folder)
    notes = schema.read_checked(folder / JOB_FILE, schema.JOB)
    if notes is None:
        raise DamagedError(f"{folder / JOB_FILE} is missing")
    return Job(folder, *(notes[name] for name in JOB_FIELDS))._replace(settings=update_settings(notes["settings"]))


def describe_job(config: DictConfig) -> dict[str, Any]:
    """Return a job's identity, overrides, choices and settings, from its config as composed by Hydra.

    The config must be Hydra's current one (`HydraConfig`), because references are resolved with that.
    """
    hydra = config.hydra
    settings = flatten_config(config)
    return {
        "identity": compute_identity(settings),
        "overrides": list(hydra.overrides.task),
        "choices": OmegaConf.to_container(hydra.runtime.choices),
        "settings": settings,
    }


def compute_identity(settings: dict[str, Any]) -> str:
    """Return a hash of the settings, without those of paths and devices."""
    return hashlib.sha256(json.dumps(select_identifying(settings), sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]


class JobRegistry:
    """The registry of a sweep's jobs: assigns a number and a folder to each job when it is first requested.

    A job with a damaged ``job.json`` is not found: its folder is left untouched, and the job gets a new one.

    Args:
        folder: the sweep's folder, which the caller must have locked.
        is_preview: new jobs are not recorded: nothing is written, and no lock is needed.
    """

    def __init__(self, folder: Path, is_preview: bool = False) -> None:
        self.folder, self.is_preview = folder, is_preview
        jobs = read_jobs(folder)
        self.by_identity = {job.identity: job for job in jobs if job.damage is None}
        self.next_number = max((job.number for job in jobs), default=-1) + 1

    def get_job(self, config: DictConfig, swept_keys: set[str]) -> Job:
        """Return the job for a config; a new one gets the next number and a folder named after the swept settings."""
        description = describe_job(config)
        known = self.by_identity.get(description["identity"])
        if known is None:
            swept_part = format_swept_name(description["overrides"], swept_keys)
            while not _is_new(folder := self.folder / _make_folder_name(config, self.next_number, swept_part)):
                self.next_number += 1
            known = Job(folder, self.next_number, **description)
            if not self.is_preview:
                record_job(known)
            self.next_number += 1
        # Paths and devices are no part of the identity: use the current ones, not those of an earlier start.
        known = known._replace(settings=description["settings"])
        self.by_identity[description["identity"]] = known
        return known


def _make_folder_name(config: DictConfig, number: int, swept_name_part: str) -> str:
    """Return the name of a job's folder: its number and the swept settings, or as ``hydra.sweep.subdir`` asks."""
    if "${swept:" in read_subdir(config):
        return f"{number}{swept_name_part}"
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = number
    return cut_to_bytes(to_slug(str(config.hydra.sweep.subdir)), MAX_NAME_BYTES)


def _is_new(folder: Path) -> bool:
    """Return True if a folder does not exist, or holds only what an interrupted `record_job` leaves."""
    if not (folder.exists() or folder.is_symlink()):
        return True
    return folder.is_dir() and all(
        path.name == STATUS_FILE or path.name.endswith(PARTIAL_SUFFIX) for path in folder.iterdir()
    )


def create_job(folder: Path, number: int, description: dict[str, Any]) -> Job:
    """Return a new job after recording it."""
    job = Job(folder, number, **description)
    record_job(job)
    return job


def record_job(job: Job) -> None:
    """Write a new job's status (waiting) and ``job.json``."""
    job.write_status("waiting")
    write_job_file(job)  # last: a folder with a job.json is complete


def write_job_file(job: Job) -> None:
    write_json(job.folder / JOB_FILE, {name: getattr(job, name) for name in JOB_FIELDS})


def record_running_job(config: DictConfig) -> None:
    """Write ``job.json`` for the job that Hydra is running, if its launcher (Hydra's basic one) has not written it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not (folder / JOB_FILE).exists():
        write_job_file(Job(folder, config.hydra.job.num, **describe_job(config)))
