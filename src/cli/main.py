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

from src.cli.composition import fit_hydra_for_sweeps
from src.cli.help import describe_settings
from src.cli.messages import can_be_mended, comes_from_hydra, one_line, one_line_of_hydra
from src.cli.overrides import prepare
from src.cli.presets import check_choices, chosen, typed
from src.cli.resumed import resumed_arguments
from src.cli.startup import ending_at_once, hurry_hydra
from src.cli.undo import keep_made, list_missing, note_made, take_back
from src.core.checks import show
from src.core.commands import spell_command, spell_tensorboard
from src.core.disk import StorageError, describe_fault, faults_told_once
from src.core.errors import InputError
from src.core.extras import check_loggers
from src.core.places import (
    check_job_folders,
    check_places,
    check_sweep_folder,
    run_name,
    settle_data_dir,
    settle_paths,
    shorten,
    slug,
)
from src.core.processes import agree, place, place_in
from src.storage.records import claim, find_foreign
from src.storage.strays import refuse_strays

log = logging.getLogger(__name__)
PLUGINS = Path(__file__).parent.parent / "plugins"
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0") and "LOCAL_RANK" not in os.environ
OF_SWEEPS = ("hydra.sweep.", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
OWN_LAUNCHERS = ("hydra_plugins.thunderhead.",)  # these can resume an existing sweep
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143  # exit statuses of Ctrl-C, SIGPIPE and SIGTERM: 128 + signal

if str(PLUGINS) not in sys.path:
    sys.path.append(str(PLUGINS))  # Hydra searches sys.path for hydra_plugins packages


def start(main: Callable[[], Any]) -> None:
    """Run a Hydra application; an error that the user can fix ends in one line and status 1."""
    keep_made()  # folders of an earlier command in this process are not removed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    register_resolvers()
    hurry_hydra()
    fit_hydra_for_sweeps()
    with told_in_the_end():
        sys.argv[1:] = resumed_arguments(prepare(sys.argv[1:]))
        with ending_at_once():
            main()


@contextmanager
def told_in_the_end() -> Iterator[None]:
    """Exit with one line and status 1 on an error that the user can fix."""
    settle_data_dir()
    try:
        with faults_told_once():
            yield
            sys.stdout.flush()
    except Exception as error:
        take_back(error)
        fixable = can_be_mended(error)
        if TRACEBACKS or not (fixable or comes_from_hydra(error)):
            raise
        if isinstance(error, BrokenPipeError):  # the reader of stdout has gone: --help | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(UNREAD)
        sys.exit(f"error: {one_line(error) if fixable else one_line_of_hydra(error)}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Log a job's error: one line if the user can fix it, and always the traceback at debug level.

    A single run then ends with status 1; in a sweep the error is raised again for the launcher.
    """
    try:
        yield
    except Exception as error:
        log.debug("the traceback of what stopped the run:", exc_info=True)
        fixable, here = can_be_mended(error), place()
        line = f"error: {'' if here.first else f'in {here}: '}{one_line(error)}"
        if fixable or not here.first:  # only the traceback of rank 0 would be visible
            log.error("%s", line)
        if not in_sweep():
            take_back(error)  # after the last line of the log, which is removed too
        if fixable and not in_sweep() and not TRACEBACKS:
            raise SystemExit(1 if seen() else line) from error
        raise


def seen() -> bool:
    """Return True if logged errors reach the terminal, which depends on ``hydra/job_logging``."""
    streams = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    return log.isEnabledFor(logging.ERROR) and any(handler.level <= logging.ERROR for handler in streams)


def run_folder() -> Path:
    """Return the folder of the current job.

    Raises:
        InputError: if the callback is missing that reserves the folder for one run.
    """
    hydra = HydraConfig.get()
    if not hydra.callbacks.get("claim_folder"):
        raise InputError("hydra.callbacks.claim_folder is missing: it keeps a run from writing into another's folder")
    return Path(hydra.runtime.output_dir)


def in_sweep() -> bool:
    """Return True if the current job is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


# Folders


def register_resolvers() -> None:
    """Register the resolvers that conf/ uses: names of runs and of a sweep's jobs, and the text of ``--help``."""
    OmegaConf.register_new_resolver("name_or", run_name, replace=True)
    OmegaConf.register_new_resolver(
        "swept", lambda overrides, preset=None: swept_name(overrides, swept_keys(preset)), replace=True
    )
    OmegaConf.register_new_resolver("describe_settings", describe_settings, replace=True)
    OmegaConf.register_new_resolver("command", spell_command, replace=True)
    OmegaConf.register_new_resolver("tensorboard", spell_tensorboard, replace=True)


def swept_keys(preset: Mapping[str, Any] | None = None) -> set[str]:
    """Return the settings swept over by the command line and by a preset (``hydra.sweeper.params``)."""
    given = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    given += [f"{key}={value}" for key, value in (preset or {}).items()]
    parsed = OverridesParser.create().parse_overrides(given)
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


def swept_name(overrides: list[str], keys: set[str]) -> str:
    """Return ``_key-value`` for each of a job's overrides whose key is swept over, as one text."""
    pairs = [override.split("=", 1) for override in overrides]
    swept = [(key.lstrip("+").split(".")[-1], value) for key, value in pairs if key in keys]
    return shorten("".join(f"_{slug(name)}-{slug(value)}" for name, value in swept), 150)


@contextmanager
def exiting() -> Iterator[None]:
    """Exit on an error in a Hydra callback, which Hydra itself would turn into a warning."""
    try:
        yield
    except Exception as error:
        if TRACEBACKS or not can_be_mended(error):
            traceback.print_exc()
        take_back(error)
        sys.exit(f"error: {one_line(error)}")


class ClaimFolder(Callback):
    """Hydra callback that makes the folder of a new run or sweep and refuses one that belongs to another."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exiting():
            self.claim_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exiting():
            self.claim_sweep(config)

    def claim_run(self, config: DictConfig) -> None:
        """Check a run's settings and paths, and make its folder."""
        refuse_others(config)
        refuse_typed(config, OF_SWEEPS, "is for sweeps (-m, sweep=), and this is one run")
        here = place_in(config.get("trainer") or {})
        if here.first:  # Lightning starts the other ranks and adds its own settings
            check_places(config)
            check_loggers(config)
        agree(config, here)
        settle_paths(config)
        refuse_strays(Path(config.hydra.run.dir))  # before anything is written there
        if not here.first:
            only_listen(config)
        elif config.get("resume") is None:
            setting = naming_setting(config, "hydra.run.dir")
            make_run(Path(config.hydra.run.dir), lambda: claim(Path(config.hydra.run.dir), config, True), setting)

    def claim_sweep(self, config: DictConfig) -> None:
        """Check a sweep's settings and paths, and make its folder; an existing sweep is resumed."""
        if "sweep" in swept_keys() or [group for group, _ in chosen(config.hydra)].count("sweep") > 1:
            raise InputError("sweep=… is one preset: give it one value")
        if "name" in swept_keys(config.hydra.sweeper.get("params")):
            raise InputError("name=… names the sweep: give it one value")
        check_sweep_folder(config, swept_keys(config.hydra.sweeper.get("params")))
        refuse_typed(config, ("hydra.run.",), "is for a run: a sweep's folder is name=…, or hydra.sweep.dir=…")
        check_places(config)
        if config.hydra.launcher._target_.startswith(OWN_LAUNCHERS):
            check_job_folders(config)
        check_choices(config.hydra)
        check_loggers(config)
        folder = Path(config.hydra.sweep.dir)
        refuse_strays(folder)  # before Hydra writes its multirun.yaml there
        if not (is_sweep(folder) and config.hydra.launcher._target_.startswith(OWN_LAUNCHERS)):
            make_sweep(folder, naming_setting(config, "hydra.sweep.dir"))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            from src.sweeps.store.jobs import note_running

            note_running(config)


def make_run(folder: Path, write: Callable[[], Any], setting: str) -> None:
    """Make a run's folder; one left behind by a start that was killed immediately is taken over.

    Args:
        folder: the run's.
        write: writes the run's settings there; raises `FileExistsError` if the folder has some.
        setting: the setting that names the folder.

    Raises:
        InputError: if the folder belongs to another run, holds other files, or cannot be made.
    """
    settings, missing = folder / ".hydra" / "config.yaml", list_missing(folder)
    try:
        # `find_foreign` ignores what an interrupted start leaves behind, so that its folder can be used again.
        if not os.path.exists(settings) and (foreign := find_foreign(folder)):
            raise InputError(f"{folder} is there already, with {foreign.name} in it: choose another {setting}=…")
        write()
        note_made(folder, missing)
    except FileExistsError:
        how = f"choose another {setting}=…, or go on with it: resume={folder}"
        raise InputError(f"{folder} is there already: {how}") from None
    except (OSError, StorageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        fault = describe_fault(folder, cause, "made") if isinstance(cause, OSError) else StorageError(str(error))
        how = f"choose another {setting}=…{' or paths.outputs=…' if setting == 'name' else ''}"
        raise InputError(f"{fault}: {fault.remedy}, or {how}") from error


def make_sweep(folder: Path, setting: str) -> None:
    """Make a sweep's folder, which must not exist yet.

    Raises:
        InputError: if it exists or cannot be made.
    """
    missing = list_missing(folder)
    try:
        folder.mkdir(parents=True)
        note_made(folder, missing)
    except FileExistsError:
        raise InputError(f"{folder} is there already: choose another {setting}=…") from None
    except OSError as error:
        fault = describe_fault(folder, error, "made")
        how = f"choose another {'paths.outputs' if setting == 'name' else setting}=…"
        raise InputError(f"{fault}: {fault.remedy}, or {how}") from error


def naming_setting(config: DictConfig, own: str) -> str:
    """Return the setting that names the folder: ``own`` (such as ``hydra.run.dir``) if it was typed, else "name"."""
    given = {text.partition("=")[0].lstrip("+") for text in typed(config.hydra, "hydra")}
    return own if own in given else "name"


def is_sweep(folder: Path) -> bool:
    """Return True if a folder is a sweep's, even if the sweep was stopped when only its lock existed."""
    if (folder / "multirun.yaml").is_file() or any(folder.glob("*/job.json")):
        return True
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def refuse_others(config: DictConfig) -> None:
    """Refuse settings that have no effect in a single new run: ``rerun``, and ``trust`` without ``resume``."""
    if config.get("rerun") is not None:
        raise InputError(f"rerun={show(config.rerun)} is for sweeps (-m, sweep=): a run has a folder of its own")
    if config.get("trust") is not None and config.get("resume") is None:
        raise InputError(f"trust={show(config.trust)} is for resume=: classes that are typed are trusted")


def refuse_typed(config: DictConfig, beginnings: tuple[str, ...], why: str) -> None:
    """Refuse typed Hydra settings with one of the prefixes, since they would have no effect."""
    for text in typed(config.hydra, "hydra"):
        if text.lstrip("+~").startswith(beginnings):
            raise InputError(f"{text} {why}")


def only_listen(config: DictConfig) -> None:
    """Keep Hydra and the log of this rank out of the run's folder, which rank 0 alone writes to."""
    with read_write(config), open_dict(config):
        config.hydra.output_subdir = None
    log_to(config, "console")


def log_to(config: DictConfig, handler: str) -> None:
    """Restrict a job's log to one handler, ``console`` or ``file``, if the log uses that handler."""
    root = config.hydra.job_logging.get("root") or {}
    if handler in (root.get("handlers") or []):
        with read_write(config), open_dict(config):
            config.hydra.job_logging.root.handlers = [handler]
