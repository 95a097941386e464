"""Build a run's objects from its config: prepared device, data module, model, callbacks, loggers and trainer."""

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from src.callbacks.averaging import AveragePlacement
from src.callbacks.monitor import (
    check_measured,
    explain_no_validation,
    format_metric_name,
    has_loader,
    require_mode,
    resolve_monitor,
    resolve_scheduler_monitor,
)
from src.core import devices
from src.core.checks import format_value
from src.core.errors import InputError
from src.core.hints import get_parameters
from src.core.names import suggest_name
from src.data.base import TensorDataModule
from src.loggers.opening import RunStart, has_setting, resolve_logger_settings
from src.models.base import SupervisedModule
from src.models.supervision.metrics import choose_metrics
from src.training.checkpointing.checkpoint import AtomicCheckpointIO
from src.training.distributed import make_cluster_environment, refuse_forked_processes
from src.training.validation.abilities import find_arguments, is_sample_figure
from src.training.validation.config import check_config
from src.training.validation.limits import check_limits
from src.training.validation.refusals import refuse_mixing, refuse_unsupported

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Whoever builds a trainer imports this file.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # a run logs the same information in two lines
    # Lightning adds its own handler if it was imported before logging was configured.
    logging.getLogger(name).handlers.clear()
    logging.getLogger(name).propagate = True
for name in ("profilers.profiler", "callbacks.model_summary"):
    logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)  # tables that the user asked for
warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # losses are logged at the end of each epoch
warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # intended with data.val_size=0
warnings.filterwarnings("ignore", ".*srun.*is available")  # the settings decide whether srun is used
warnings.filterwarnings("ignore", ".*treespec.*", module="lightning")
warnings.filterwarnings("ignore", r".*add the following callbacks.*\['History'\]")  # the recorder restores it


def prepare_machine(cfg: DictConfig, is_job: bool = False) -> str:
    """Check the settings and the machine, set up the device, and return its kind."""
    refuse_unsupported(cfg)
    check_config(cfg)
    trainer = cfg.trainer
    kind = devices.resolve_device_kind(trainer.accelerator)
    processes = devices.resolve_device_count(kind, trainer.devices)
    nodes = trainer.get("num_nodes", 1)
    if is_job and (trainer.strategy != "auto" or processes * nodes > 1):
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
    devices.resolve_precision(trainer.get("precision"), kind)  # raises if the device does not support it
    sharing = processes if kind == devices.CPU else 1
    devices.prepare_device(kind, devices.resolve_threads(cfg.threads), sharing, cfg.get("deterministic", False))
    return kind


def instantiate_checked(group: str, settings: Any, **kwargs: Any) -> Any:
    """Instantiate one part of a config.

    Raises:
        InputError: if a setting is unknown to the class, or is reserved for the run itself.
    """
    if taken := [key for key in settings if key in kwargs]:
        raise InputError(f"{group}.{taken[0]} is not a setting: the run passes it to {settings['_target_']} itself")
    try:
        # Lightning does not accept OmegaConf's dictionaries: convert them to plain ones.
        return instantiate(settings, **{"_convert_": "all", **kwargs})
    except InstantiationException as error:
        if match := re.search(r"got an unexpected keyword argument '(\w+)'", str(error)):
            taken = [name for name in get_parameters(get_class(settings["_target_"])) if name not in kwargs]
            target, near = settings["_target_"], suggest_name(match[1], taken)
            hint = f", did you mean {near}?" if near else ""
            if not near and group in ("model", "data") and not target.startswith("src."):
                hint = f"; to leave out all settings of a choice, give ~{group} +{group}._target_={target}"
            raise InputError(f"{group}.{match[1]}: {target} has no such setting{hint}") from error
        if match := re.search(r"missing \d+ required [^:]*: ([^\n\"]+)", str(error)):
            raise InputError(f"{group}: {settings['_target_']} needs {match[1]}: give +{group}.NAME=…") from error
        if "takes no arguments" in str(error):
            raise InputError(f"{group}: {settings['_target_']} takes no settings") from error
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise InputError(f"{group} needs a package that is not installed: {error.__cause__}") from error
        cause = error.__cause__ or error
        if isinstance(cause, (InputError, MemoryError, OSError)) or "memory" in str(cause):
            raise  # its message suffices, or the handlers of memory and storage errors explain it
        raise InputError(f"{group}: {_explain_failed_instantiation(settings, cause)}") from error


