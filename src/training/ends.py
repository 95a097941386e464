"""What ends a run's training, and with which settings it would go on exactly."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hydra.utils import get_object
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer
from omegaconf import DictConfig, OmegaConf

from src.optimizers.settings import is_planned as is_schedule_planned
from src.training.checkpoints import Stops, select_holding

EPOCHS, STEPS, TIME = "trainer.max_epochs", "trainer.max_steps", "trainer.max_time"


class Reached(NamedTuple):
    """How far a run came: whole epochs, optimiser steps, and what told it to stop."""

    epochs: int
    steps: int
    stops: Stops


def limit_of(cfg: DictConfig, setting: str) -> float:
    """Return a limit of the trainer's; infinity where there is none."""
    value = cfg.trainer.get(setting.removeprefix("trainer."))
    return math.inf if value in (None, -1) else value


def find_ends(cfg: DictConfig, callbacks: Sequence[Callback], reached: Reached) -> dict[str, str | None]:
    """Return what ends training that has come so far; nothing if it is not over.

    Returns:
        For each limit that is reached the setting with which training goes on, exactly as if it had been that from
        the start; ``None`` where there is none.
    """
    ends: dict[str, str | None] = {}
    for setting, count in ((EPOCHS, reached.epochs), (STEPS, reached.steps)):
        if count >= limit_of(cfg, setting):
            ends[setting] = None if is_planned(cfg) else f"{setting}={2 * max(1, count)}"
    if reached.epochs >= (cfg.trainer.get("min_epochs") or 0) and reached.steps >= (cfg.trainer.get("min_steps") or 0):
        timer = make_timer(cfg)
        names = name_patience(cfg, callbacks)
        for key, limit in select_holding(reached.stops, [*callbacks, timer]).items():
            if key == timer.state_key:
                ends[TIME] = raise_time(timer)
            elif limit is not None and key in names:
                ends[names[key]] = f"{names[key]}={2 * int(limit) + 1}"
            else:
                ends[key] = None
    return ends


def make_timer(cfg: DictConfig) -> Timer:
    """Return Lightning's timer of a run."""
    time = cfg.trainer.get("max_time")
    return Timer(OmegaConf.to_container(time) if OmegaConf.is_config(time) else time)  # type: ignore[arg-type]


def name_patience(cfg: DictConfig, callbacks: Sequence[Callback]) -> dict[str, str]:
    """Return the settings of the patience of callbacks that stop early, by the callbacks' keys in a checkpoint."""
    stopping = [each for each in callbacks if isinstance(each, EarlyStopping)]
    settings = [(name, each) for name, each in cfg.callbacks.items() if each and _stops_early(each._target_)]
    return {
        callback.state_key: f"callbacks.{name}.patience"
        for (name, each), callback in zip(settings, stopping, strict=False)
        if "patience" in each
    }


def _stops_early(target: str) -> bool:
    made = get_object(target)
    return isinstance(made, type) and issubclass(made, EarlyStopping)


def raise_time(timer: Timer) -> str:
    """Return the setting of twice a timer's time, of at least a second."""
    minutes, seconds = divmod(2 * math.ceil(timer._duration or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{TIME}={hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"


def is_planned(cfg: DictConfig) -> bool:
    """Return whether the learning rate follows a schedule made for the run's number of steps."""
    return is_schedule_planned(OmegaConf.to_container(cfg.scheduler, resolve=True))


def find_longer(ends: Mapping[str, str | None]) -> str | None:
    """Return the settings that let a finished run train on; ``None`` if none do."""
    more = [setting for setting in ends.values() if setting is not None]
    return " ".join(more) if more and len(more) == len(ends) else None


def explain(ends: Mapping[str, str | None]) -> str:
    """Say how a finished run trains longer, or why it cannot."""
    if more := find_longer(ends):
        return f"give more to train on, {more}"
    ended = next(name for name, more in ends.items() if more is None)
    by = "the learning rate's schedule was made for its number of steps" if ended in (EPOCHS, STEPS) else f"by {ended}"
    return f"{by}; start a new run from its weights with ckpt_path="
