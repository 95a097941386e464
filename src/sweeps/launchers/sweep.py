"""A sweep: the jobs that Hydra requests, matched with those that its folder already contains."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from src.cli.names import get_swept_keys
from src.core.commands import format_restart_command
from src.core.errors import InputError
from src.core.processes import EPOCH_LIMIT_VARIABLE
from src.storage.files import make_folder, require_folders, sync_together
from src.storage.trust import read_packages
from src.sweeps.launchers.compose import CachingConfigLoader
from src.sweeps.store.jobs import LOCK_FILE, Job, JobRegistry
from src.sweeps.workers.pool import NVML_CUDA_CHECK
from src.sweeps.workers.resources import Resources
from src.sweeps.workers.worker import JobSpec

RERUNS = (None, "failed", "all")


class Sweep:
    """A sweep: its config, folder and jobs.

    Args:
        config: the sweep's config.
        context: Hydra's context: the config loader and the callbacks.
        task_name: the name of the function in the main module that runs a job.

    Raises:
        InputError: if ``rerun`` is invalid.
    """

    def __init__(self, config: DictConfig, context: HydraContext, task_name: str) -> None:
        if config.rerun not in RERUNS:
            raise InputError(f"rerun={config.rerun}: it must be failed or all, or left out")
        self.config, self.context, self.task_name = config, context, task_name
        self.is_preview = bool(config.get("preview"))  # nothing is run or written
        self.folder = Path(config.hydra.sweep.dir)
        self.folder_id: tuple[int, int] | None = None
        self.configs: dict[int, bytes] = {}  # by job number; pickled, which takes a tenth of the memory
        self.epoch_limit: int | None = None  # the epoch after which jobs that are started now pause

    def plan_jobs(self, job_overrides: list[list[str]]) -> list[Job]:
        """Return the job for each list of overrides, with its number and folder; equal settings give the same job."""
        keys = get_swept_keys(self.config.hydra.sweeper.get("params"))
        loader, found = cast(CachingConfigLoader, self.context.config_loader), []
        register = JobRegistry(self.folder, self.is_preview)
        with sync_together():
            for overrides in job_overrides:
                config = loader.compose(self.config, overrides)
                HydraConfig.instance().cfg = config  # type: ignore[assignment]  # `set_config` would copy it
                job = register.get_job(config, keys)
                with read_write(config.hydra), open_dict(config):
                    config.hydra.job.id = config.hydra.job.num = job.number
                    config.hydra.sweep.subdir = job.folder.name
                self.configs[job.number] = pickle.dumps(config)
                found.append(job)
        # Record the packages that the jobs' classes come from: they are needed again when figures are redrawn.
        with read_write(self.config), open_dict(self.config):
            self.config.trust = sorted({*read_packages(self.config.trust), *loader.packages}) or None
        HydraConfig.instance().set_config(self.config)
        return found

    @property
    def limits(self) -> Resources:
        """The environment variables that limit how far a job runs; they are no part of its settings."""
        return {} if self.epoch_limit is None else {EPOCH_LIMIT_VARIABLE: str(self.epoch_limit)}

    def make_spec(self, job: Job, resources: Resources) -> JobSpec:
        """Make the spec of a job for its worker process.

        Args:
            job: the job.
            resources: the worker's resources, as environment variables.
        """
        environment = {name: value for name, value in os.environ.items() if name != NVML_CUDA_CHECK}
        environment |= resources | self.limits
        return JobSpec(self.configs[job.number], job.folder, self.task_name, environment, sys.orig_argv)

    def get_resume_command(self) -> str:
        """Return the command that resumes this sweep."""
        arguments = [word for word in sys.orig_argv[1:] if not word.startswith(("rerun=", "hydra.sweep.dir="))]
        name = [] if self.config.name is not None else [f"name={self.folder.name}"]
        if any(word.startswith("hydra.sweep.dir=") for word in sys.orig_argv):
            name = [f"hydra.sweep.dir={self.folder}"]
        return format_restart_command([*arguments, *name])

    @contextmanager
    def lock_folder(self) -> Iterator[None]:
        """Lock the sweep's folder for this process.

        Raises:
            InputError: if another process holds the lock, or the lock file cannot be opened.
        """
        lock = FileLock(self.folder / LOCK_FILE, timeout=0)
        try:
            make_folder(self.folder)
            lock.acquire()
        except Timeout:
            how = "wait for it or choose another name="
            raise InputError(f"{self.folder}: another process is running this sweep; {how}") from None
        except OSError as error:
            raise InputError(f"{self.folder / LOCK_FILE} cannot be locked ({error.strerror})") from error
        self.folder_id = _get_folder_id(self.folder)
        try:
            with require_folders(self.folder):
                yield
        finally:
            lock.release()

    @property
    def is_gone(self) -> bool:
        """Return True if the folder has been removed or renamed since it was locked."""
        return _get_folder_id(self.folder) != self.folder_id

    def check_folder(self) -> None:
        """Check that the folder still exists.

        Raises:
            InputError: if it was removed or renamed.
        """
        if self.is_gone:
            how = "if it was renamed, give the same command its new name="
            raise InputError(f"{self.folder} is gone: it was removed or renamed while the sweep ran; {how}")


def _get_folder_id(folder: Path) -> tuple[int, int] | None:
    """Return a folder's device and inode, which identify it whatever its name; ``None`` if it does not exist."""
    try:
        info = folder.stat()
    except OSError:
        return None
    return (info.st_dev, info.st_ino)


def select_pending_jobs(jobs: list[Job], rerun: str | None) -> list[Job]:
    """Return the jobs that are not finished, after resetting those that `rerun` selects.

    Args:
        jobs: the sweep's jobs.
        rerun: "failed" or "all": the jobs to run again from the beginning; ``None``: none.
    """
    for job in jobs:
        if rerun == "all" or (rerun == "failed" and job.status["status"] == "failed"):
            with suppress(OSError):  # the folder is gone: that is reported when the job is to start
                job.reset()
    return [job for job in jobs if job.status["status"] != "finished"]
