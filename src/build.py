"""The parts of a run, made from its config: the machine set up, data, model, callbacks, trainer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from src import devices
from src.checkpoints import AtomicCheckpointIO
from src.cli import in_sweep
from src.data.base import TensorDataModule
from src.errors import InputError
from src.loggers.opening import Start, complete, takes
from src.nodes import meeting_place
from src.validation import check

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def prepare(cfg: DictConfig) -> str:
    """Check the settings and the machine, and set it up; returns the kind of device."""
    check(cfg)
    trainer = cfg.trainer
    kind = devices.resolve(trainer.accelerator)
    processes = devices.check_count(kind, trainer.devices)
    nodes = trainer.get("num_nodes", 1)
    if in_sweep() and (trainer.strategy != "auto" or processes * nodes > 1):
        what = f"strategy={trainer.strategy}" if trainer.strategy != "auto" else f"devices={trainer.devices}"
        raise InputError(
            f"trainer.{what} in a sweep (-m): each of its processes would start the whole sweep "
            "again; sweep with trainer=auto, one device per job, or start such runs one by one without -m"
        )
    size, world = OmegaConf.select(cfg, "data.batch_size"), processes * nodes
    if size is not None and size % world:
        raise InputError(f"data.batch_size={size} does not divide over {world} processes")
    if world > 1 and kind == devices.CPU and trainer.get("sync_batchnorm"):
        raise InputError("trainer.sync_batchnorm=true works on GPUs alone: leave it out, or use no batch norm")
    parts = trainer.get("accumulate_grad_batches", 1)
    if OmegaConf.select(cfg, "model.reduction") == "sum" and parts > 1:
        raise InputError(
            f"model.reduction=sum adds up the samples of one batch: over {parts} accumulated batches it would be the "
            "mean of their sums; use trainer.accumulate_grad_batches=1, or model.reduction=mean"
        )
    sharing = processes if kind == devices.CPU else 1
    devices.prepare(kind, devices.asked_threads(cfg.threads), sharing, cfg.get("deterministic", False))
    return kind


def make(group: str, settings: Any, **given: Any) -> Any:
    """Instantiate a config's part.

    Raises:
        InputError: for a setting that its class does not take, or that is not for a config to give.
    """
    if taken := [key for key in settings if key in given]:
        raise InputError(f"{group}.{taken[0]} is no setting: a run gives it to {settings['_target_']} itself")
    try:
        return instantiate(settings, **given)
    except InstantiationException as error:
        if match := re.search(r"got an unexpected keyword argument '(\w+)'", str(error)):
            raise InputError(f"{group}.{match[1]}: {settings['_target_']} takes no such setting") from error
        if "takes no arguments" in str(error):
            raise InputError(f"{group}: {settings['_target_']} takes no settings") from error
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise InputError(f"{group} needs a package that is not installed: {error.__cause__}") from error
        raise


def build_data(cfg: DictConfig) -> TensorDataModule:
    return make("data", cfg.data)


def build_model(cfg: DictConfig, data: TensorDataModule, kind: str) -> LightningModule:
    """The config's model for the data's shape and task; all its settings are plain values."""
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "optimizer", "scheduler")}
    with devices.within_memory(kind):
        model: LightningModule = make("model", parts["model"], **given(parts, data), _recursive_=False, _convert_="all")
    devices.suit_memory(model, kind)
    return model


def given(parts: Mapping[str, Any], data: TensorDataModule) -> dict[str, Any]:
    """What a model gets beside its own settings."""
    about = {"in_shape": list(data.in_shape), "num_classes": data.num_classes, "task": data.task}
    return {**about, "optimizer": parts["optimizer"], "scheduler": parts["scheduler"]}


def monitored(cfg: DictConfig, data: TensorDataModule) -> tuple[str | None, str]:
    """The metric that chooses the checkpoint and its direction; no metric without a validation set."""
    name, mode = data.monitor
    validates = cfg.data.get("val_size", 1) and cfg.trainer.get("limit_val_batches", 1)
    return (name if validates else None), mode


def build_callbacks(cfg: DictConfig, data: TensorDataModule) -> list[Callback]:
    """The config's callbacks; one whose ``monitor`` is null watches what the task is judged by."""
    callbacks = []
    for key, settings in cfg.callbacks.items():
        if settings is None or (settings._target_.endswith(".LearningRateMonitor") and not any(cfg.logger.values())):
            continue  # with nowhere to log the rates Lightning refuses to start
        if "monitor" in settings and settings.monitor is None:
            name, mode = monitored(cfg, data)
            if name is None:
                raise InputError(f"{settings._target_.split('.')[-1]} needs a validation set: data.val_size is 0")
            settings = OmegaConf.merge(settings, {"monitor": name, "mode": mode})
        callbacks.append(make(f"callbacks.{key}", settings))
    return callbacks


