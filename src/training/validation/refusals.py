"""Lightning's settings and callbacks that cannot be honoured here: each is refused before training, with what works."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from lightning import Callback, LightningModule
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

from src.core.devices import CPU, available
from src.core.errors import InputError
from src.core.hints import parameters_of
from src.models.base import is_fixed, refuse_sum_of_parts
from src.training.validation.config import Part, found_class, parts

ARGUMENTS = {  # of lightning.Trainer: who decides it instead
    "barebones": "use callbacks=none logger=none",
    "callbacks": "choose callbacks=…, or add one with +callbacks.NAME._target_=…",
    "default_root_dir": "choose paths.outputs=…",
    "deterministic": "use deterministic=true",
    "enable_checkpointing": "a run always keeps the checkpoints that it is tested with and goes on from",
    "enable_model_summary": "a run shows its model when it begins",
    "enable_progress_bar": "leave the bar out with ~callbacks.progress",
    "fast_dev_run": "use debug=one_batch",
    "limit_predict_batches": "a run trains, validates and tests, and predicts nothing",
    "logger": "choose logger=…",
    "model_registry": "checkpoints are files: choose ckpt_path=…",
    "num_sanity_val_steps": "use debug=one_batch, which takes one batch through everything",
    "plugins": "choose trainer.precision=… and trainer.strategy=…",
    "use_distributed_sampler": "the data module decides which process gets which samples",
}
_OF_THE_SHELL = "PL_TRAINER_"  # variables that Lightning's Trainer takes settings from, and no config tells of
_LIGHTNING = "lightning.pytorch.callbacks."
_AVERAGING = f"use {_LIGHTNING}WeightAveraging or EMAWeightAveraging, whose weights are validated, kept and tested"
_HANDED_ON: dict[type, tuple[Any, ...]] = {  # classes that take any setting and hand it on, and to what
    WeightAveraging: (AveragedModel,),
    PyTorchProfiler: (torch.profiler.profile, torch.autograd.profiler.profile, torch.autograd.profiler.emit_nvtx),
}
CALLBACKS = {
    "StochasticWeightAveraging": f"its average is made after the last checkpoint, and is not tested; {_AVERAGING}",
    "ModelPruning": (
        "it prunes after validation, so that the metrics are those of other weights; prune a finished run's weights "
        "with torch.nn.utils.prune, save the state_dict() and train on from it with ckpt_path=…"
    ),
    "LearningRateFinder": "it would change optimizer.lr unrecorded; use -m sweep=learning_rate",
    "BatchSizeFinder": "it would change data.batch_size unrecorded; use -m data.batch_size=32,64,128",
    "OnExceptionCheckpoint": (
        "with it a new run would start from what another one has left in that folder; a run that was stopped goes on "
        "with resume=FOLDER"
    ),
    "BasePredictionWriter": "a run predicts nothing",
}


def refuse(cfg: DictConfig) -> None:
    """Refuse settings and callbacks of Lightning's that a run would not honour.

    Raises:
        InputError: naming each, with what to use instead.
    """
    groups = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("trainer", "callbacks") if cfg.get(name)
    }
    variables = [name for name in os.environ if name.startswith(_OF_THE_SHELL)]
    told = [f"{name}: use trainer.{name.removeprefix(_OF_THE_SHELL).lower()}=…" for name in variables]
    if wrong := [*find_refused(groups), *told]:
        raise InputError("; ".join(wrong))


def find_refused(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a run cannot have these settings, plain values, a line for each that is refused."""
    trainer = settings.get("trainer")
    for name in trainer if isinstance(trainer, Mapping) else ():
        if name in ARGUMENTS:
            yield f"trainer.{name} is no setting here: {ARGUMENTS[name]}"
    for part in parts(settings):
        yield from _find_unknown(part)
        if part.name.startswith("callbacks."):
            yield from _find_refused_callback(part)


