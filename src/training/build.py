"""Build a run's objects from its config: prepared device, data module, model, callbacks, loggers and trainer."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from src.callbacks.figures.base import FigureCallback
from src.callbacks.monitor import (
    check_measured,
    find_judge,
    get_mode,
    has_loader,
    spell_metric,
    watch_schedule,
    why_unvalidated,
)
from src.cli.main import in_sweep
from src.core import devices
from src.core.errors import InputError
from src.core.hints import parameters_of
from src.core.names import guess
from src.data.base import TensorDataModule
from src.loggers.opening import Start, complete, takes
from src.training.checkpoints import AtomicCheckpointIO
from src.training.distributed import meeting_place, refuse_copies
from src.training.validation.config import check
from src.training.validation.limits import check_limits
from src.training.validation.refusals import refuse

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def prepare(cfg: DictConfig) -> str:
    """Check the settings and the machine, set up the device, and return its kind."""
    refuse(cfg)
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
    if size is not None and size % world and issubclass(get_class(cfg.data._target_), TensorDataModule):
        raise InputError(f"data.batch_size={size} does not divide over {world} processes")
    if world > 1 and kind == devices.CPU and trainer.get("sync_batchnorm"):
        raise InputError("trainer.sync_batchnorm=true works on GPUs alone: leave it out, or use no batch norm")
    devices.precision(trainer.get("precision"), kind)  # raises if the device does not support it
    sharing = processes if kind == devices.CPU else 1
    devices.prepare(kind, devices.asked_threads(cfg.threads), sharing, cfg.get("deterministic", False))
    return kind


def make(group: str, settings: Any, **given: Any) -> Any:
    """Instantiate one part of a config.

    Raises:
        InputError: if a setting is unknown to the class, or is reserved for the run itself.
    """
    if taken := [key for key in settings if key in given]:
        raise InputError(f"{group}.{taken[0]} is no setting: a run gives it to {settings['_target_']} itself")
    try:
        # Lightning does not accept OmegaConf's dictionaries: convert them to plain ones.
        return instantiate(settings, **{"_convert_": "all", **given})
    except InstantiationException as error:
        if match := re.search(r"got an unexpected keyword argument '(\w+)'", str(error)):
            taken = [name for name in parameters_of(get_class(settings["_target_"])) if name not in given]
            hint = f", did you mean {near}?" if (near := guess(match[1], taken)) else ""
            raise InputError(f"{group}.{match[1]}: {settings['_target_']} takes no such setting{hint}") from error
        if match := re.search(r"missing \d+ required [^:]*: ([^\n\"]+)", str(error)):
            raise InputError(f"{group}: {settings['_target_']} needs {match[1]}: give +{group}.NAME=…") from error
        if "takes no arguments" in str(error):
            raise InputError(f"{group}: {settings['_target_']} takes no settings") from error
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise InputError(f"{group} needs a package that is not installed: {error.__cause__}") from error
        cause = error.__cause__ or error
        if isinstance(cause, (InputError, MemoryError, OSError)) or "memory" in str(cause):
            raise  # its message suffices, or the handlers of memory and storage errors explain it
        raise InputError(f"{group}: {_tell_unmade(settings, cause)}") from error


def _tell_unmade(settings: Mapping[str, Any], cause: BaseException) -> str:
    """Explain why an object of a run cannot be created: its class rejects the settings, or contains an error."""
    why = " ".join(str(cause).split())
    if isinstance(cause, (TypeError, ValueError, MisconfigurationException)):
        return f"{settings['_target_']} does not take these settings: {why}"
    failure = f"{settings['_target_']} cannot be made ({type(cause).__name__}: {why})"
    return f"{failure}; HYDRA_FULL_ERROR=1 before the command shows where"


def build_data(cfg: DictConfig) -> LightningDataModule:
    """Return the config's data module.

    Raises:
        InputError: if it has no batches to train on.
    """
    data: LightningDataModule = make("data", cfg.data)
    if not has_loader("train", data):
        raise InputError(f"data._target_={cfg.data._target_} has no train_dataloader: there is nothing to train on")
    if isinstance(data, TensorDataModule):
        data.placement.asked = cfg.get("data_on_device")
    return data


def build_tensors(cfg: DictConfig) -> TensorDataModule:
    """Return the config's data module, for code that requires a `TensorDataModule`.

    Raises:
        InputError: if it is of another class.
    """
    data = build_data(cfg)
    if not isinstance(data, TensorDataModule):
        raise InputError(f"data._target_={cfg.data._target_} must be a src.data.base.TensorDataModule here")
    return data


def load_data(data: LightningDataModule) -> None:
    """Load the data set of a `TensorDataModule`; Lightning sets up any other data module itself, stage by stage."""
    if isinstance(data, TensorDataModule):
        data.prepare_data()
        data.setup()


def build_model(cfg: DictConfig, data: LightningDataModule, kind: str) -> LightningModule:
    """Return the config's model for the data's shape and task.

    The model receives its settings as plain values. If it creates its optimizers itself, settings with a ``_target_``,
    such as a network, are instantiated first.
    """
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "optimizer", "scheduler")}
    about = given(parts, data)
    how = {"_recursive_": "optimizer" not in about, "_convert_": "all"}
    if "scheduler" in about:
        about["scheduler"] = watch_schedule(about["scheduler"], cfg, data)
    with devices.within_memory(kind):
        model: LightningModule = make("model", parts["model"], **about, **how)
    devices.suit_memory(model, kind)
    return model


def given(parts: Mapping[str, Any], data: LightningDataModule) -> dict[str, Any]:
    """Return the arguments that a model gets in addition to its settings: those that its class accepts."""
    about: dict[str, Any] = {"optimizer": parts["optimizer"], "scheduler": parts["scheduler"]}
    about |= {name: getattr(data, name) for name in ("in_shape", "num_classes", "task") if hasattr(data, name)}
    if "in_shape" in about:
        about["in_shape"] = list(about["in_shape"])
    taken = find_arguments(get_class(parts["model"]["_target_"]))
    return {name: value for name, value in about.items() if taken is None or name in taken}


def find_arguments(kind: type) -> set[str] | None:
    """Return the names of the arguments that a class accepts, including those that it passes on; ``None``: any."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base in (LightningModule, Callback):
            return None  # Lightning's base classes accept any argument, and pass none on
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            found |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                return found
    return found


