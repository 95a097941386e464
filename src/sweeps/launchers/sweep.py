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

from src.cli.main import swept_keys
from src.core.commands import spell_again
from src.core.errors import InputError
from src.storage.files import make_folder, pin_folders, sync_together
from src.storage.trust import read_packages
from src.sweeps.launchers.compose import RememberingLoader
from src.sweeps.store.jobs import LOCK, Job, Register
from src.sweeps.workers.pool import LOOK_ONLY
from src.sweeps.workers.resources import Share
from src.sweeps.workers.worker import Order

RERUNS = (None, "failed", "all")


class Sweep:
    """A sweep: its config, folder and jobs.

    Args:
        config: the sweep's config.
        context: Hydra's context: the config loader and the callbacks.
        task: the name of the function in the main module that runs a job.

    Raises:
        InputError: if ``rerun`` is invalid.
    """

    def __init__(self, config: DictConfig, context: HydraContext, task: str) -> None:
        if config.rerun not in RERUNS:
            raise InputError(f"rerun={config.rerun}: it is failed or all (or left out)")
        self.config, self.context, self.task = config, context, task
        self.folder = Path(config.hydra.sweep.dir)
        self.place: tuple[int, int] | None = None
        self.configs: dict[int, bytes] = {}  # by job number; pickled, which takes a tenth of the memory

    def jobs(self, asked: list[list[str]]) -> list[Job]:
        """Return the job for each list of overrides, with its number and folder; equal settings give the same job."""
        keys = swept_keys(self.config.hydra.sweeper.get("params"))
        register, loader, found = Register(self.folder), cast(RememberingLoader, self.context.config_loader), []
        with sync_together():
            for overrides in asked:
                config = loader.compose(self.config, overrides)
                HydraConfig.instance().cfg = config  # type: ignore[assignment]  # `set_config` would copy it
                job = register.job(config, keys)
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

    def order(self, job: Job, share: Share) -> Order:
        """Make the spec of a job for its worker process.

        Args:
            job: the job.
            share: the worker's resources, as environment variables.
        """
        environment = {name: value for name, value in os.environ.items() if name != LOOK_ONLY} | share
        return Order(self.configs[job.number], job.folder, self.task, environment, sys.orig_argv)

    def command(self) -> str:
        """Return the command that resumes this sweep."""
        arguments = [word for word in sys.orig_argv[1:] if not word.startswith(("rerun=", "hydra.sweep.dir="))]
        name = [] if self.config.name is not None else [f"name={self.folder.name}"]
        if any(word.startswith("hydra.sweep.dir=") for word in sys.orig_argv):
            name = [f"hydra.sweep.dir={self.folder}"]
        return spell_again([*arguments, *name])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the sweep's folder for this process.

        Raises:
            InputError: if another process holds the lock, or the lock file cannot be opened.
        """
        lock = FileLock(self.folder / LOCK, timeout=0)
        try:
            make_folder(self.folder)
            lock.acquire()
        except Timeout:
            how = "wait for it or choose another name="
            raise InputError(f"{self.folder}: another process is at this sweep; {how}") from None
        except OSError as error:
            raise InputError(f"{self.folder / LOCK} cannot be locked ({error.strerror})") from error
        self.place = place_of(self.folder)
        try:
            with pin_folders(self.folder):
                yield
        finally:
            lock.release()

    @property
    def is_gone(self) -> bool:
        """Return True if the folder has been removed or renamed since it was locked."""
        return place_of(self.folder) != self.place

    def check(self) -> None:
        """Check that the folder still exists.

        Raises:
            InputError: if it was removed or renamed.
        """
        if self.is_gone:
            how = "if it was renamed, give the same command its new name="
            raise InputError(f"{self.folder} is gone: it was removed or renamed while the sweep ran; {how}")


def place_of(folder: Path) -> tuple[int, int] | None:
    """Return a folder's device and inode, which identify it whatever its name; ``None`` if it does not exist."""
    try:
        info = folder.stat()
    except OSError:
        return None
    return (info.st_dev, info.st_ino)


def left_to_do(jobs: list[Job], rerun: str | None) -> list[Job]:
    """Return the jobs that are not finished, after resetting those that `rerun` selects.

    Args:
        jobs: the sweep's jobs.
        rerun: "failed" or "all": the jobs to run again from the beginning; ``None``: none.
    """
    for job in jobs:
        if rerun == "all" or (rerun == "failed" and job.status["status"] == "failed"):
            with suppress(OSError):  # the folder is gone: that is reported when the job is to start
                job.clear()
    return [job for job in jobs if job.status["status"] != "finished"]
