"""A run's loggers from its start to its end: made, opened with the run's settings, and closed.

A run that goes on is the same run to each of them: by what they know it stands in ``logger.json`` in its folder.
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
from src.loggers.kinds import Events, Settings, Start, find_kind
from src.storage.files import read_json, write_json

log = logging.getLogger(__name__)
IDS = "logger.json"  # in a run's folder: each logger's name in the config, and by what it knows the run
NAMES_OF_IDS = ("version", "run_id", "experiment_key")  # how loggers call it


def find_start(folder: Path, step: int | None) -> Start:
    """Return how the run in a folder starts.

    Args:
        folder: the run's.
        step: the one that it goes on from; ``None``: a new run, or one that was stopped before there was a checkpoint.
    """
    folder = folder.absolute()
    again = 0 if step is None and (folder / IDS).is_file() else step
    return Start(folder, folder.parent if (folder / "job.json").is_file() else None, again)


def complete(key: str, settings: DictConfig, start: Start) -> Settings:
    """Return a logger's settings, with values for those that are left open.

    Args:
        key: its name in the config.
        settings: as the config has them.
        start: of its run.
    """
    found = get_class(settings._target_)
    filled: Any = OmegaConf.to_container(settings, resolve=True)
    filled |= find_kind(found).fill_in(filled, start)
    name = _name_of_id(found)
    if name and filled.get(name) is None and start.step is not None:
        filled[name] = _read_ids(start.folder).get(key)
    return {**filled, "_target_": f"{Events.__module__}.Events"} if found is TensorBoardLogger else filled


def takes(logger: type, setting: str) -> bool:
    """Return whether a class of loggers has a setting of this name."""
    return setting in signature(logger).parameters


def _name_of_id(logger: type) -> str | None:
    """Return the setting that tells a class of loggers which run goes on; ``None`` if it has none."""
    return next((name for name in NAMES_OF_IDS if takes(logger, name)), None)


def _read_ids(folder: Path) -> dict[str, str | int]:
    """Return by what each logger knows the run in a folder, which may be a stranger's."""
    ids = read_json(folder / IDS) or {}
    for key, value in ids.items():
        if isinstance(value, bool) or not (isinstance(value, int) or _is_word(value)):
            raise InputError(f"{folder / IDS} is damaged: {key} is no name of a run; remove the file to log anew")
    return ids


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z0-9_-]{1,100}", value) is not None


def open_loggers(loggers: Mapping[str, Logger], cfg: DictConfig, start: Start, pictures: bool) -> None:
    """Open a run's loggers and log its settings; of several processes only the first does.

    Args:
        loggers: by their names in the config.
        cfg: the run's.
        start: of the run.
        pictures: whether it draws any; of a logger that takes none it is told.

    Raises:
        InputError: for a logger that cannot be opened.
    """
    if not is_main_process():
        return
    for key, logger in loggers.items():
        kind = find_kind(type(logger))
        try:
            kind.begin(logger, start)
            kind.log_config(logger, cfg)
        except (InputError, StorageError):
            raise
        except Exception as error:  # whatever a service says: no account, no network, another's run
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"logger.{key} cannot be opened: {why}") from error
        if pictures and not kind.takes_figures(logger):
            log.info("logger.%s takes no pictures: they are in figures/", key)
    ids = {key: logger.version for key, logger in loggers.items() if _is_chosen_by_itself(cfg.logger[key], logger)}
    if ids:
        write_json(start.folder / IDS, ids)


def _is_chosen_by_itself(settings: DictConfig, logger: Logger) -> bool:
    """Return whether a logger has chosen by what it knows the run."""
    name = _name_of_id(type(logger))
    return name is not None and settings.get(name) is None


def log_figure(loggers: Sequence[Logger], name: str, pixels: np.ndarray, step: int) -> None:
    """Log a picture, uint8 (H, W, 3), with all loggers that take pictures."""
    for logger in loggers:
        kind = find_kind(type(logger))
        if kind.takes_figures(logger):
            kind.log_figure(logger, name, pixels, step)


@contextmanager
def closing_loggers() -> Iterator[None]:
    """End what is open at Weights & Biases when the run ends: a process may have several runs, one after the other."""
    status = 1
    try:
        yield
        status = 0
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            wandb.finish(exit_code=status)