def _explain_failed_instantiation(settings: Mapping[str, Any], cause: BaseException) -> str:
    """Explain why an object of a run cannot be created: its class rejects the settings, or contains an error."""
    why = " ".join(str(cause).split())
    if isinstance(cause, (TypeError, ValueError, MisconfigurationException)):
        return f"{settings['_target_']} does not take these settings: {why}"
    failure = f"{settings['_target_']} cannot be created ({type(cause).__name__}: {why})"
    return f"{failure}; HYDRA_FULL_ERROR=1 before the command shows where"


def build_data(cfg: DictConfig) -> LightningDataModule:
    """Return the config's data module.

    Raises:
        InputError: if it has no batches to train on.
    """
    data: LightningDataModule = instantiate_checked("data", cfg.data)
    if not has_loader("train", data):
        raise InputError(f"data._target_={cfg.data._target_} has no train_dataloader: there is nothing to train on")
    if isinstance(data, TensorDataModule):
        data.placement.requested = cfg.get("data_on_device")
    return data


def build_tensor_data(cfg: DictConfig) -> TensorDataModule:
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


def build_model(cfg: DictConfig, data: LightningDataModule, device_kind: str) -> LightningModule:
    """Return the config's model for the data's shape and task.

    The model receives its settings as plain values. If it creates its optimizers itself, settings with a ``_target_``,
    such as a network, are instantiated first.
    """
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "optimizer", "scheduler")}
    about = select_model_arguments(parts, data)
    how = {"_recursive_": "optimizer" not in about, "_convert_": "all"}
    if "scheduler" in about:
        about["scheduler"] = resolve_scheduler_monitor(about["scheduler"], cfg, data)
    with devices.limit_weight_memory(device_kind):
        model: LightningModule = instantiate_checked("model", parts["model"], **about, **how)
    devices.convert_to_channels_last(model, device_kind)
    if names := cfg.get("metrics"):
        _add_metrics(model, list(names))
    return model


def _add_metrics(model: LightningModule, names: list[str]) -> None:
    """Have a model measure further metrics when it is evaluated.

    Raises:
        InputError: if there is no such metric for the model's task, or the model measures its metrics itself.
    """
    if not isinstance(model, SupervisedModule):
        why = f"{type(model).__name__} measures its own metrics; a subclass of src.models.base.SupervisedModule can"
        raise InputError(f"metrics={format_value(names)}: {why}")
    model.metrics = choose_metrics(names, model.task, model.num_classes)


def select_model_arguments(parts: Mapping[str, Any], data: LightningDataModule) -> dict[str, Any]:
    """Return the arguments that a model gets in addition to its settings: those that its class accepts.

    Raises:
        InputError: if a model of this project's kind does not accept what these data need.
    """
    about: dict[str, Any] = {"optimizer": parts["optimizer"], "scheduler": parts["scheduler"]}
    about |= {name: getattr(data, name) for name in ("in_shape", "num_classes", "task") if hasattr(data, name)}
    usual = {"num_values": 1, "num_tokens": 0}
    unusual = {name: value for name in usual if (value := getattr(data, name, usual[name])) != usual[name]}
    about |= unusual
    if "in_shape" in about:
        about["in_shape"] = list(about["in_shape"])
    model = get_class(parts["model"]["_target_"])
    taken = find_arguments(model)
    if taken is not None and issubclass(model, SupervisedModule) and (lacking := unusual.keys() - taken):
        name = min(lacking)
        raise InputError(f"{model.__name__} takes no {name}, and these data have {unusual[name]}: choose another model")
    return {name: value for name, value in about.items() if taken is None or name in taken}


def build_callbacks(cfg: DictConfig, data: LightningDataModule) -> list[Callback]:
    """Return the config's callbacks; one whose ``monitor`` is null watches the run's monitored metric.

    With ``ema`` the last one averages the weights, and swaps them for validation, checkpoints and the test.

    Figures of samples are drawn for a `TensorDataModule` only: it is unknown what the batches of another one contain.
    """
    callbacks = []
    for key, settings in cfg.callbacks.items():
        if settings is None or (settings._target_.endswith(".LearningRateMonitor") and not any(cfg.logger.values())):
            continue  # Lightning refuses to start it without a logger
        if isinstance(data, TensorDataModule) or not is_sample_figure(settings):
            callbacks.append(
                instantiate_checked(f"callbacks.{key}", _add_monitor(f"callbacks.{key}", settings, cfg, data))
            )
    if decay := cfg.get("ema"):
        callbacks.append(WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay)))
    return [*callbacks, *(AveragePlacement(each) for each in callbacks if isinstance(each, WeightAveraging))]


