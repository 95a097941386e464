"""Find the limits that end a run's training, and the settings with which it would continue exactly."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hydra.utils import get_object
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer
from omegaconf import DictConfig, OmegaConf

from src.optimizers.settings import has_total_steps as is_schedule_planned
from src.training.checkpointing.checkpoint import Stops, select_active_stops

MAX_EPOCHS, MAX_STEPS, MAX_TIME = "trainer.max_epochs", "trainer.max_steps", "trainer.max_time"


class RunProgress(NamedTuple):
    """The progress of a run: finished epochs, optimiser steps, and the callbacks that stopped it."""

    epochs: int
    steps: int
    stops: Stops


def get_trainer_limit(cfg: DictConfig, setting: str) -> float:
    """Return a limit of the trainer; infinity if there is none."""
    value = cfg.trainer.get(setting.removeprefix("trainer."))
    return math.inf if value in (None, -1) else value


def find_reached_limits(cfg: DictConfig, callbacks: Sequence[Callback], progress: RunProgress) -> dict[str, str | None]:
    """Return the limits that end training at the given progress; an empty dictionary if training is not over.

    Returns:
        For each limit that is reached, the setting with which training continues exactly as if it had been set from
        the start; ``None`` if there is no such setting.
    """
    ends: dict[str, str | None] = {}
    for setting, count in ((MAX_EPOCHS, progress.epochs), (MAX_STEPS, progress.steps)):
        if count >= get_trainer_limit(cfg, setting):
            ends[setting] = None if has_step_schedule(cfg) else f"{setting}={2 * max(1, count)}"
    if progress.epochs >= (cfg.trainer.get("min_epochs") or 0) and progress.steps >= (
        cfg.trainer.get("min_steps") or 0
    ):
        timer = _make_timer(cfg)
        names = _find_patience_settings(cfg, callbacks)
        for key, limit in select_active_stops(progress.stops, [*callbacks, timer]).items():
            if key == timer.state_key:
                ends[MAX_TIME] = _format_doubled_time(timer)
            elif limit is not None and key in names:
                ends[names[key]] = f"{names[key]}={2 * int(limit) + 1}"
            else:
                ends[key] = None
    return ends


def _make_timer(cfg: DictConfig) -> Timer:
    """Return the Lightning timer that ``trainer.max_time`` describes."""
    time = cfg.trainer.get("max_time")
    return Timer(OmegaConf.to_container(time) if OmegaConf.is_config(time) else time)  # type: ignore[arg-type]


def _find_patience_settings(cfg: DictConfig, callbacks: Sequence[Callback]) -> dict[str, str]:
    """Return the names of the patience settings of early stopping callbacks, by their state keys in a checkpoint."""
    stopping = [each for each in callbacks if isinstance(each, EarlyStopping)]
    settings = [(name, each) for name, each in cfg.callbacks.items() if each and _is_early_stopping(each._target_)]
    return {
        callback.state_key: f"callbacks.{name}.patience"
        for (name, each), callback in zip(settings, stopping, strict=False)
        if "patience" in each
    }


def _is_early_stopping(target: str) -> bool:
    found = get_object(target)
    return isinstance(found, type) and issubclass(found, EarlyStopping)


def _format_doubled_time(timer: Timer) -> str:
    """Return the setting for twice a timer's duration, rounded up to whole seconds."""
    minutes, seconds = divmod(2 * math.ceil(timer._duration or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{MAX_TIME}={hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"


def has_step_schedule(cfg: DictConfig) -> bool:
    """Return True if the learning rate follows a schedule made for the run's number of steps."""
    return is_schedule_planned(OmegaConf.to_container(cfg.scheduler, resolve=True))


def find_extension(reached_limits: Mapping[str, str | None]) -> str | None:
    """Return the settings that let a finished run train longer; ``None`` if one of its limits has none."""
    more = [setting for setting in reached_limits.values() if setting is not None]
    return " ".join(more) if more and len(more) == len(reached_limits) else None


def explain_limits(reached_limits: Mapping[str, str | None]) -> str:
    """Return a message: how to train a finished run longer, or why that is impossible."""
    if more := find_extension(reached_limits):
        return f"to train longer, set {more}"
    # The first limit that no setting lifts is the reason.
    ended = next(name for name, more in reached_limits.items() if more is None)
    by = (
        "the learning rate schedule was made for its number of steps"
        if ended in (MAX_EPOCHS, MAX_STEPS)
        else f"it was stopped by {ended}"
    )
    return f"{by}; start a new run from its weights with ckpt_path="
