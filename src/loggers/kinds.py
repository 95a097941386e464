"""Adapters for Lightning's loggers: how each receives a run's settings and figures, and resumes a run."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from src.core.extras import require_package
from src.loggers.table import Table
from src.storage.configs import flatten_config
from src.storage.files import remove_file

DEFAULT_EXPERIMENT = "thunderhead"  # the MLflow experiment of runs that belong to no sweep
MAX_VALUE_LENGTH = 250  # characters of a setting's value in MLflow; Lightning cuts it there
Settings = dict[str, Any]


class RunStart(NamedTuple):
    """A start of a run, new or resumed.

    Attributes:
        folder: the run's.
        sweep: the folder of its sweep, if it is a job of one.
        step: the step that it resumes from: what was logged from there on is removed, if the logger can do that;
            ``None`` for a new run.
    """

    folder: Path
    sweep: Path | None
    step: int | None


class LoggerAdapter:
    """Adapter for any Lightning logger; subclasses handle the loggers with a special interface."""

    def get_default_settings(self, settings: Mapping[str, Any], start: RunStart) -> Settings:
        """Return values for settings that the config leaves open."""
        return {}

    def open_logger(self, logger: Any, start: RunStart) -> None:
        """Open a logger, so that its errors are raised before training; a custom logger may have nothing to open."""
        if hasattr(type(logger), "experiment"):
            _ = logger.experiment

    def log_config(self, logger: Any, cfg: DictConfig) -> None:
        """Log a run's settings."""
        logger.log_hyperparams(_convert_to_plain(cfg))

    def can_log_figures(self, logger: Any) -> bool:
        return callable(getattr(logger, "log_image", None))

    def log_figure(self, logger: Any, name: str, pixels: np.ndarray, step: int) -> None:
        """Log a figure given as pixels, uint8 (H, W, 3)."""
        logger.log_image(key=name, images=[pixels], step=step)


def _convert_to_plain(cfg: DictConfig) -> Settings:
    """Return a run's settings as nested dictionaries of plain values, without Hydra's own."""
    own: Any = [key for key in cfg if key != "hydra"]
    plain: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, own), resolve=True)
    return plain


class _TensorBoardAdapter(LoggerAdapter):
    """Adapter for TensorBoard; `src.sweeps.store.hparams` writes HParams for sweeps, a run's settings go to a file."""

    def get_default_settings(self, settings: Mapping[str, Any], start: RunStart) -> Settings:
        return {} if start.step is None else {"purge_step": start.step}

    def open_logger(self, logger: TensorBoardLogger, start: RunStart) -> None:
        """Refuse settings that the writer would refuse; its file is made at the first logged value."""
        from torch.utils.tensorboard import SummaryWriter  # slow import

        if unknown := sorted(set(logger._kwargs) - set(signature(SummaryWriter).parameters)):
            raise TypeError(f"it has no setting called {', '.join(unknown)}")

    def log_config(self, logger: TensorBoardLogger, cfg: DictConfig) -> None:
        remove_file(Path(logger.log_dir) / logger.NAME_HPARAMS_FILE)  # of an earlier start; Lightning would keep it
        logger.hparams.update(_convert_to_plain(cfg))

    def can_log_figures(self, logger: TensorBoardLogger) -> bool:
        return True

    def log_figure(self, logger: TensorBoardLogger, name: str, pixels: np.ndarray, step: int) -> None:
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")


class Events(TensorBoardLogger):
    """Lightning's TensorBoardLogger without the chart of the epoch.

    TensorBoard sorts its charts by name, and the epoch, which Lightning logs with each metric, would come first.
    """

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics({get_chart_name(name): value for name, value in metrics.items() if name != "epoch"}, step)


def get_chart_name(metric: str) -> str:
    """Return the name of a metric's chart: the metric's own, but ``train/lr-Adam`` for learning rate ``lr-Adam``."""
    return f"train/{metric}" if metric.startswith("lr-") else metric


class _CsvAdapter(LoggerAdapter):
    """Adapter for the CSVLogger, whose file is opened by `Table`."""

    def open_logger(self, logger: CSVLogger, start: RunStart) -> None:
        logger._experiment = Table(logger.log_dir, start.step)


