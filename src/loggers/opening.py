"""A run's loggers from start to finish: complete their settings, open them and close them.

Each logger continues the same run when a run is resumed: its ID of the run is saved in ``logger.json``.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_class
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from src.core.devices import is_main_process
from src.core.disk import StorageError
from src.core.errors import InputError
from src.loggers.kinds import Events, RunStart, Settings, find_adapter
from src.storage.files import read_json, write_json

log = logging.getLogger(__name__)
IDS_FILE = "logger.json"  # in a run's folder: maps each logger's name in the config to its ID of the run
ID_SETTINGS = ("version", "run_id", "experiment_key")  # what loggers call the ID


def make_run_start(folder: Path, step: int | None) -> RunStart:
    """Return how the run in a folder starts.

    Args:
        folder: the run's.
        step: the step that it resumes from; ``None`` for a new run, or one stopped before its first checkpoint.
    """
    folder = folder.absolute()
    # A run without a checkpoint that has logged before starts over: its log is removed from step 0 on.
    again = 0 if step is None and (folder / IDS_FILE).is_file() else step
    return RunStart(folder, folder.parent if (folder / "job.json").is_file() else None, again)


def resolve_logger_settings(key: str, settings: DictConfig, start: RunStart) -> Settings:
    """Return a logger's settings, with values for those that the config leaves open.

    Args:
        key: the logger's name in the config.
        settings: the logger's, from the config.
        start: of its run.
    """
    found = get_class(settings._target_)
    filled: Any = OmegaConf.to_container(settings, resolve=True)
    filled |= find_adapter(found).get_default_settings(filled, start)
    name = _find_id_setting(found)
    if name and filled.get(name) is None and start.step is not None:
        filled[name] = _read_ids(start.folder).get(key)
    return {**filled, "_target_": f"{Events.__module__}.Events"} if found is TensorBoardLogger else filled


def has_setting(logger: type, setting: str) -> bool:
    """Return True if a class of loggers has a setting of this name."""
    return setting in signature(logger).parameters


def _find_id_setting(logger: type) -> str | None:
    """Return the setting by which a class of loggers resumes a run; ``None`` if it has none."""
    return next((name for name in ID_SETTINGS if has_setting(logger, name)), None)


def _read_ids(folder: Path) -> dict[str, str | int]:
    """Return each logger's ID of the run in a folder.

    Raises:
        InputError: for an ID that no logger would choose; the folder may come from someone else.
    """
    ids = read_json(folder / IDS_FILE) or {}
    for key, value in ids.items():
        if isinstance(value, bool) or not (isinstance(value, int) or _is_valid_id(value)):
            raise InputError(
                f"{folder / IDS_FILE} is damaged: {key} is not the ID of a run; remove the file to log to a new run"
            )
    return ids


def _is_valid_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z0-9_-]{1,100}", value) is not None


def open_loggers(loggers: Mapping[str, Logger], cfg: DictConfig, start: RunStart, has_figures: bool) -> None:
    """Open a run's loggers and log its settings, on rank 0 only.

    Args:
        loggers: by their names in the config.
        cfg: the run's.
        start: of the run.
        has_figures: True if the run draws figures; a logger that cannot receive any is then named in the log.

    Raises:
        InputError: for a logger that cannot be opened.
    """
    if not is_main_process():
        return
    for key, logger in loggers.items():
        kind = find_adapter(type(logger))
        try:
            kind.open_logger(logger, start)
            kind.log_config(logger, cfg)
        except (InputError, StorageError):
            raise
        except Exception as error:  # any error of a service: no account, no network, someone else's run
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"logger.{key} cannot be opened: {why}") from error
        if has_figures and not kind.can_log_figures(logger):
            log.info("logger.%s cannot show figures: they are in figures/", key)
    ids = {key: logger.version for key, logger in loggers.items() if _has_generated_id(cfg.logger[key], logger)}
    if ids:
        write_json(start.folder / IDS_FILE, ids)


def _has_generated_id(settings: DictConfig, logger: Logger) -> bool:
    """Return True if a logger has chosen its ID of the run itself."""
    name = _find_id_setting(type(logger))
    return name is not None and settings.get(name) is None


def log_figure(loggers: Sequence[Logger], name: str, pixels: np.ndarray, step: int) -> None:
    """Log a figure, uint8 (H, W, 3), with all loggers that can receive figures."""
    for logger in loggers:
        kind = find_adapter(type(logger))
        if kind.can_log_figures(logger):
            kind.log_figure(logger, name, pixels, step)


@contextmanager
def close_loggers() -> Iterator[None]:
    """Finish the open Weights & Biases run at the end: a process may train several runs in turn."""
    status = 1
    try:
        yield
        status = 0
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            wandb.finish(exit_code=status)
