"""The command line around Hydra's: how a command starts, and one-line error messages."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from src.cli.messages import TRACEBACKS, format_error, format_hydra_error, is_fixable, is_hydra_error
from src.cli.names import register_resolvers
from src.cli.overrides import prepare_arguments
from src.cli.resumed import expand_resume
from src.cli.startup import exit_quickly, patch_hydra_composition, patch_hydra_speed
from src.cli.undo import keep_created, remove_created
from src.core.disk import suppress_storage_tracebacks
from src.core.errors import BROKEN_PIPE, INTERRUPTED, InputError
from src.core.places import resolve_data_dir
from src.core.processes import detect_process

log = logging.getLogger(__name__)


def start(main: Callable[[], Any]) -> None:
    """Run a Hydra application; an error that the user can fix ends in one line and status 1."""
    keep_created()  # folders of an earlier command in this process are not removed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    register_resolvers()
    patch_hydra_speed()
    patch_hydra_composition()
    with exit_on_error():
        sys.argv[1:] = expand_resume(prepare_arguments(sys.argv[1:]))
        with exit_quickly():
            main()


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit with one line and status 1 on an error that the user can fix."""
    resolve_data_dir()
    try:
        with suppress_storage_tracebacks():
            yield
            sys.stdout.flush()
    except Exception as error:
        remove_created(error)
        fixable = is_fixable(error)
        if TRACEBACKS or not (fixable or is_hydra_error(error)):
            raise
        if isinstance(error, BrokenPipeError):  # the reader of stdout has gone: --help | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)
        sys.exit(f"error: {format_error(error) if fixable else format_hydra_error(error)}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def report_job_error() -> Iterator[None]:
    """Log a job's error: one line if the user can fix it, and always the traceback at debug level.

    A single run then ends with status 1; in a sweep the error is raised again for the launcher.
    """
    try:
        yield
    except Exception as error:
        log.debug("the traceback of the error that stopped the run:", exc_info=True)
        fixable, here = is_fixable(error), detect_process()
        line = f"error: {'' if here.is_rank_zero else f'in {here}: '}{format_error(error)}"
        if fixable or not here.is_rank_zero:  # only the traceback of rank 0 would be visible
            log.error("%s", line)
        if not is_in_sweep():
            remove_created(error)  # after the last line of the log, which is removed too
        if fixable and not is_in_sweep() and not TRACEBACKS:
            raise SystemExit(1 if _is_error_visible() else line) from error
        raise


def _is_error_visible() -> bool:
    """Return True if logged errors reach the terminal, which depends on ``hydra/job_logging``."""
    streams = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    return log.isEnabledFor(logging.ERROR) and any(handler.level <= logging.ERROR for handler in streams)


def get_run_folder() -> Path:
    """Return the folder of the current job.

    Raises:
        InputError: if the callback is missing that reserves the folder for one run.
    """
    hydra = HydraConfig.get()
    if not hydra.callbacks.get("claim_folder"):
        raise InputError("hydra.callbacks.claim_folder is missing: it keeps a run from writing into another's folder")
    return Path(hydra.runtime.output_dir)


def is_in_sweep() -> bool:
    """Return True if the current job is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
