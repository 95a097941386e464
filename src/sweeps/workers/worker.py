"""What runs in a job's own process: it takes its share of the machine, then does as a run of its own would.

The process is forked from one that has imported all of this already (see `HEAVY`), or spawned
where there is no fork. Its output goes to the job's log, and it ends when its parent does.
"""

import atexit
import faulthandler
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from src.cli import main as cli
from src.cli.messages import input_error, one_line
from src.core.disk import StorageError, describe_fault, faults_told_once, find_fault
from src.core.places import settle_paths
from src.storage.files import pin_folders, remove, write_json
from src.storage.records import claim, read_status
from src.sweeps.store.jobs import STACK

HEAVY = (
    "src.training.run",
    "src.data.toy",
    "src.data.images",
    "src.models.mlp",
    "src.models.cnn",
    "src.callbacks.figures.confusion_matrix",
    "src.callbacks.figures.curves",
    "src.callbacks.figures.decision_regions",
    "src.callbacks.figures.misclassified",
    "src.callbacks.progress",
    "src.callbacks.figures.samples",
    "lightning.pytorch.loggers",
    "torch.utils.tensorboard",
    "torch._dynamo",  # imported by the first optimiser
)

NO_STORAGE = os.EX_IOERR  # exit status of a process that cannot write why its jobs failed


class Task(Protocol):
    """What a worker's process does.

    Attributes:
        environment: the process's environment.
        command: the command that started the sweep, for the records.
    """

    @property
    def environment(self) -> dict[str, str]: ...

    @property
    def command(self) -> list[str]: ...

    @property
    def log(self) -> Path:
        """Where what the process prints goes."""

    def do(self) -> bool:
        """Do it; returns whether it went well."""

    def refuse(self, error: Exception) -> None:
        """Note why it cannot be done.

        Raises:
            StorageError: if the disk cannot be written.
        """


class Order(NamedTuple):
    """A job to be done, by itself.

    Attributes:
        config: the job's config as Hydra composed it, pickled.
        folder: the job's folder.
        task: the name of the function in the main module that does a job.
        environment: the process's environment.
        command: the command that started the sweep, for the records.
    """

    config: bytes
    folder: Path
    task: str
    environment: dict[str, str]
    command: list[str]

    @property
    def log(self) -> Path:
        return self.folder / f"{pickle.loads(self.config).hydra.job.name}.log"

    def do(self) -> bool:
        """Do the job; how it went is in its folder."""
        remove(self.folder / STACK)  # from here on it goes its own way
        try:
            with pin_folders(self.folder):
                return run(pickle.loads(self.config), self)
        except Exception as error:  # before the job itself could take note of it
            with suppress(OSError):  # the log, on a full disk
                traceback.print_exc()
            self.refuse(error)
            return False

    def refuse(self, error: Exception) -> None:
        note_failure(self.folder, error)


def work(task: Task) -> None:
    """Do what there is to do; the process ends with 0 if it did well, with `NO_STORAGE` if it cannot write how."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks its workers to stop
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(task.environment)
    sys.orig_argv[:] = task.command
    with faults_told_once():
        try:
            write_to(task.log)
            sys.exit(0 if task.do() else 1)
        except Exception as error:
            if not find_fault(error):
                raise
            with suppress(StorageError):
                task.refuse(error)
            sys.exit(NO_STORAGE)


def note_failure(folder: Path, error: Exception, reason: str = "error") -> None:
    """Write why a job failed, unless that is known already or its folder is lost.

    Args:
        folder: the job's.
        error: what stopped it.
        reason: the same in a word; a full disk has its own.

    Raises:
        StorageError: if the disk cannot be written.
    """
    if not folder.is_dir() or read_status(folder)["status"] == "failed":
        return
    told = input_error(error)
    reason = told.reason if isinstance(told, StorageError) else reason
    write_json(folder / "status.json", {"status": "failed", "reason": reason, "message": one_line(error)})


def run(config: DictConfig, order: Order) -> bool:
    """Run the job as Hydra's own launcher does; returns whether it did well."""
    setup_globals()
    cli.register_resolvers()
    JobRuntime.instance().set("name", config.hydra.job.name)
    task = getattr(sys.modules["__main__"], order.task)
    context = HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]  # composed it is
    settle_paths(config)
    claim(order.folder, config)
    cli.log_to(config, "file")  # what the process prints goes there, too
    done = run_job(
        hydra_context=context,
        task_function=getattr(task, "__wrapped__", task),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if done.status == JobStatus.FAILED:
        note_failure(order.folder, done._return_value)
    return done.status == JobStatus.COMPLETED


def write_to(path: Path) -> None:
    """Send all that this process prints to the end of a file, a crash's traceback too.

    Raises:
        StorageError: if the file cannot be opened, or is a link.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
    except OSError as error:
        raise describe_fault(path, error, "opened") from error
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable()


def end_with_the_parent() -> None:
    """Wait until the process that started this one is gone, then end at once.

    What the epochs so far have left is whole; a sweep that goes on must not find the job still running.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def prepare() -> None:
    """Import what jobs need, once for all of them."""
    gc.disable()  # a quarter of the imports' time: all that they make is there to stay
    for name in HEAVY:
        with suppress(Exception):  # a job that needs it tells what is wrong with it
            importlib.import_module(name)
    draw_something()
    gc.freeze()  # collections leave these objects alone, so that processes go on sharing their memory
    gc.enable()
    atexit.register(os._exit, 0)  # this process has nothing to clean up, and to do so takes it a second


def draw_something() -> None:
    """A first picture: to find the fonts, and to learn to read formulas, takes half as long as a picture."""
    with suppress(Exception):
        from src.callbacks.figures.base import drawn

        drawn((1.0, 1.0), lambda figure: figure.text(0, 0, "$x_1$"))
