"""Evaluate a run from its folder."""

import logging
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from lightning import Callback, LightningDataModule
from omegaconf import DictConfig, OmegaConf

from src.callbacks.figures.base import FigureCallback
from src.callbacks.monitor import explain_no_validation, format_metric_name, has_validation
from src.cli.evaluation import refuse_limits
from src.core import devices
from src.core.errors import InputError
from src.core.formatting import format_metrics
from src.core.places import expand_home, resolve_data_dir
from src.data.base import TensorDataModule
from src.storage.configs import open_config
from src.storage.files import write_json
from src.storage.trust import read_packages
from src.storage.weights import load_weights
from src.training.build import build_callbacks, build_data, build_model, build_plain_trainer, prepare_machine
from src.training.checkpointing.checkpoint import find_checkpoint
from src.training.recorder import explain_memory_errors
from src.training.validation.abilities import can_test
from src.training.validation.config import find_wrong_settings
from src.training.validation.limits import limit_samples

log = logging.getLogger(__name__)
# An evaluation takes these trainer settings from the run unless it is given its own.
RUN_TRAINER_SETTINGS = ("precision", "limit_val_batches", "limit_test_batches")


@explain_memory_errors()
def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a run on one split; log the metrics and write them to the run's folder."""
    resolve_data_dir()
    expand_home(cfg)
    kind = prepare_machine(cfg)
    folder = Path(cfg.run)
    given = ["paths.data"] if cfg.paths.data else []
    run = open_config(folder, read_packages(cfg.trust), given)
    run.paths.data = cfg.paths.data or run.paths.data
    if cfg.metrics is not None:
        run.metrics = cfg.metrics
    settings: Any = OmegaConf.to_container(run, resolve=True)
    if wrong := find_wrong_settings(settings):
        raise InputError(f"{folder}: {'; '.join(wrong)}")
    data = build_data(run)
    _check_split(run, data, folder, cfg.split)
    own = {"precision": "32-true", **run.trainer}
    refuse_limits(cfg)
    if overfit := own.get("overfit_batches"):  # it also limits the validation
        own["limit_val_batches"] = overfit
    for name in RUN_TRAINER_SETTINGS:
        if cfg.trainer[name] is None:
            cfg.trainer[name] = own.get(name) or 1.0  # 0 (the run skipped its test): use all batches
    model = build_model(run, data, kind)
    path = find_checkpoint(folder, cfg.checkpoint)
    devices.convert_weights(model, cfg.trainer.precision)
    checkpoint = load_weights(model, path)
    epoch = checkpoint.get("epoch")
    if isinstance(data, TensorDataModule) and isinstance(state := checkpoint.get(type(data).__qualname__), dict):
        data.load_state_dict(state)  # it warns if the samples are others
    figures = _build_figures(cfg, data)
    trainer = build_plain_trainer(cfg, kind, folder, callbacks=figures)
    limit_samples(trainer, data)
    loop = trainer.validate if cfg.split == "val" else trainer.test
    measured = loop(model, datamodule=data, verbose=False)
    metrics = {format_metric_name(name, cfg.split): value for part in measured for name, value in part.items()}
    epoch = epoch + 1 if isinstance(epoch, int) else 0  # a file that holds only weights does not contain the epoch
    if trainer.is_global_zero:
        log.info("%s of %s (epoch %s): %s", path.name, folder, epoch, format_metrics(metrics))
        write_json(folder / f"eval_{cfg.split}.json", {**metrics, "checkpoint": path.name, "epoch": epoch})
        if figures:
            log.info("drawn: %s", folder / "figures")
    return metrics


def _build_figures(cfg: DictConfig, data: LightningDataModule) -> list[Callback]:
    """Return the figures among the callbacks that the evaluation is given.

    Raises:
        InputError: if there are callbacks, and another split than the test set is evaluated.
    """
    if not cfg.get("callbacks"):
        return []
    if cfg.split != "test":
        raise InputError("callbacks=… draws figures of the test set: add split=test")
    figures = {
        key: settings
        for key, settings in cfg.callbacks.items()
        if settings and issubclass(get_class(settings._target_), FigureCallback)
    }
    return build_callbacks(OmegaConf.create({"callbacks": figures}), data)


def _check_split(run: DictConfig, data: LightningDataModule, folder: Path, split: str) -> None:
    """Refuse to evaluate a run on a split that it does not have.

    Raises:
        InputError: naming what is missing.
    """
    if split == "val" and not has_validation(run, data):
        raise InputError(
            f"{folder} was trained without validation ({explain_no_validation(run, data)}): use split=test"
        )
    if split == "test" and not can_test(run, data):
        raise InputError(f"{folder} has no test: its model has no test_step, or its data no test_dataloader")
