"""What each kind of logger takes in its own way: a run's settings, its pictures, and its name where a run goes on."""

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

from src.core.extras import need
from src.loggers.table import Table
from src.storage.configs import flat
from src.storage.files import remove

PROJECT = "thunderhead"  # what MLflow has runs under that are no sweep's
LONGEST = 250  # characters of a setting in MLflow; Lightning cuts them there
Settings = dict[str, Any]


class Start(NamedTuple):
    """A start of a run.

    Attributes:
        folder: the run's.
        sweep: its sweep's folder, if it is a job of one.
        step: what was logged from this step on is taken back, where that can be; ``None``: the run is new.
    """

    folder: Path
    sweep: Path | None
    step: int | None


class Kind:
    """A logger of which nothing is known but that it is one of Lightning's."""

    def fill_in(self, settings: Mapping[str, Any], start: Start) -> Settings:
        """Return values for settings that are left open."""
        return {}

    def begin(self, logger: Any, start: Start) -> None:
        """Open a logger, so that what hinders it is told before training; one of one's own may have nothing to open."""
        if hasattr(type(logger), "experiment"):
            _ = logger.experiment

    def log_config(self, logger: Any, cfg: DictConfig) -> None:
        """Log a run's settings."""
        logger.log_hyperparams(as_plain(cfg))

    def takes_figures(self, logger: Any) -> bool:
        return callable(getattr(logger, "log_image", None))

    def log_figure(self, logger: Any, name: str, pixels: np.ndarray, step: int) -> None:
        """Log a picture, uint8 (H, W, 3)."""
        logger.log_image(key=name, images=[pixels], step=step)


def as_plain(cfg: DictConfig) -> Settings:
    """Return a run's settings as plain values, nested as they are typed, without Hydra's own."""
    own: Any = [key for key in cfg if key != "hydra"]
    plain: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, own), resolve=True)
    return plain


class _TensorBoard(Kind):
    """Its HParams are for sweeps, see `src.sweeps.store.hparams`; a run's settings lie in a file beside the events."""

    def fill_in(self, settings: Mapping[str, Any], start: Start) -> Settings:
        return {} if start.step is None else {"purge_step": start.step}

    def begin(self, logger: TensorBoardLogger, start: Start) -> None:
        """Refuse settings that its writer would refuse; its file is made when there is something to log."""
        from torch.utils.tensorboard import SummaryWriter  # which takes a while

        if unknown := sorted(set(logger._kwargs) - set(signature(SummaryWriter).parameters)):
            raise TypeError(f"it takes no setting called {', '.join(unknown)}")

    def log_config(self, logger: TensorBoardLogger, cfg: DictConfig) -> None:
        remove(Path(logger.log_dir) / logger.NAME_HPARAMS_FILE)  # of an earlier start: it would stay
        logger.hparams.update(as_plain(cfg))

    def takes_figures(self, logger: TensorBoardLogger) -> bool:
        return True

    def log_figure(self, logger: TensorBoardLogger, name: str, pixels: np.ndarray, step: int) -> None:
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")


class Events(TensorBoardLogger):
    """Lightning's TensorBoardLogger without charts that nobody looks at first.

    TensorBoard sorts its charts by name. The epoch, which Lightning logs with each metric, would be the first.
    """

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics({name_chart(name): value for name, value in metrics.items() if name != "epoch"}, step)


def name_chart(metric: str) -> str:
    """Return the name of a metric's chart: its own, but ``train/lr-Adam`` for a learning rate, ``lr-Adam``."""
    return f"train/{metric}" if metric.startswith("lr-") else metric


class _Csv(Kind):
    def begin(self, logger: CSVLogger, start: Start) -> None:
        logger._experiment = Table(logger.log_dir, start.step)


class _Wandb(Kind):
    """Weights & Biases. What was logged cannot be taken back: a point that is logged again stands there twice."""

    def fill_in(self, settings: Mapping[str, Any], start: Start) -> Settings:
        need("wandb", "wandb", "a WandbLogger")
        return _open_ones(settings, {"name": start.folder.name, "group": start.sweep and start.sweep.name})

    def begin(self, logger: WandbLogger, start: Start) -> None:
        super().begin(logger, start)
        for link in start.folder.glob("wandb/*/logs/*.log"):
            if link.is_symlink():  # it leads out of the folder, and nothing in a run's folder may
                remove(link)


class _MLFlow(Kind):
    """MLflow. What was logged cannot be taken back; a setting that changes becomes a tag beside the first value."""

    def fill_in(self, settings: Mapping[str, Any], start: Start) -> Settings:
        need("mlflow", "mlflow", "an MLFlowLogger")
        from mlflow import MlflowClient

        store = start.sweep or start.folder
        uri = settings.get("tracking_uri") or environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store}/mlflow.db"
        place = _find_store(uri) if uri.startswith("sqlite:") else None  # else the store knows where pictures lie
        known = {
            "tracking_uri": uri,
            "experiment_name": start.sweep.name if start.sweep else PROJECT,
            "run_name": start.folder.name,
            "artifact_location": place and (place / "mlruns").as_uri(),
        }
        environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they tell of each table that they make
        with _alone_at(uri):
            MlflowClient(uri)  # makes the tables of a new store
        return _open_ones(settings, known)

    def begin(self, logger: MLFlowLogger, start: Start) -> None:
        with _alone_at(str(logger._tracking_uri)):
            client = logger.experiment  # makes a new experiment
        client.update_run(logger.run_id, status="RUNNING")  # a run that goes on may have been over

    def log_config(self, logger: MLFlowLogger, cfg: DictConfig) -> None:
        known = logger.experiment.get_run(logger.run_id).data.params
        settings = {key: str(value)[:LONGEST] for key, value in flat(cfg).items()}
        logger.log_hyperparams({key: value for key, value in settings.items() if key not in known})
        for key in [key for key, value in settings.items() if known.get(key, value) != value]:
            logger.experiment.set_tag(logger.run_id, key, settings[key])

    def takes_figures(self, logger: MLFlowLogger) -> bool:
        return True

    def log_figure(self, logger: MLFlowLogger, name: str, pixels: np.ndarray, step: int) -> None:
        logger.experiment.log_image(logger.run_id, pixels, key=name, step=step)


@contextmanager
def _alone_at(uri: str) -> Iterator[None]:
    """Have other processes wait that use the same store on this machine: of a sweep's jobs one makes it."""
    if place := _find_store(uri):
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".mlflow.lock"):
            yield
    else:
        yield


def _find_store(uri: str) -> Path | None:
    """Return the folder of an MLflow store that is on this machine; ``None`` for another."""
    if match := re.fullmatch(r"sqlite:///(.+)/[^/]+|file:(?://)?(.+)", uri):
        return Path(match[1] or match[2]).absolute()
    return Path.cwd() if re.fullmatch("sqlite:///[^/]+", uri) else None


def _open_ones(settings: Mapping[str, Any], known: Settings) -> Settings:
    """Return those of the known values whose settings are left open."""
    return {key: value for key, value in known.items() if value is not None and settings.get(key) is None}


KINDS: dict[type[Logger], Kind] = {
    TensorBoardLogger: _TensorBoard(),
    CSVLogger: _Csv(),
    WandbLogger: _Wandb(),
    MLFlowLogger: _MLFlow(),
}


def find_kind(logger: type) -> Kind:
    """Return how a class of loggers is used."""
    return next((kind for each, kind in KINDS.items() if issubclass(logger, each)), Kind())