class _WandbAdapter(LoggerAdapter):
    """Adapter for Weights & Biases, where nothing can be removed: a point that is logged again appears twice."""

    def get_default_settings(self, settings: Mapping[str, Any], start: RunStart) -> Settings:
        require_package("wandb", "wandb", "a WandbLogger")
        return _filter_open_settings(settings, {"name": start.folder.name, "group": start.sweep and start.sweep.name})

    def open_logger(self, logger: WandbLogger, start: RunStart) -> None:
        super().open_logger(logger, start)
        for link in start.folder.glob("wandb/*/logs/*.log"):
            if link.is_symlink():  # it leads out of the run's folder, which no link may do
                remove_file(link)


class _MLFlowAdapter(LoggerAdapter):
    """Adapter for MLflow, where nothing can be removed: a changed setting becomes a tag, next to the first value."""

    def get_default_settings(self, settings: Mapping[str, Any], start: RunStart) -> Settings:
        require_package("mlflow", "mlflow", "an MLFlowLogger")
        from mlflow import MlflowClient

        store = start.sweep or start.folder
        uri = settings.get("tracking_uri") or environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store}/mlflow.db"
        # Other stores choose the directory of their figures themselves.
        directory = _find_store(uri) if uri.startswith("sqlite:") else None
        known = {
            "tracking_uri": uri,
            "experiment_name": start.sweep.name if start.sweep else DEFAULT_EXPERIMENT,
            "run_name": start.folder.name,
            "artifact_location": directory and (directory / "mlruns").as_uri(),
        }
        environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they log each table that they create
        with _lock_store(uri):
            MlflowClient(uri)  # creates the tables of a new store
        return _filter_open_settings(settings, known)

    def open_logger(self, logger: MLFlowLogger, start: RunStart) -> None:
        with _lock_store(str(logger._tracking_uri)):
            client = logger.experiment  # creates a new experiment
        client.update_run(logger.run_id, status="RUNNING")  # a resumed run may be marked as finished

    def log_config(self, logger: MLFlowLogger, cfg: DictConfig) -> None:
        known = logger.experiment.get_run(logger.run_id).data.params
        settings = {key: str(value)[:MAX_VALUE_LENGTH] for key, value in flatten_config(cfg).items()}
        logger.log_hyperparams({key: value for key, value in settings.items() if key not in known})
        for key in [key for key, value in settings.items() if known.get(key, value) != value]:
            logger.experiment.set_tag(logger.run_id, key, settings[key])

    def can_log_figures(self, logger: MLFlowLogger) -> bool:
        return True

    def log_figure(self, logger: MLFlowLogger, name: str, pixels: np.ndarray, step: int) -> None:
        logger.experiment.log_image(logger.run_id, pixels, key=name, step=step)


@contextmanager
def _lock_store(uri: str) -> Iterator[None]:
    """Lock an MLflow store on this machine, so that only one of a sweep's jobs creates it."""
    if directory := _find_store(uri):
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".mlflow.lock"):
            yield
    else:
        yield


def _find_store(uri: str) -> Path | None:
    """Return the folder of an MLflow store on this machine; ``None`` for a remote store."""
    if match := re.fullmatch(r"sqlite:///(.+)/[^/]+|file:(?://)?(.+)", uri):
        return Path(match[1] or match[2]).absolute()
    return Path.cwd() if re.fullmatch("sqlite:///[^/]+", uri) else None


def _filter_open_settings(settings: Mapping[str, Any], known: Settings) -> Settings:
    """Return the known values of those settings that the config leaves open."""
    return {key: value for key, value in known.items() if value is not None and settings.get(key) is None}


ADAPTERS: dict[type[Logger], LoggerAdapter] = {
    TensorBoardLogger: _TensorBoardAdapter(),
    CSVLogger: _CsvAdapter(),
    WandbLogger: _WandbAdapter(),
    MLFlowLogger: _MLFlowAdapter(),
}


def find_adapter(logger: type) -> LoggerAdapter:
    """Return the adapter for a class of loggers."""
    return next((kind for known, kind in ADAPTERS.items() if issubclass(logger, known)), LoggerAdapter())
