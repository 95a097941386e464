"""Config, folder and log of a run that Python code or a notebook starts, the same as on the command line."""

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from src.cli.folders import make_run_folder, refuse_foreign_settings
from src.cli.messages import format_error, is_fixable
from src.cli.overrides import prepare_arguments
from src.cli.presets import check_presets, find_presets, get_typed_overrides
from src.cli.resumed import CONFIG_NAME, register_resumed
from src.cli.undo import keep_created, remove_created
from src.core.checks import format_value
from src.core.errors import INTERRUPTED, InputError
from src.core.extras import check_loggers
from src.core.places import CONF, expand_home, make_folder_name, resolve_data_dir
from src.core.processes import is_distributed
from src.storage.records import write_config
from src.storage.strays import refuse_strays

LOG_FILE = "train.log"
TIME_FORMAT = "%Y-%m-%d_%H-%M-%S-%f"  # default name of a run
HYDRA_STATE = (GlobalHydra, HydraConfig, VersionBase)  # what Hydra keeps for a whole process
Overrides = str | Sequence[str]


@contextmanager
def compose_in_python(overrides: Overrides, command: str = "train") -> Iterator[DictConfig]:
    """Compose the config that a command line would give, for the work inside the block.

    Hydra's state of the process, another program's perhaps, is put aside meanwhile.

    Args:
        overrides: settings as on the command line: one text as in a shell, or a list of them.
        command: the name of the command's config.

    Yields:
        The config, with Hydra's own part.

    Raises:
        InputError: if a setting is invalid; every error that the user can fix becomes one.
    """
    resolve_data_dir()
    arguments = split_overrides(overrides)
    before = {kind: Singleton._instances.pop(kind, None) for kind in HYDRA_STATE}
    typed, sys.argv = sys.argv, [command, *arguments]  # from which resolvers and messages know what was given
    try:
        resumed = register_resumed(arguments := prepare_arguments(arguments))
        name, settings = (CONFIG_NAME, [f"resume={resumed[0]}", *resumed[1]]) if resumed else (command, arguments)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(name, settings, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        yield config
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            raise KeyboardInterrupt from stop
        raise
    except Exception as error:
        if isinstance(error, InputError) or not is_fixable(error):
            raise
        raise InputError(format_error(error)) from error
    finally:
        sys.argv = typed
        for kind, instance in before.items():
            Singleton._instances.pop(kind, None)
            if instance is not None:
                Singleton._instances[kind] = instance


def split_overrides(overrides: Overrides) -> list[str]:
    """Return settings one by one; a text is split as a shell splits it.

    Raises:
        InputError: if quotes are left open, or there are flags.
    """
    try:
        arguments = shlex.split(overrides) if isinstance(overrides, str) else [str(each) for each in overrides]
    except ValueError as error:
        raise InputError(f"{format_value(overrides)}: a quote is left open") from error
    if flags := [argument for argument in arguments if argument.startswith("-")]:
        how = "sweep(…) starts a sweep" if flags[0] in ("-m", "--multirun") else "it has no effect in Python"
        raise InputError(f"{flags[0]} is a flag of the command line: {how}")
    return arguments


@contextmanager
def open_python_run(cfg: DictConfig, out: Path | None = None) -> Iterator[tuple[DictConfig, Path]]:
    """Make a run's folder under ``paths.outputs``, or open that of a resumed run, and log there and to the screen.

    Args:
        cfg: the run's config.
        out: a new folder instead.

    Yields:
        The config without Hydra's own part, and the folder.

    Raises:
        InputError: if the folder belongs to another run, or several processes would train.
    """
    keep_created()  # the folder of an earlier run is not removed
    resolve_data_dir()
    content: Any = OmegaConf.to_container(cfg)
    content.pop("hydra", None)
    hydra = cfg.get("hydra")
    cfg = OmegaConf.create(content, flags={"struct": True})
    expand_home(cfg)
    refuse_foreign_settings(cfg)
    check_loggers(cfg)
    if hydra is not None:  # without it the presets behind the config are unknown
        check_presets(hydra)
        _refuse_command_settings(hydra)
    if is_distributed(cfg.trainer):
        how = "several processes that train one model are started on the command line: python -m src.train"
        raise InputError(f"trainer.devices={format_value(cfg.trainer.devices)}: {how}")
    folder = out or Path(
        cfg.resume or Path(cfg.paths.outputs, "runs", make_folder_name(cfg.name, f"{datetime.now():{TIME_FORMAT}}"))
    )
    refuse_strays(folder)
    if not cfg.resume:
        make_run_folder(folder, lambda: write_config(folder, content, exclusive=True), "out" if out else "name")
    try:
        with _log_to_folder(folder):
            yield cfg, folder
    except Exception as error:
        remove_created(error)
        raise


def _refuse_command_settings(hydra: DictConfig) -> None:
    """Refuse Hydra settings that take effect only when Hydra starts the command."""
    if hydra.mode == RunMode.MULTIRUN or dict(find_presets(hydra)).get("sweep"):
        how = "start it on the command line, python -m src.train sweep=… or -m …, or with src.api.sweep"
        raise InputError(f"a sweep is several runs: {how}")
    if own := [text for text in get_typed_overrides(hydra, "hydra") if "hydra.searchpath" not in text]:
        raise InputError(f"{own[0]} has no effect in Python; name=… and paths.outputs=… set a run's folder")


@contextmanager
def _log_to_folder(folder: Path) -> Iterator[None]:
    """Write the log to a file in a folder, and to the screen unless logging is already configured."""
    log, file = logging.getLogger("src"), logging.FileHandler(folder / LOG_FILE)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    screen = logging.StreamHandler(sys.stdout)
    screen.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [file] if logging.getLogger().handlers else [file, screen]
    before = log.level
    log.setLevel(logging.DEBUG)
    try:
        for handler in handlers:
            log.addHandler(handler)
        yield
    finally:
        log.setLevel(before)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
