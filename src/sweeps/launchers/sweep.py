"""A sweep: the jobs that Hydra asks for, planned over what its folder has already."""

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
    """Jobs that Hydra asks for, and what becomes of them.

    Args:
        config: the sweep's config.
        context: what composes the jobs' configs, and Hydra's callbacks.
        task: the name of the function in the main module that does a job.

    Raises:
        InputError: if ``rerun`` is none of its values.
    """

    def __init__(self, config: DictConfig, context: HydraContext, task: str) -> None:
        if config.rerun not in RERUNS:
            raise InputError(f"rerun={config.rerun}: it is failed or all (or left out)")
        self.config, self.context, self.task = config, context, task
        self.folder = Path(config.hydra.sweep.dir)
        self.place: tuple[int, int] | None = None
        self.configs: dict[int, bytes] = {}  # by job: pickled, as they take a tenth of the memory so

    def jobs(self, asked: list[list[str]]) -> list[Job]:
        """The jobs that are asked for, each with its number and folder; equal ones are one."""
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
        with read_write(self.config), open_dict(self.config):  # what was typed may be opened again to be drawn
            self.config.trust = sorted({*read_packages(self.config.trust), *loader.packages}) or None
        HydraConfig.instance().set_config(self.config)
        return found

    def order(self, job: Job, share: Share) -> Order:
        """What to tell the process that does a job."""
        environment = {name: value for name, value in os.environ.items() if name != LOOK_ONLY} | share
        return Order(self.configs[job.number], job.folder, self.task, environment, sys.orig_argv)

    def command(self) -> str:
        """The command that goes on with this sweep."""
        given = [each for each in sys.orig_argv[1:] if not each.startswith(("rerun=", "hydra.sweep.dir="))]
        named = [] if self.config.name is not None else [f"name={self.folder.name}"]
        if any(each.startswith("hydra.sweep.dir=") for each in sys.orig_argv):
            named = [f"hydra.sweep.dir={self.folder}"]
        return spell_again([*given, *named])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for this process.

        Raises:
            InputError: if another has it.
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
        """Whether the folder has been removed or renamed since it is held."""
        return place_of(self.folder) != self.place

    def check(self) -> None:
        """Raise an error if the folder is gone.

        Raises:
            InputError: if it is.
        """
        if self.is_gone:
            how = "if it was renamed, give the same command its new name="
            raise InputError(f"{self.folder} is gone: it was removed or renamed while the sweep ran; {how}")


def place_of(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from others of its name, of earlier or later ones too; ``None`` if it is not there."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def left_to_do(jobs: list[Job], rerun: str | None) -> list[Job]:
    """The jobs that are not finished; what is to be run again from its beginning is cleared."""
    for job in jobs:
        if rerun == "all" or (rerun == "failed" and job.status["status"] == "failed"):
            with suppress(OSError):  # its folder is gone, which is told when it is to begin
                job.clear()
    return [job for job in jobs if job.status["status"] != "finished"]