def _find_unknown(part: Part) -> Iterator[str]:
    """Yield the settings that a class of Lightning's takes only to hand them on, and that nothing knows there."""
    target = part.settings.get("_target_") if isinstance(part.settings, Mapping) else None
    kind = found_class(target) if isinstance(target, str) else None
    for theirs, receivers in _HANDED_ON.items():
        if isinstance(kind, type) and issubclass(kind, theirs):
            known = {name for receiver in receivers for name in signature(receiver).parameters}
            unknown = [key for key in part.settings if key not in {*known, *parameters_of(kind), "_target_"}]
            yield from (f"{part.name}.{key}: {target} takes no such setting" for key in unknown)


def _find_refused_callback(part: Part) -> Iterator[str]:
    target = part.settings.get("_target_") if isinstance(part.settings, Mapping) else None
    kind = found_class(target) if isinstance(target, str) else None
    if not isinstance(kind, type):
        return  # what is wrong with it `src.training.validation.config` tells
    for name, reason in CALLBACKS.items():
        if _is_a(kind, name):
            yield f"{part.name}: {name} cannot be used here: {reason}"
    if _is_a(kind, "EMAWeightAveraging") and part.settings.get("update_starting_at_epoch") is not None:
        yield (
            f"{part.name}.update_starting_at_epoch: the average would change after it is validated; "
            f"use {part.name}.update_starting_at_step"
        )
    looks_at_cpu = _is_a(kind, "DeviceStatsMonitor") and part.settings.get("cpu_stats", available() == CPU)
    if looks_at_cpu and not find_spec("psutil"):
        yield f"{part.name} needs the package psutil, which is not installed; use {part.name}.cpu_stats=false"


def _is_a(kind: type, name: str) -> bool:
    """Return whether a class is one of Lightning's callbacks, or made from it."""
    return issubclass(kind, found_class(f"{_LIGHTNING}{name}"))  # type: ignore[arg-type]


def refuse_unsuited(cfg: DictConfig, callbacks: Sequence[Callback], model: LightningModule) -> None:
    """Refuse callbacks that lack what they need, of the model, of the loggers or of each other.

    Raises:
        InputError: naming the first, and what to use.
    """
    for kind in (ProgressBar, WeightAveraging):
        if len(several := [type(each).__name__ for each in callbacks if isinstance(each, kind)]) > 1:
            names = [str(key) for key, each in cfg.callbacks.items() if each and _is_made_from(each, kind)]
            hint = f"; leave one out: ~callbacks.{names[0]}" if names else ""
            raise InputError(f"{' and '.join(several)} do the same, and a run takes one{hint}")
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, BackboneFinetuning) and not isinstance(getattr(model, "backbone", None), Module):
            raise InputError(f"{name} freezes the model's backbone, and {type(model).__name__} has no such part")
        if isinstance(callback, WeightAveraging) and is_fixed(model):
            raise InputError(f"{name} averages weights, and {type(model).__name__} has none to learn")
        if isinstance(callback, (DeviceStatsMonitor, ThroughputMonitor)) and not any(cfg.logger.values()):
            raise InputError(f"{name} has nowhere to log; choose logger=tensorboard or another")


def _is_made_from(settings: DictConfig, kind: type) -> bool:
    found = found_class(settings._target_)
    return isinstance(found, type) and issubclass(found, kind)


def refuse_gradients(cfg: DictConfig, callbacks: Sequence[Callback]) -> None:
    """Refuse gradients that are accumulated twice over, or of added losses, and a way of clipping where nothing is.

    Raises:
        InputError: naming the setting.
    """
    trainer, reduction = cfg.trainer, OmegaConf.select(cfg, "model.reduction")
    if trainer.get("gradient_clip_algorithm") and trainer.get("gradient_clip_val") is None:
        raise InputError("trainer.gradient_clip_algorithm: nothing is clipped; give trainer.gradient_clip_val, too")
    parts = trainer.get("accumulate_grad_batches", 1)
    refuse_sum_of_parts(reduction, parts)
    for callback in callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            refuse_sum_of_parts(reduction, max(callback.scheduling.values()))
            if parts != 1:
                told = f"{type(callback).__name__} sets it as well; use one of the two"
                raise InputError(f"trainer.accumulate_grad_batches={parts}: {told}")
