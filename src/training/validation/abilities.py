"""Find which features of a run its model and data module support; they may be any Lightning classes.

This project's classes support all features. For other classes the missing features are logged in one line when a run
starts, and settings without effect are refused.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from lightning import Callback, LightningDataModule, LightningModule
from omegaconf import DictConfig

from src.callbacks.figures.base import FigureCallback
from src.callbacks.monitor import has_loader, has_step, has_validation
from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.models.base import is_untrainable

CONFIGURED_GROUPS = ("optimizer", "scheduler")


def should_test(cfg: Mapping[str, Any], data: LightningDataModule) -> bool:
    """Return True if a run ends with a test: it has a test set and a test step, and ``test=false`` is not set."""
    return bool(cfg.get("test", True)) and can_test(cfg, data)


def can_test(cfg: Mapping[str, Any], data: LightningDataModule) -> bool:
    """Return True if there are test batches and the model has a ``test_step``."""
    return has_step("test", get_class(cfg["model"]["_target_"])) and has_loader("test", data)


def describe_limitations(cfg: DictConfig, data: LightningDataModule, model: LightningModule, processes: int) -> str:
    """Return one line about the features that a run lacks with a user-defined model or data module; "" if none."""
    lacks, kind = [], type(model)
    if not has_validation(cfg, data) and not isinstance(data, TensorDataModule):
        lacks.append(
            f"no validation ({_explain_missing('validation', 'val', kind, data)}): the last epoch's weights are kept"
        )
    if cfg.get("test", True) and not should_test(cfg, data):
        lacks.append(f"no test ({_explain_missing('test', 'test', kind, data)})")
    if processes > 1 and not isinstance(data, TensorDataModule):
        lacks.append(f"a step takes a batch for each of {processes} processes")
    left_out = [name for name, callback in cfg.callbacks.items() if callback and is_sample_figure(callback)]
    if left_out and not isinstance(data, TensorDataModule):
        lacks.append(f"no figures of samples ({', '.join(map(str, left_out))})")
    if unused := _find_unused(kind):
        verb = "is" if len(unused) == 1 else "are"
        lacks.append(f"{' and '.join(unused)} {verb} {kind.__name__}'s own: the settings are not used")
    return "; ".join(lacks)


def describe_unused(model: LightningModule) -> str:
    """Return one line about typed settings that have no effect since the model has no weights; "" if there are none."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() and is_untrainable(model) else []
    beginnings = tuple(f"{group}{sign}" for group in CONFIGURED_GROUPS for sign in "=.")
    unused = [setting for setting in typed if setting.lstrip("+~").startswith(beginnings)]
    reason = "has no weights to learn, so these settings have no effect"
    return f"{type(model).__name__} {reason}: {' '.join(unused)}" if unused else ""


def _explain_missing(step: str, loader: str, model: type, data: LightningDataModule) -> str:
    if not has_step(step, model):
        return f"{model.__name__} has no {step}_step"
    if not has_loader(loader, data):
        return f"{type(data).__name__} has no {loader}_dataloader"
    return f"trainer.limit_{loader}_batches=0"


def _find_unused(model: type) -> list[str]:
    """Return those of the groups `CONFIGURED_GROUPS` that a model's constructor does not accept."""
    taken = find_arguments(model)
    return [] if taken is None else [group for group in CONFIGURED_GROUPS if group not in taken]


def refuse_unused(cfg: DictConfig) -> None:
    """Refuse typed settings for an optimizer or a scheduler that the model creates itself.

    Raises:
        InputError: naming the first such setting.
    """
    model = get_class(cfg.model._target_)
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for group in _find_unused(model):
        for setting in typed:
            if setting.lstrip("+~").startswith((f"{group}=", f"{group}.")):
                raise InputError(
                    f"{setting} has no effect: {cfg.model._target_} creates its {group} itself; a model that takes "
                    f"{group} in __init__ receives these settings"
                )


def find_arguments(target_class: type) -> set[str] | None:
    """Return the names of the arguments that a class accepts, including those that it passes on; ``None``: any."""
    found: set[str] = set()
    for base in target_class.__mro__:
        if base in (LightningModule, Callback):
            return None  # Lightning's base classes accept any argument, and pass none on
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            found |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                return found
    return found


def is_sample_figure(settings: Mapping[str, Any]) -> bool:
    """Return True if a callback draws figures of a data set's samples."""
    kind = get_class(settings["_target_"])
    return issubclass(kind, FigureCallback) and kind.needs_samples