def _add_monitor(name: str, settings: DictConfig, cfg: DictConfig, data: LightningDataModule) -> DictConfig:
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
        metric, its_mode = resolve_monitor(cfg, data)
        mode = mode or its_mode
        if metric is None:
            problem = f"needs a validation set: {explain_no_validation(cfg, data)}"
            raise InputError(f"{settings._target_.split('.')[-1]} {problem}")
    accepted = find_arguments(get_class(settings._target_)) or set()
    filled = {"monitor": metric}
    if "mode" in accepted:
        filled["mode"] = mode or require_mode(f"{name}.monitor", f"{name}.mode", metric)
    measured_by_training = "check_on_train_epoch_end" in accepted and format_metric_name(metric).startswith("train/")
    defaults = {"check_on_train_epoch_end": True} if measured_by_training else {}
    return OmegaConf.merge(defaults, settings, filled)  # type: ignore[return-value]


def build_loggers(cfg: DictConfig, start: RunStart) -> dict[str, Logger]:
    """Return the config's loggers by name; those that write local files write them into the run's folder."""
    loggers = {}
    for key, settings in cfg.logger.items():
        if settings is not None:
            save_dir = {"save_dir": str(start.folder)} if has_setting(get_class(settings._target_), "save_dir") else {}
            loggers[str(key)] = instantiate_checked(
                f"logger.{key}", resolve_logger_settings(str(key), settings, start), **save_dir, _convert_="all"
            )
    return loggers


def build_trainer(
    cfg: DictConfig, device_kind: str, folder: Path, callbacks: list[Callback], loggers: Mapping[str, Logger]
) -> Trainer:
    """Return the Lightning Trainer that the config describes, working in ``folder``.

    Args:
        cfg: the run's config.
        device_kind: the kind of device, from `prepare_machine`.
        folder: the folder for all files.
        callbacks: the callbacks, in the order of their calls.
        loggers: the result of `build_loggers`.
    """
    return build_plain_trainer(
        cfg,
        device_kind,
        folder,
        callbacks=callbacks,
        logger=list(loggers.values()),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )


def build_plain_trainer(cfg: DictConfig, device_kind: str, folder: Path, **kwargs: Any) -> Trainer:
    """Return the config's Trainer with further arguments; without a ``logger`` it displays and saves nothing."""
    quiet = {} if "logger" in kwargs else {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    own = {**cfg.trainer, "accelerator": device_kind}
    if "precision" in own:
        own["precision"] = devices.resolve_precision(own["precision"], device_kind)
    trainer: Trainer = instantiate_checked(
        "trainer",
        own,
        deterministic=cfg.get("deterministic", False),
        plugins=[AtomicCheckpointIO(), make_cluster_environment(cfg.trainer)],
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
        enable_model_summary=False,  # `src.training.run` logs the summary when a run starts
        **quiet,
        **kwargs,
    )
    refuse_forked_processes(trainer)
    return trainer


def check_batches(cfg: DictConfig, model: LightningModule, data: LightningDataModule) -> None:
    """Refuse a training set without batches, or with a last batch that is too small for batch norm.

    Only data sets whose size is known are checked.
    """
    check_limits(cfg.trainer, data)
    refuse_mixing(data, model)
    if not isinstance(data, TensorDataModule) or data.train_set is None:
        return
    samples, size = data.train_set.size, data.batch_size
    if cfg.trainer.limit_train_batches == 0:
        raise InputError("trainer.limit_train_batches=0: there is no batch to train on")
    if data.drop_last and samples < size:
        why = "data.drop_last=true drops a smaller batch"
        raise InputError(
            f"data.batch_size={size}: there is no batch to train on: there are {samples} samples, and {why}"
        )
    if any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        _check_last_batch(cfg.trainer, samples, data)


def _check_last_batch(trainer: DictConfig, samples: int, data: TensorDataModule) -> None:
    """Refuse a last batch that gives a process too few samples for batch norm."""
    processes = devices.resolve_device_count(
        devices.resolve_device_kind(trainer.accelerator), trainer.devices
    ) * trainer.get("num_nodes", 1)
    synced = processes > 1 and trainer.get("sync_batchnorm", False)
    # Batch norm needs two samples; synchronized, one per process is enough.
    enough = processes if synced else 2 * processes
    last = data.batch_size if data.drop_last else samples % data.batch_size or data.batch_size
    if last < enough:
        needed = "two samples" if processes == 1 else f"{enough} samples for {processes} processes"
        raise InputError(
            f"batch norm needs {needed}: with {samples} samples and data.batch_size={data.batch_size} the last batch "
            f"has {'one' if last == 1 else last}; choose another data.batch_size ({enough} or more), "
            "or data.drop_last=true"
        )
