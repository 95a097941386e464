"""The command line around Hydra's: run and sweep folders, resuming, and one-line error messages."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.cli.composition import patch_hydra_composition
from src.cli.help import describe_settings
from src.cli.messages import format_error, format_hydra_error, is_fixable, is_hydra_error
from src.cli.overrides import prepare_arguments
from src.cli.presets import check_choices, find_presets, get_typed_overrides
from src.cli.resumed import expand_resume
from src.cli.startup import exit_quickly, patch_hydra_speed
from src.cli.undo import find_missing, keep_created, record_created, remove_created
from src.core.checks import format_value
from src.core.commands import format_command, format_tensorboard_command
from src.core.disk import StorageError, suppress_storage_tracebacks, to_storage_error
from src.core.errors import InputError
from src.core.extras import check_loggers
from src.core.places import (
    check_job_folders,
    check_locations,
    check_sweep_folder,
    cut_to_bytes,
    make_folder_name,
    make_paths_absolute,
    resolve_data_dir,
    to_slug,
)
from src.core.processes import check_agreement, detect_process, resolve_process
from src.storage.records import find_foreign_file, reserve_folder
from src.storage.strays import refuse_strays

log = logging.getLogger(__name__)
PLUGINS = Path(__file__).parent.parent / "plugins"
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0") and "LOCAL_RANK" not in os.environ
SWEEP_SETTINGS = ("hydra.sweep.", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
RESUMING_LAUNCHERS = ("hydra_plugins.thunderhead.",)  # these can resume an existing sweep
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # exit statuses of Ctrl-C, SIGPIPE and SIGTERM: 128 + signal

if str(PLUGINS) not in sys.path:
    sys.path.append(str(PLUGINS))  # Hydra searches sys.path for hydra_plugins packages


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
        log.debug("the traceback of what stopped the run:", exc_info=True)
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


# Folders


def register_resolvers() -> None:
    """Register the resolvers that conf/ uses: names of runs and of a sweep's jobs, and the text of ``--help``."""
    OmegaConf.register_new_resolver("name_or", make_folder_name, replace=True)
    OmegaConf.register_new_resolver(
        "swept", lambda overrides, preset=None: format_swept_name(overrides, get_swept_keys(preset)), replace=True
    )
    OmegaConf.register_new_resolver("describe_settings", describe_settings, replace=True)
    OmegaConf.register_new_resolver("command", format_command, replace=True)
    OmegaConf.register_new_resolver("tensorboard", format_tensorboard_command, replace=True)


def get_swept_keys(preset: Mapping[str, Any] | None = None) -> set[str]:
    """Return the settings swept over by the command line and by a preset (``hydra.sweeper.params``)."""
    given = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    given += [f"{key}={value}" for key, value in (preset or {}).items()]
    parsed = OverridesParser.create().parse_overrides(given)
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


def format_swept_name(overrides: list[str], keys: set[str]) -> str:
    """Return ``_key-value`` for each of a job's overrides whose key is swept over, as one text."""
    pairs = [override.split("=", 1) for override in overrides]
    swept = [(key.lstrip("+").split(".")[-1], value) for key, value in pairs if key in keys]
    return cut_to_bytes("".join(f"_{to_slug(name)}-{to_slug(value)}" for name, value in swept), 150)


@contextmanager
def _exit_on_callback_error() -> Iterator[None]:
    """Exit on an error in a Hydra callback, which Hydra itself would turn into a warning."""
    try:
        yield
    except Exception as error:
        if TRACEBACKS or not is_fixable(error):
            traceback.print_exc()
        remove_created(error)
        sys.exit(f"error: {format_error(error)}")