def build_callbacks(cfg: DictConfig, data: LightningDataModule) -> list[Callback]:
    """Return the config's callbacks; one whose ``monitor`` is null watches the run's monitored metric.

    Figures of samples are drawn for a `TensorDataModule` only: it is unknown what the batches of another one contain.
    """
    callbacks = []
    for key, settings in cfg.callbacks.items():
        if settings is None or (settings._target_.endswith(".LearningRateMonitor") and not any(cfg.logger.values())):
            continue  # Lightning refuses to start it without a logger
        if isinstance(data, TensorDataModule) or not shows_samples(settings):
            callbacks.append(make(f"callbacks.{key}", _watching(f"callbacks.{key}", settings, cfg, data)))
    return callbacks


def shows_samples(settings: Mapping[str, Any]) -> bool:
    """Return True if a callback draws figures of a data set's samples."""
    kind = get_class(settings["_target_"])
    return issubclass(kind, FigureCallback) and kind.of_samples


def _watching(name: str, settings: DictConfig, cfg: DictConfig, data: LightningDataModule) -> DictConfig:
    """Return a callback's settings, completed with its monitored metric and mode if it has a ``monitor``.

    Raises:
        InputError: if there is no metric to monitor, or it is never measured.
    """
    if "monitor" not in settings:
        return settings
    metric, mode = settings.monitor, settings.get("mode")
    if metric is not None:
        check_measured(f"{name}.monitor", metric, cfg, data)
    else:
        metric, its_mode = find_judge(cfg, data)
        mode = mode or its_mode
        if metric is None:
            problem = f"needs a validation set: {why_unvalidated(cfg, data)}"
            raise InputError(f"{settings._target_.split('.')[-1]} {problem}")
    accepted = find_arguments(get_class(settings._target_)) or set()
    filled = {"monitor": metric}
    if "mode" in accepted:
        filled["mode"] = mode or get_mode(f"{name}.monitor", f"{name}.mode", metric)
    measured_by_training = "check_on_train_epoch_end" in accepted and spell_metric(metric).startswith("train/")
    defaults = {"check_on_train_epoch_end": True} if measured_by_training else {}
    return OmegaConf.merge(defaults, settings, filled)  # type: ignore[return-value]