def build_loggers(cfg: DictConfig, start: Start) -> dict[str, Logger]:
    """Make the config's loggers, by their names in it; what they write on this machine lies in the run's folder."""
    loggers = {}
    for key, settings in cfg.logger.items():
        if settings is not None:
            place = {"save_dir": str(start.folder)} if takes(get_class(settings._target_), "save_dir") else {}
            loggers[str(key)] = make(f"logger.{key}", complete(str(key), settings, start), **place, _convert_="all")
    return loggers


def build_trainer(
    cfg: DictConfig, kind: str, folder: Path, callbacks: list[Callback], loggers: Mapping[str, Logger]
) -> Trainer:
    """Lightning's Trainer as the config has it, working in ``folder``.

    Args:
        cfg: the run's config.
        kind: the kind of device, from `prepare`.
        folder: where everything is written.
        callbacks: what to call, in order.
        loggers: from `build_loggers`.
    """
    return plain_trainer(
        cfg,
        kind,
        folder,
        callbacks=callbacks,
        logger=list(loggers.values()),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )


def plain_trainer(cfg: DictConfig, kind: str, folder: Path, **settings: Any) -> Trainer:
    """The config's Trainer with further settings; without any it shows and keeps nothing."""
    quiet = {} if settings else {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    own = {**cfg.trainer, "accelerator": kind}
    if "precision" in own:
        own["precision"] = devices.precision(own["precision"], kind)
    return make(
        "trainer",
        own,
        deterministic=cfg.get("deterministic", False),
        plugins=[AtomicCheckpointIO(), meeting_place(cfg.trainer)],
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module shares the batches out
        enable_model_summary=False,  # told when a run begins
        **quiet,
        **settings,
    )


def check_batches(cfg: DictConfig, model: LightningModule, data: TensorDataModule) -> None:
    """Refuse a training set that gives no batches, or a batch that batch norm cannot take."""
    if data.train_set is None:
        return
    samples, size = data.train_set.size, data.batch_size
    check_limits(cfg.trainer, data)
    if cfg.trainer.limit_train_batches == 0 or (data.drop_last and samples < size):
        raise InputError(
            f"there is no batch to train on: {samples} samples, data.batch_size={size}, "
            f"data.drop_last={data.drop_last}, trainer.limit_train_batches={cfg.trainer.limit_train_batches}"
        )
    if any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        _check_shares(cfg.trainer, samples, data)


def _check_shares(trainer: DictConfig, samples: int, data: TensorDataModule) -> None:
    """Refuse a last batch of which a process gets too few samples for batch norm."""
    processes = devices.check_count(devices.resolve(trainer.accelerator), trainer.devices) * trainer.get("num_nodes", 1)
    together = processes > 1 and trainer.get("sync_batchnorm", False)
    enough = processes if together else 2 * processes
    last = data.batch_size if data.drop_last else samples % data.batch_size or data.batch_size
    if last < enough:
        needed = "two samples" if processes == 1 else f"{enough} samples for {processes} processes"
        raise InputError(
            f"batch norm needs {needed}: of {samples} with data.batch_size={data.batch_size} the last batch has "
            f"{'one' if last == 1 else last}; choose another data.batch_size ({enough} or more), or data.drop_last=true"
        )


def check_limits(trainer: DictConfig, data: TensorDataModule) -> None:
    """Refuse shares of batches that come to none, and more batches than an epoch has."""
    sets = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
    counts = {name: len(data.batches(samples, train=name == "train")) for name, samples in sets.items() if samples}
    for name, batches in counts.items():
        limits = [f"limit_{name}_batches", *["overfit_batches"] * (name != "test")]
        for limit, share in [(limit, trainer.get(limit)) for limit in limits]:
            if isinstance(share, float) and 0 < share * batches < 1:
                raise InputError(f"trainer.{limit}={share}: of {batches} batches ({name}) that is none")
    interval = trainer.get("val_check_interval")
    if isinstance(interval, int) and interval > counts["train"]:
        raise InputError(f"trainer.val_check_interval={interval}: an epoch has {counts['train']} batches")
