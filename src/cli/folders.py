"""The folder of a run: reserved before the run starts, and never another run's."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from src.cli.messages import TRACEBACKS, format_error, is_fixable
from src.cli.presets import get_typed_overrides
from src.cli.undo import find_missing, record_created, remove_created
from src.core.checks import format_value
from src.core.disk import StorageError, to_storage_error
from src.core.errors import InputError
from src.core.extras import check_loggers
from src.core.places import check_locations, make_paths_absolute
from src.core.processes import ProcessInfo, resolve_process
from src.storage.records import find_foreign_file, reserve_folder
from src.storage.status import read_status
from src.storage.strays import refuse_strays

SWEEP_SETTINGS = ("hydra.sweep.", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")


@contextmanager
def exit_on_callback_error() -> Iterator[None]:
    """Exit on an error in a Hydra callback, which Hydra itself would turn into a warning."""
    try:
        yield
    except Exception as error:
        if TRACEBACKS or not is_fixable(error):
            traceback.print_exc()
        remove_created(error)
        sys.exit(f"error: {format_error(error)}")


class ReserveRunFolder(Callback):
    """Hydra callback that makes the folder of a new run and refuses one that belongs to another."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_callback_error():
            self.reserve_run(config)

    def reserve_run(self, config: DictConfig) -> None:
        """Check a run's settings and paths, and make its folder."""
        refuse_foreign_settings(config)
        refuse_typed_settings(config, SWEEP_SETTINGS, "is for sweeps (-m, sweep=), and this is one run")
        here = resolve_process(config.get("trainer") or {})
        if here.is_rank_zero:  # Lightning starts the other ranks and adds its own settings
            check_locations(config)
            check_loggers(config)
        _check_agreement(config, here)
        make_paths_absolute(config)
        refuse_strays(Path(config.hydra.run.dir))  # before anything is written there
        if not here.is_rank_zero:
            _disable_run_files(config)
        elif config.get("resume") is None:
            setting = find_naming_setting(config, "hydra.run.dir")
            make_run_folder(
                Path(config.hydra.run.dir), lambda: reserve_folder(Path(config.hydra.run.dir), config, True), setting
            )


def make_run_folder(folder: Path, write: Callable[[], Any], setting: str) -> None:
    """Make a run's folder; one left behind by a start that was killed immediately is taken over.

    Args:
        folder: the run's.
        write: writes the run's settings there; raises `FileExistsError` if the folder has some.
        setting: the setting that names the folder.

    Raises:
        InputError: if the folder belongs to another run, holds other files, or cannot be made.
    """
    settings, missing = folder / ".hydra" / "config.yaml", find_missing(folder)
    try:
        # `find_foreign_file` ignores what an interrupted start leaves behind, so that its folder can be used again.
        if not os.path.exists(settings) and (foreign := find_foreign_file(folder)):
            raise InputError(f"{folder} already exists and contains {foreign.name}: choose another {setting}=…")
        write()
        record_created(folder, missing)
    except FileExistsError:
        how = f"choose another {setting}=…, or resume it: resume={folder}"
        raise InputError(f"{folder} already exists: {how}") from None
    except (OSError, StorageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        fault = to_storage_error(folder, cause, "created") if isinstance(cause, OSError) else StorageError(str(error))
        how = f"choose another {setting}=…{' or paths.outputs=…' if setting == 'name' else ''}"
        raise InputError(f"{fault}: {fault.remedy}, or {how}") from error


def find_naming_setting(config: DictConfig, folder_setting: str) -> str:
    """Return the setting that names the folder: ``folder_setting`` (``hydra.run.dir``, say) if typed, else "name"."""
    given = {text.partition("=")[0].lstrip("+") for text in get_typed_overrides(config.hydra, "hydra")}
    return folder_setting if folder_setting in given else "name"


def refuse_foreign_settings(config: DictConfig) -> None:
    """Refuse settings that have no effect in a single new run: ``rerun``, ``preview``, ``trust`` without ``resume``."""
    if config.get("rerun") is not None:
        raise InputError(f"rerun={format_value(config.rerun)} is for sweeps (-m, sweep=): a run has its own folder")
    if config.get("preview"):
        how = "--cfg job shows the settings of a run, and debug=one_batch tries it"
        raise InputError(f"preview={format_value(config.preview)} is for sweeps (-m, sweep=): {how}")
    if config.get("trust") is not None and config.get("resume") is None:
        raise InputError(
            f"trust={format_value(config.trust)} is for resume=: classes named on the command line are trusted"
        )


def refuse_typed_settings(config: DictConfig, prefixes: tuple[str, ...], reason: str) -> None:
    """Refuse typed Hydra settings with one of the prefixes, since they would have no effect."""
    for text in get_typed_overrides(config.hydra, "hydra"):
        if text.lstrip("+~").startswith(prefixes):
            raise InputError(f"{text} {reason}")


def _disable_run_files(config: DictConfig) -> None:
    """Keep Hydra and the log of this rank out of the run's folder, which rank 0 alone writes to."""
    with read_write(config), open_dict(config):
        config.hydra.output_subdir = None
    limit_log_handlers(config, "console")


def limit_log_handlers(config: DictConfig, handler: str) -> None:
    """Restrict a job's log to one handler, ``console`` or ``file``, if the log uses that handler."""
    root = config.hydra.job_logging.get("root") or {}
    if handler in (root.get("handlers") or []):
        with read_write(config), open_dict(config):
            config.hydra.job_logging.root.handlers = [handler]


def _check_agreement(config: Mapping[str, Any], process: ProcessInfo) -> None:
    """Require settings on which independently started processes must agree.

    Raises:
        InputError: if a new run has no name or no seed, or its name is taken.
    """
    if not process.is_externally_launched or config.get("resume") is not None:
        return
    for setting, otherwise in (("name", "use its own time stamp"), ("seed", "draw its own")):
        if config.get(setting, 0) is None:
            raise InputError(f"on several nodes a run needs {setting}=…: each of them would {otherwise}")
    folder = config["hydra"]["run"]["dir"]
    before = read_status(Path(folder))["status"]
    if not process.is_rank_zero and before not in ("waiting", "running"):  # rank 0 detects this, too, and exits
        raise InputError(f"{folder} already exists: choose another name=…")
