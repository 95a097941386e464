"""Folder and log of a run that Python code or a notebook starts, the same as on the command line."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.cli.folders import make_run_folder, refuse_foreign_settings
from src.cli.presets import check_presets, find_presets, get_typed_overrides
from src.cli.undo import keep_created, remove_created
from src.core.checks import format_value
from src.core.errors import InputError
from src.core.extras import check_loggers
from src.core.places import expand_home, make_folder_name, resolve_data_dir
from src.core.processes import is_distributed
from src.storage.records import write_config
from src.storage.strays import refuse_strays

LOG_FILE = "train.log"
TIME_FORMAT = "%Y-%m-%d_%H-%M-%S-%f"  # default name of a run


@contextmanager
def open_python_run(cfg: DictConfig) -> Iterator[tuple[DictConfig, Path]]:
    """Make a run's folder under ``paths.outputs``, or open that of a resumed run, and log there and to the screen.

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
    folder = Path(
        cfg.resume or Path(cfg.paths.outputs, "runs", make_folder_name(cfg.name, f"{datetime.now():{TIME_FORMAT}}"))
    )
    refuse_strays(folder)
    if not cfg.resume:
        make_run_folder(folder, lambda: write_config(folder, content, exclusive=True), "name")
    try:
        with _log_to_folder(folder):
            yield cfg, folder
    except Exception as error:
        remove_created(error)
        raise


def _refuse_command_settings(hydra: DictConfig) -> None:
    """Refuse Hydra settings that take effect only when Hydra starts the command."""
    if hydra.mode == RunMode.MULTIRUN or dict(find_presets(hydra)).get("sweep"):
        raise InputError("a sweep is several runs: start it on the command line, python -m src.train sweep=… or -m …")
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