class ReserveFolder(Callback):
    """Hydra callback that makes the folder of a new run or sweep and refuses one that belongs to another."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exit_on_callback_error():
            self.reserve_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exit_on_callback_error():
            self.reserve_sweep(config)

    def reserve_run(self, config: DictConfig) -> None:
        """Check a run's settings and paths, and make its folder."""
        refuse_foreign_settings(config)
        _refuse_typed_settings(config, SWEEP_SETTINGS, "is for sweeps (-m, sweep=), and this is one run")
        here = resolve_process(config.get("trainer") or {})
        if here.is_rank_zero:  # Lightning starts the other ranks and adds its own settings
            check_locations(config)
            check_loggers(config)
        check_agreement(config, here)
        make_paths_absolute(config)
        refuse_strays(Path(config.hydra.run.dir))  # before anything is written there
        if not here.is_rank_zero:
            _disable_run_files(config)
        elif config.get("resume") is None:
            setting = _find_naming_setting(config, "hydra.run.dir")
            make_run_folder(
                Path(config.hydra.run.dir), lambda: reserve_folder(Path(config.hydra.run.dir), config, True), setting
            )

    def reserve_sweep(self, config: DictConfig) -> None:
        """Check a sweep's settings and paths, and make its folder; an existing sweep is resumed."""
        if "sweep" in get_swept_keys() or [group for group, _ in find_presets(config.hydra)].count("sweep") > 1:
            raise InputError("sweep=… is one preset: give it one value")
        if "name" in get_swept_keys(config.hydra.sweeper.get("params")):
            raise InputError("name=… names the sweep: give it one value")
        check_sweep_folder(config, get_swept_keys(config.hydra.sweeper.get("params")))
        _refuse_typed_settings(
            config, ("hydra.run.",), "is for a run: a sweep's folder is name=…, or hydra.sweep.dir=…"
        )
        check_locations(config)
        if config.hydra.launcher._target_.startswith(RESUMING_LAUNCHERS):
            check_job_folders(config)
        check_choices(config.hydra)
        check_loggers(config)
        folder = Path(config.hydra.sweep.dir)
        refuse_strays(folder)  # before Hydra writes its multirun.yaml there
        if not (is_sweep_folder(folder) and config.hydra.launcher._target_.startswith(RESUMING_LAUNCHERS)):
            _make_sweep_folder(folder, _find_naming_setting(config, "hydra.sweep.dir"))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            from src.sweeps.store.jobs import record_running_job

            record_running_job(config)


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
            raise InputError(f"{folder} is there already, with {foreign.name} in it: choose another {setting}=…")
        write()
        record_created(folder, missing)
    except FileExistsError:
        how = f"choose another {setting}=…, or go on with it: resume={folder}"
        raise InputError(f"{folder} is there already: {how}") from None
    except (OSError, StorageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        fault = to_storage_error(folder, cause, "made") if isinstance(cause, OSError) else StorageError(str(error))
        how = f"choose another {setting}=…{' or paths.outputs=…' if setting == 'name' else ''}"
        raise InputError(f"{fault}: {fault.remedy}, or {how}") from error


def _make_sweep_folder(folder: Path, setting: str) -> None:
    """Make a sweep's folder, which must not exist yet.

    Raises:
        InputError: if it exists or cannot be made.
    """
    missing = find_missing(folder)
    try:
        folder.mkdir(parents=True)
        record_created(folder, missing)
    except FileExistsError:
        raise InputError(f"{folder} is there already: choose another {setting}=…") from None
    except OSError as error:
        fault = to_storage_error(folder, error, "made")
        how = f"choose another {'paths.outputs' if setting == 'name' else setting}=…"
        raise InputError(f"{fault}: {fault.remedy}, or {how}") from error


def _find_naming_setting(config: DictConfig, folder_setting: str) -> str:
    """Return the setting that names the folder: ``folder_setting`` (``hydra.run.dir``, say) if typed, else "name"."""
    given = {text.partition("=")[0].lstrip("+") for text in get_typed_overrides(config.hydra, "hydra")}
    return folder_setting if folder_setting in given else "name"


def is_sweep_folder(folder: Path) -> bool:
    """Return True if a folder is a sweep's, even if the sweep was stopped when only its lock existed."""
    if (folder / "multirun.yaml").is_file() or any(folder.glob("*/job.json")):
        return True
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def refuse_foreign_settings(config: DictConfig) -> None:
    """Refuse settings that have no effect in a single new run: ``rerun``, and ``trust`` without ``resume``."""
    if config.get("rerun") is not None:
        raise InputError(
            f"rerun={format_value(config.rerun)} is for sweeps (-m, sweep=): a run has a folder of its own"
        )
    if config.get("trust") is not None and config.get("resume") is None:
        raise InputError(f"trust={format_value(config.trust)} is for resume=: classes that are typed are trusted")


def _refuse_typed_settings(config: DictConfig, prefixes: tuple[str, ...], reason: str) -> None:
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
