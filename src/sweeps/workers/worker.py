"""The worker process of a job: it sets its environment, then runs the job like a single run.

The process is forked from one that has already imported everything (see `PRELOADED_MODULES`), or spawned where forks
are not supported. Its output goes to the job's log, and it ends when its parent does.
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

from src.cli.folders import limit_log_handlers
from src.cli.names import register_resolvers
from src.core.disk import StorageError, find_storage_error, suppress_storage_tracebacks, to_storage_error
from src.core.extras import skip_signal_processing
from src.core.places import make_paths_absolute
from src.storage.files import remove_file, require_folders
from src.storage.records import reserve_folder
from src.sweeps.store.jobs import STACK_FILE
from src.training.failures import record_failure

PRELOADED_MODULES = (
    "src.training.run",
    "src.data.toy",
    "src.data.images",
    "src.models.mlp",
    "src.models.cnn",
    "src.callbacks.figures.per_class",
    "src.callbacks.figures.learning_curves",
    "src.callbacks.figures.decision_regions",
    "src.callbacks.figures.predictions",
    "src.callbacks.progress",
    "src.callbacks.figures.training_images",
    "lightning.pytorch.loggers",
    "torch.utils.tensorboard",
    "torch._dynamo",  # the first optimizer imports it
)

EXIT_NO_STORAGE = os.EX_IOERR  # exit code of a process that cannot write why its jobs failed


class Spec(Protocol):
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

    def run(self) -> bool:
        """Run the jobs; return True on success."""

    def refuse(self, error: Exception) -> None:
        """Record in the jobs' status why they cannot run.

        Raises:
            StorageError: if the disk cannot be written.
        """


class JobSpec(NamedTuple):
    """The spec of a single job.

    Attributes:
        config: the job's config as composed by Hydra, pickled.
        folder: the job's folder.
        task_name: the name of the function in the main module that runs a job.
        environment: the process's environment variables.
        command: the command that started the sweep, to be recorded with the run.
    """

    config: bytes
    folder: Path
    task_name: str
    environment: dict[str, str]
    command: list[str]

    @property
    def log(self) -> Path:
        return self.folder / f"{pickle.loads(self.config).hydra.job.name}.log"

    def run(self) -> bool:
        """Run the job; its status is in its folder."""
        remove_file(self.folder / STACK_FILE)  # it is no longer part of a stack
        try:
            with require_folders(self.folder):
                return _run_with_hydra(pickle.loads(self.config), self)
        except Exception as error:  # raised before the job could record it itself
            with suppress(OSError):  # the disk with the log may be full
                traceback.print_exc()
            self.refuse(error)
            return False

    def refuse(self, error: Exception) -> None:
        record_failure(self.folder, error)


def run_worker(spec: Spec) -> None:
    """Run a spec's jobs and exit: 0 on success, 1 on failure, `EXIT_NO_STORAGE` if the status cannot be written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which stops its workers
    threading.Thread(target=die_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(spec.environment)
    sys.orig_argv[:] = spec.command
    with suppress_storage_tracebacks():
        try:
            redirect_output(spec.log)
            sys.exit(0 if spec.run() else 1)
        except Exception as error:
            if not find_storage_error(error):
                raise
            with suppress(StorageError):
                spec.refuse(error)
            sys.exit(EXIT_NO_STORAGE)


def _run_with_hydra(config: DictConfig, spec: JobSpec) -> bool:
    """Run a job as Hydra's basic launcher does; return True on success."""
    setup_globals()
    register_resolvers()
    JobRuntime.instance().set("name", config.hydra.job.name)
    task = getattr(sys.modules["__main__"], spec.task_name)
    # The config is composed already: no loader is needed.
    context = HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]
    make_paths_absolute(config)
    reserve_folder(spec.folder, config)
    limit_log_handlers(
        config, "file"
    )  # not to the terminal: `run_worker` redirects the process's output to the log already
    result = run_job(
        hydra_context=context,
        task_function=getattr(task, "__wrapped__", task),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if result.status == JobStatus.FAILED:
        record_failure(spec.folder, result._return_value)
    return result.status == JobStatus.COMPLETED


def redirect_output(path: Path) -> None:
    """Append all output of this process to a file, including the traceback of a crash.

    Raises:
        StorageError: if the file cannot be opened, or is a link.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
    except OSError as error:
        raise to_storage_error(path, error, "opened") from error
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable()


def die_with_parent() -> None:
    """Wait until the parent process has ended, then kill this process.

    Earlier checkpoints remain valid; a sweep that is resumed must not find the job still running.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def import_heavy_modules() -> None:
    """Import the modules that jobs need, once for all workers."""
    gc.disable()  # saves a quarter of the imports' time: modules are never garbage
    for name in PRELOADED_MODULES:
        with suppress(Exception), skip_signal_processing():  # a job that needs the module will report the error
            importlib.import_module(name)
    _warm_matplotlib()
    gc.freeze()  # the collector skips these objects, so that forked processes keep sharing their memory
    gc.enable()
    atexit.register(os._exit, 0)  # skip interpreter teardown: nothing to clean up, and it takes a second


def _warm_matplotlib() -> None:
    """Draw a first figure, so that Matplotlib finds its fonts and builds its formula parser before the fork.

    Both take half as long as drawing a figure.
    """
    with suppress(Exception):
        from src.callbacks.figures.base import draw_figure

        draw_figure((1.0, 1.0), lambda figure: figure.text(0, 0, "$x_1$"))
