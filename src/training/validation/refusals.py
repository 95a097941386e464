"""Refuse Lightning's settings and callbacks that a run could not honour, before training, and suggest alternatives."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    ProgressBar,
    ThroughputMonitor,
    WeightAveraging,
)
from lightning.pytorch.profilers import PyTorchProfiler
from omegaconf import DictConfig, OmegaConf
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel

from src.core.devices import CPU, detect_device_kind
from src.core.errors import InputError
from src.core.hints import get_parameters
from src.models.base import SupervisedModule, is_untrainable, refuse_accumulated_sum
from src.models.supervision.losses import SMOOTHABLE
from src.training.validation.config import Component, find_class, find_components

REFUSED_ARGUMENTS = {  # arguments of lightning.Trainer, and what to use instead
    "barebones": "use callbacks=none logger=none",
    "callbacks": "choose callbacks=…, or add one with +callbacks.NAME._target_=…",
    "default_root_dir": "choose paths.outputs=…",
    "deterministic": "use deterministic=true",
    "enable_checkpointing": "a run always keeps the checkpoints that testing and resuming need",
    "enable_model_summary": "a run always prints its model summary at the start",
    "enable_progress_bar": "remove the bar with ~callbacks.progress",
    "fast_dev_run": "use debug=one_batch",
    "limit_predict_batches": "a run trains, validates and tests, and predicts nothing",
    "logger": "choose logger=…",
    "model_registry": "checkpoints are files: choose ckpt_path=…",
    "num_sanity_val_steps": "use debug=one_batch, which runs one batch through training, validation and test",
    "plugins": "choose trainer.precision=… and trainer.strategy=…",
    "use_distributed_sampler": "the data module decides which process gets which samples",
}
_VARIABLE_PREFIX = "PL_TRAINER_"  # environment variables that set Trainer arguments behind the config's back
_LIGHTNING = "lightning.pytorch.callbacks."
_AVERAGING = f"use {_LIGHTNING}WeightAveraging or EMAWeightAveraging, whose weights are validated, kept and tested"
_FORWARDED_TO: dict[type, tuple[Any, ...]] = {  # classes that accept any setting and pass it on, and where to
    WeightAveraging: (AveragedModel,),
    PyTorchProfiler: (torch.profiler.profile, torch.autograd.profiler.profile, torch.autograd.profiler.emit_nvtx),
}
REFUSED_CALLBACKS = {
    "StochasticWeightAveraging": f"its average is computed after the last checkpoint and never tested; {_AVERAGING}",
    "ModelPruning": (
        "it prunes after validation, so the metrics would belong to other weights; prune a finished run's weights "
        "with torch.nn.utils.prune, save the state_dict() and train on from it with ckpt_path=…"
    ),
    "LearningRateFinder": "it would change optimizer.lr unrecorded; use -m sweep=learning_rate",
    "BatchSizeFinder": "it would change data.batch_size unrecorded; use -m data.batch_size=32,64,128",
    "OnExceptionCheckpoint": (
        "a new run would start from the checkpoint that another run left in that folder; resume a stopped run with "
        "resume=FOLDER"
    ),
    "BasePredictionWriter": "a run predicts nothing",
}


def refuse_unsupported(cfg: DictConfig) -> None:
    """Refuse Lightning's settings and callbacks that a run would not honour.

    Raises:
        InputError: naming each, with what to use instead.
    """
    groups = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("trainer", "callbacks") if cfg.get(name)
    }
    variables = [name for name in os.environ if name.startswith(_VARIABLE_PREFIX)]
    refused = [f"{name}: use trainer.{name.removeprefix(_VARIABLE_PREFIX).lower()}=…" for name in variables]
    if wrong := [*_find_refused(groups), *refused]:
        raise InputError("; ".join(wrong))


def _find_refused(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each of the settings (plain values) that a run cannot have, with the reason."""
    trainer = settings.get("trainer")
    for name in trainer if isinstance(trainer, Mapping) else ():
        if name in REFUSED_ARGUMENTS:
            yield f"trainer.{name} cannot be set here: {REFUSED_ARGUMENTS[name]}"
    for part in find_components(settings):
        yield from _find_unknown(part)
        if part.name.startswith("callbacks."):
            yield from _find_refused_callback(part)


def _find_unknown(component: Component) -> Iterator[str]:
    """Yield the settings that a class of Lightning's only passes on to another class, which does not know them."""
    target = component.settings.get("_target_") if isinstance(component.settings, Mapping) else None
    kind = find_class(target) if isinstance(target, str) else None
    for forwarder, receivers in _FORWARDED_TO.items():
        if isinstance(kind, type) and issubclass(kind, forwarder):
            known = {name for receiver in receivers for name in signature(receiver).parameters}
            unknown = [key for key in component.settings if key not in {*known, *get_parameters(kind), "_target_"}]
            yield from (f"{component.name}.{key}: {target} has no such setting" for key in unknown)