def build_loggers(cfg: DictConfig, start: Start) -> dict[str, Logger]:
    """Return the config's loggers by name; those that write local files write them into the run's folder."""
    loggers = {}
    for key, settings in cfg.logger.items():
        if settings is not None:
            save_dir = {"save_dir": str(start.folder)} if takes(get_class(settings._target_), "save_dir") else {}
            loggers[str(key)] = make(f"logger.{key}", complete(str(key), settings, start), **save_dir, _convert_="all")
    return loggers


def build_trainer(
    cfg: DictConfig, kind: str, folder: Path, callbacks: list[Callback], loggers: Mapping[str, Logger]
) -> Trainer:
    """Return the Lightning Trainer that the config describes, working in ``folder``.

    Args:
        cfg: the run's config.
        kind: the kind of device, from `prepare`.
        folder: the folder for all files.
        callbacks: the callbacks, in the order of their calls.
        loggers: the result of `build_loggers`.
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
    """Return the config's Trainer with further arguments; without any it displays and saves nothing."""
    quiet = {} if settings else {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    own = {**cfg.trainer, "accelerator": kind}
    if "precision" in own:
        own["precision"] = devices.precision(own["precision"], kind)
    trainer: Trainer = make(
        "trainer",
        own,
        deterministic=cfg.get("deterministic", False),
        plugins=[AtomicCheckpointIO(), meeting_place(cfg.trainer)],
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_model_summary=False,  # `introduce` logs the summary when a run starts
        **quiet,
        **settings,
    )
    refuse_copies(trainer)
    return trainer


def check_batches(cfg: DictConfig, model: LightningModule, data: LightningDataModule) -> None:
    """Refuse a training set without batches, or with a last batch that is too small for batch norm.

    Only data sets whose size is known are checked.
    """
    check_limits(cfg.trainer, data)
    if not isinstance(data, TensorDataModule) or data.train_set is None:
        return
    samples, size = data.train_set.size, data.batch_size
    if cfg.trainer.limit_train_batches == 0:
        raise InputError(f"trainer.limit_train_batches=0: there is no batch to train on, of {samples} samples")
    if data.drop_last and samples < size:
        why = "data.drop_last=true leaves out a smaller one"
        raise InputError(f"data.batch_size={size}: there is no batch to train on, of {samples} samples: {why}")
    if any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        _check_shares(cfg.trainer, samples, data)


def _check_shares(trainer: DictConfig, samples: int, data: TensorDataModule) -> None:
    """Refuse a last batch that gives a process too few samples for batch norm."""
    processes = devices.check_count(devices.resolve(trainer.accelerator), trainer.devices) * trainer.get("num_nodes", 1)
    synced = processes > 1 and trainer.get("sync_batchnorm", False)
    # Batch norm needs two samples; synchronized, one per process is enough.
    enough = processes if synced else 2 * processes
    last = data.batch_size if data.drop_last else samples % data.batch_size or data.batch_size
    if last < enough:
        needed = "two samples" if processes == 1 else f"{enough} samples for {processes} processes"
        raise InputError(
            f"batch norm needs {needed}: of {samples} with data.batch_size={data.batch_size} the last batch has "
            f"{'one' if last == 1 else last}; choose another data.batch_size ({enough} or more), or data.drop_last=true"
        )
