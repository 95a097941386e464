"""The worker process of a job: it sets its environment, then runs the job like a single run.

The process is forked from one that has already imported everything (see `HEAVY`), or spawned where forks are not
supported. Its output goes to the job's log, and it ends when its parent does.
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
    "torch._dynamo",  # the first optimizer imports it
)

NO_STORAGE = os.EX_IOERR  # exit code of a process that cannot write why its jobs failed


class Task(Protocol):
    """A spec: what a worker needs to run its jobs.

    Attributes:
        environment: the process's environment variables.
        command: the command that started the sweep, to be recorded with the run.
    """

    @property
    def environment(self) -> dict[str, str]: ...

    @property
    def command(self) -> list[str]: ...

    @property
    def log(self) -> Path:
        """The file for the process's output."""

    def do(self) -> bool:
        """Run the jobs; return True on success."""

    def refuse(self, error: Exception) -> None:
        """Record in the jobs' status why they cannot run.

        Raises:
            StorageError: if the disk cannot be written.
        """


class Order(NamedTuple):
    """The spec of a single job.

    Attributes:
        config: the job's config as composed by Hydra, pickled.
        folder: the job's folder.
        task: the name of the function in the main module that runs a job.
        environment: the process's environment variables.
        command: the command that started the sweep, to be recorded with the run.
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
        """Run the job; its status is in its folder."""
        remove(self.folder / STACK)  # it is no longer part of a stack
        try:
            with pin_folders(self.folder):
                return run(pickle.loads(self.config), self)
        except Exception as error:  # raised before the job could record it itself
            with suppress(OSError):  # the disk with the log may be full
                traceback.print_exc()
            self.refuse(error)
            return False

    def refuse(self, error: Exception) -> None:
        note_failure(self.folder, error)


def work(task: Task) -> None:
    """Run a spec's jobs and exit: 0 on success, 1 on failure, `NO_STORAGE` if the status cannot be written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which stops its workers
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
    """Write to a job's status why it failed, unless the status already says so or the folder is gone.

    Args:
        folder: the job's folder.
        error: the error that stopped the job.
        reason: the failure's category; that of a `StorageError` takes precedence.

    Raises:
        StorageError: if the disk cannot be written.
    """
    if not folder.is_dir() or read_status(folder)["status"] == "failed":
        return
    cause = input_error(error)
    reason = cause.reason if isinstance(cause, StorageError) else reason
    write_json(folder / "status.json", {"status": "failed", "reason": reason, "message": one_line(error)})


def run(config: DictConfig, order: Order) -> bool:
    """Run a job as Hydra's basic launcher does; return True on success."""
    setup_globals()
    cli.register_resolvers()
    JobRuntime.instance().set("name", config.hydra.job.name)
    task = getattr(sys.modules["__main__"], order.task)
    # The config is composed already: no loader is needed.
    context = HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]
    settle_paths(config)
    claim(order.folder, config)
    cli.log_to(config, "file")  # not to the terminal: `work` redirects the process's output to the log already
    result = run_job(
        hydra_context=context,
        task_function=getattr(task, "__wrapped__", task),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if result.status == JobStatus.FAILED:
        note_failure(order.folder, result._return_value)
    return result.status == JobStatus.COMPLETED


def write_to(path: Path) -> None:
    """Append all output of this process to a file, including the traceback of a crash.

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
    """Wait until the parent process has ended, then kill this process.

    Earlier checkpoints remain valid; a sweep that is resumed must not find the job still running.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def prepare() -> None:
    """Import the modules that jobs need, once for all workers."""
    gc.disable()  # saves a quarter of the imports' time: modules are never garbage
    for name in HEAVY:
        with suppress(Exception):  # a job that needs the module will report the error
            importlib.import_module(name)
    draw_something()
    gc.freeze()  # the collector skips these objects, so that forked processes keep sharing their memory
    gc.enable()
    atexit.register(os._exit, 0)  # skip interpreter teardown: nothing to clean up, and it takes a second


def draw_something() -> None:
    """Draw a first figure, so that Matplotlib finds its fonts and builds its formula parser before the fork.

    Both take half as long as drawing a figure.
    """
    with suppress(Exception):
        from src.callbacks.figures.base import drawn

        drawn((1.0, 1.0), lambda figure: figure.text(0, 0, "$x_1$"))