def _find_refused_callback(component: Component) -> Iterator[str]:
    target = component.settings.get("_target_") if isinstance(component.settings, Mapping) else None
    kind = find_class(target) if isinstance(target, str) else None
    if not isinstance(kind, type):
        return  # `src.training.validation.config` reports it
    for name, reason in REFUSED_CALLBACKS.items():
        if _is_lightning_callback(kind, name):
            yield f"{component.name}: {name} cannot be used here: {reason}"
    if (
        _is_lightning_callback(kind, "EMAWeightAveraging")
        and component.settings.get("update_starting_at_epoch") is not None
    ):
        yield (
            f"{component.name}.update_starting_at_epoch: the average would change after it is validated; "
            f"use {component.name}.update_starting_at_step"
        )
    measures_cpu = _is_lightning_callback(kind, "DeviceStatsMonitor") and component.settings.get(
        "cpu_stats", detect_device_kind() == CPU
    )
    if measures_cpu and not find_spec("psutil"):
        yield f"{component.name} needs the package psutil, which is not installed; use {component.name}.cpu_stats=false"


def _is_lightning_callback(cls: type, name: str) -> bool:
    """Return True if a class is the Lightning callback with this name or a subclass of it."""
    return issubclass(cls, find_class(f"{_LIGHTNING}{name}"))  # type: ignore[arg-type]


def refuse_unsuitable_callbacks(cfg: DictConfig, callbacks: Sequence[Callback], model: LightningModule) -> None:
    """Refuse callbacks that do not work with the model, the loggers or each other.

    Raises:
        InputError: naming the first one, and what to use instead.
    """
    for kind in (ProgressBar, WeightAveraging):
        if len(several := [type(item).__name__ for item in callbacks if isinstance(item, kind)]) > 1:
            names = [str(key) for key, item in cfg.callbacks.items() if item and _has_target_class(item, kind)]
            hint = f"; leave one out: ~callbacks.{names[0]}" if names else ""
            raise InputError(f"{' and '.join(several)} have the same purpose, and a run can use only one{hint}")
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, BackboneFinetuning) and not isinstance(getattr(model, "backbone", None), Module):
            raise InputError(f"{name} freezes the model's backbone, and {type(model).__name__} has no such part")
        if isinstance(callback, WeightAveraging) and is_untrainable(model):
            raise InputError(f"{name} averages weights, and {type(model).__name__} has no trainable weights")
        if isinstance(callback, (DeviceStatsMonitor, ThroughputMonitor)) and not any(cfg.logger.values()):
            raise InputError(f"{name} has nowhere to log; choose logger=tensorboard or another")


def refuse_mixing(data: LightningDataModule, model: LightningModule) -> None:
    """Refuse mixed images (mixup, CutMix) for a model that cannot learn from shares of classes.

    Raises:
        InputError: naming the reason.
    """
    if not getattr(data, "is_mixing", False):
        return
    if (task := getattr(data, "task", None)) != "multiclass":
        raise InputError(f"data.mixup and data.cutmix mix images of one class each, and the task is {task}")
    if not isinstance(model, SupervisedModule):
        return
    if is_untrainable(model):
        raise InputError(
            f"data.mixup and data.cutmix mix classes, and {type(model).__name__} stores samples of one class"
        )
    if model.loss_name not in SMOOTHABLE:
        raise InputError(f"data.mixup and data.cutmix have no meaning for model.loss={model.loss_name}")


def _has_target_class(settings: DictConfig, cls: type) -> bool:
    found = find_class(settings._target_)
    return isinstance(found, type) and issubclass(found, cls)


def refuse_gradient_settings(cfg: DictConfig, callbacks: Sequence[Callback]) -> None:
    """Refuse contradictory settings of gradient accumulation and clipping.

    These are accumulation that is set twice, accumulation of summed losses, and a clipping algorithm without a clipping
    value.

    Raises:
        InputError: naming the setting.
    """
    trainer, reduction = cfg.trainer, OmegaConf.select(cfg, "model.reduction")
    if trainer.get("gradient_clip_algorithm") and trainer.get("gradient_clip_val") is None:
        raise InputError("trainer.gradient_clip_algorithm has no effect without trainer.gradient_clip_val; set it too")
    accumulated = trainer.get("accumulate_grad_batches", 1)
    refuse_accumulated_sum(reduction, accumulated)
    for callback in callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            refuse_accumulated_sum(reduction, max(callback.scheduling.values()))
            if accumulated != 1:
                reason = f"{type(callback).__name__} sets it too; use only one of them"
                raise InputError(f"trainer.accumulate_grad_batches={accumulated}: {reason}")
