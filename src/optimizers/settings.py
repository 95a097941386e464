"""Optimisers and schedules of the learning rate, made from their settings, and how often a schedule is stepped."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer
from torch.optim import LBFGS, SGD, Adam, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

from src.core.checks import show
from src.core.errors import InputError
from src.storage.moved import update_names
from src.storage.trust import may_name_function

Settings = dict[str, Any]
FUSED = (Adam, SGD)  # have one kernel for all parameters on each of these devices; AdamW is an Adam
FUSED_ON = ("cpu", "cuda")
OF_LIGHTNING = ("interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")  # how a schedule is stepped
WATCHING = ("monitor", "strict")  # only where it watches a metric
TOTAL, RATES = "total_steps", "lr"  # in a schedule's settings they stand for numbers of the run

# Optimisers


def make_optimizer(settings: Settings, groups_of: Callable[[float], list[Settings]], device: str) -> Optimizer:
    """Make an optimiser.

    Args:
        settings: ``{"_target_": a class or a function, "lr": 0.001, …}``; ``"fused": None`` stands for: where the
            device has it.
        groups_of: returns the parameters in groups for a learning rate, see `SupervisedModule.parameter_groups`.
        device: "cpu", "cuda" or another.

    Raises:
        InputError: for settings that it does not take.
    """
    settings = update_names(dict(settings))
    target = settings.pop("_target_")
    maker = _find("optimizer", target)
    if settings.get("fused", ...) is None:
        del settings["fused"]
        if isinstance(maker, type) and issubclass(maker, FUSED) and "fused" in _parameters(maker):
            settings["fused"] = device in FUSED_ON
    optimizer = _make("optimizer", target, _groups(groups_of, maker, settings), **settings)
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer: {target} makes no optimizer, but {type(optimizer).__name__}")
    if isinstance(optimizer, SparseAdam):
        raise InputError(
            f"optimizer: {target} takes sparse gradients alone, and there are none here; use optimizer=adam"
        )
    divide_first(optimizer)
    return optimizer


def divide_first(optimizer: Optimizer) -> None:
    """Have gradients that mixed precision scales up divided before they are clipped and looked at, not in the step.

    Fused optimisers would do that in the step, and Lightning therefore never clips theirs.
    """
    if hasattr(optimizer, "_step_supports_amp_scaling"):
        optimizer._step_supports_amp_scaling = False


def check_numbers(optimizer: Optimizer, precision: str) -> None:
    """Refuse an optimiser that does not calculate in a precision.

    Raises:
        InputError: naming what works.
    """
    if isinstance(optimizer, LBFGS) and precision in ("16-mixed", "16-true"):
        raise InputError(f"trainer.precision={precision}: LBFGS does not calculate in float16; use 32-true")
    groups = optimizer.param_groups
    half = any(weight.dtype == torch.float16 for group in groups for weight in group["params"])
    eps = [group["eps"] for group in groups if isinstance(group.get("eps"), float)]
    if half and any(torch.tensor(each, dtype=torch.float16) == 0 for each in eps):
        told = (
            f"trainer.precision={precision}: {type(optimizer).__name__} divides by squares that are 0 in float16, as "
        )
        raise InputError(f"{told}optimizer.eps={min(eps)} is; use bf16-true, 16-mixed, or +optimizer.eps=1e-4")


def _groups(groups_of: Callable[[float], list[Settings]], maker: Any, settings: Settings) -> list[Settings]:
    """Return the parameter groups, each with its learning rate; without it for an optimiser that has none."""
    parameters = _parameters(maker)
    usual = parameters["lr"].default if "lr" in parameters else inspect.Parameter.empty
    lr = settings.get("lr", None if usual is inspect.Parameter.empty else usual)
    if lr is not None:
        return groups_of(lr)
    groups = groups_of(1.0)
    if "lr" in parameters or len(groups) > 1:
        raise InputError("optimizer.lr is missing")
    return [{"params": group["params"]} for group in groups]


# Schedules of the learning rate


def make_schedule(settings: Settings, optimizer: Optimizer, trainer: Any) -> Settings:
    """Make a schedule of an optimiser's learning rate, with what Lightning has to know of it.

    Args:
        settings: ``{"_target_": a class or a function, "interval": "step" or "epoch", …}``. Among its values
            "total_steps" stands for how often the schedule is stepped, "lr" for the optimiser's learning rates, and the
            dotted name of a function for that function, where one is asked for. Schedules in it are made, too.
        optimizer: whose learning rate is to change.
        trainer: a Trainer, or what stands for it: it tells how many steps there will be.

    Raises:
        InputError: for settings that it does not take, or that come to nothing.
    """
    settings = update_names(dict(settings))
    if "_target_" not in settings:
        raise InputError(f"scheduler.{next(iter(settings))}: there is no scheduler to take it; choose scheduler=…")
    how: Settings = {name: settings[name] for name in OF_LIGHTNING if settings.get(name) is not None}
    how.setdefault("interval", "epoch")
    how.setdefault("frequency", 1)
    own = {name: value for name, value in settings.items() if name not in OF_LIGHTNING}
    total = None
    if is_planned(own):
        _refuse_unknown_end(trainer)
        total = count_rates(trainer, how["interval"], how["frequency"])
    made = _schedule(own, optimizer, total)
    if isinstance(made, ReduceLROnPlateau) or how.get("reduce_on_plateau"):
        how["frequency"] = _frequency_of_looks(settings, how, trainer)
    elif extra := [name for name in WATCHING if name in how]:
        raise InputError(f"scheduler.{extra[0]}: {own['_target_']} watches no metric; leave it out")
    if isinstance(made, OneCycleLR):
        taken = count_rates(trainer, how["interval"], how["frequency"])
        if made.total_steps < taken:
            asked = f"scheduler.total_steps={made.total_steps}"
            raise InputError(f"{asked}: the run takes {taken}; give as many, or {TOTAL}")
    return how | {"scheduler": made}


def _frequency_of_looks(settings: Settings, how: Settings, trainer: Any) -> int:
    """Return after how many epochs (or steps) a schedule looks at its metric: by default whenever it is measured."""
    if "monitor" not in how:
        raise InputError("scheduler.monitor is missing: the metric that it watches, such as val/loss")
    validated = (trainer.check_val_every_n_epoch or 1) if how["monitor"].startswith("val") else 1
    if how["interval"] == "step":
        if how.get("strict", True):
            told = f"scheduler.interval=step: {how['monitor']} is not measured at each step"
            raise InputError(f"{told}; use interval=epoch, or +scheduler.strict=false")
        return int(how["frequency"])
    if settings.get("frequency") is None:
        return int(validated)
    if how["frequency"] % validated and how.get("strict", True):
        raise InputError(
            f"scheduler.frequency={how['frequency']}: {how['monitor']} is measured every {validated} epochs; give a "
            "multiple of trainer.check_val_every_n_epoch"
        )
    return int(how["frequency"])


def _schedule(settings: Settings, optimizer: Optimizer, total: int | None) -> LRScheduler:
    """Return a schedule that is stepped ``total`` times; of a sequence each part as often as it is its turn."""
    target, own = settings["_target_"], {name: value for name, value in settings.items() if name != "_target_"}
    maker = _find("scheduler", target)
    parameters = _parameters(maker)
    if maker is SequentialLR and total is not None:
        own["schedulers"] = _in_turn(own, optimizer, total)
    for name, value in own.items():
        function = name in parameters and "Callable" in str(parameters[name].annotation)
        own[name] = _value(value, optimizer, total, function)
    given: tuple[Any, ...] = ()
    if "optimizer" in parameters:
        own["optimizer"] = optimizer
    else:
        given = (optimizer,)
    made: LRScheduler = _make("scheduler", target, *given, **own)
    if not isinstance(made, LRScheduler):
        raise InputError(f"scheduler: {target} makes no schedule of the learning rate, but {type(made).__name__}")
    try:
        made.state_dict()
    except AttributeError as error:
        told = "its functions cannot be kept in a checkpoint; give some that are written in Python"
        raise InputError(f"scheduler: {target}: {told} ({error})") from error
    return made


def _in_turn(settings: Settings, optimizer: Optimizer, total: int) -> list[Any]:
    """Return the schedules of a sequence, each made for as many steps as there are to its turn's end."""
    ends = [*settings.get("milestones", []), total]
    if any(not isinstance(end, int) for end in ends) or ends != sorted(set(ends)):
        raise InputError(f"scheduler.milestones={ends[:-1]}: give rising numbers of steps, below the run's {total}")
    turns = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    parts = zip(settings.get("schedulers", []), turns, strict=False)
    return [_value(part, optimizer, turn, function=False) for part, turn in parts]


def _value(value: Any, optimizer: Optimizer, total: int | None, function: bool) -> Any:
    """Return what a value of a schedule's settings stands for."""
    if isinstance(value, Mapping) and "_target_" in value:
        if _is_schedule(value["_target_"]):
            return _schedule(dict(value), optimizer, total)
        return instantiate(dict(value))
    if isinstance(value, list):
        return [_value(each, optimizer, total, function) for each in value]
    if value == TOTAL and isinstance(value, str):
        return total
    if value == RATES and isinstance(value, str):
        return [group["lr"] for group in optimizer.param_groups]
    return _find("scheduler", value) if function and may_name_function(value) else value


def _is_schedule(target: str) -> bool:
    found = _find("scheduler", target)
    return isinstance(found, type) and issubclass(found, LRScheduler)


def is_planned(settings: Any) -> bool:
    """Return whether a schedule is made for the run's number of steps, or one within it is."""
    if isinstance(settings, (str, int, float)) or settings is None:
        return bool(settings == TOTAL)
    values: Iterable[Any] = settings.values() if isinstance(settings, Mapping) else settings
    return any(map(is_planned, values))


def count_rates(trainer: Any, interval: str, frequency: int) -> int:
    """Return with how many learning rates, one after the other, a run trains if it comes to its end.

    Lightning steps a schedule after every ``frequency``-th epoch; or after each optimiser step whose batch is the
    ``frequency``-th, the next ``frequency``-th, … of its epoch. The rates are those in between.

    Raises:
        InputError: if that is not known beforehand.
    """
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches, parts, frequency = trainer.num_training_batches, trainer.accumulate_grad_batches, int(frequency)
    epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else math.inf
    steps = trainer.max_steps if (trainer.max_steps or -1) > 0 else math.inf
    if batches == math.inf and interval == "epoch" and steps == math.inf > epochs:
        return 1 + (int(epochs) - 1) // frequency
    batches = min(batches, steps * parts)  # a stream's end nobody knows
    ends = math.inf if batches == math.inf else -(-batches // parts)  # optimiser steps of an epoch
    steps = min(steps, epochs * ends)
    if steps == math.inf:
        raise InputError(f"scheduler: {TOTAL} is not known of a stream of batches; give trainer.max_steps")
    whole, rest = divmod(int(steps) - 1, int(ends))  # epochs and steps before the last step
    if interval == "epoch":
        return 1 + whole // frequency
    each = [batch % frequency == 0 for batch in (*range(parts, batches, parts), batches)]
    return 1 + whole * sum(each) + sum(each[:rest])


def _refuse_unknown_end(trainer: Any) -> None:
    """Refuse what makes the number of a run's steps unknown before they are taken."""
    for callback in trainer.callbacks:
        if isinstance(callback, (Timer, GradientAccumulationScheduler)):
            what = "trainer.max_time" if isinstance(callback, Timer) else type(callback).__name__
            raise InputError(f"scheduler: under {what} {TOTAL} is not known beforehand; give numbers in its place")


# Either


def _find(part: str, target: str) -> Any:
    """Return the class or function of a name."""
    try:
        found = get_object(target)
    except Exception as error:  # of the import, too
        raise InputError(f"{part}: there is no {target} ({error.__cause__ or error})") from error
    if not callable(found):
        raise InputError(f"{part}: {target} is neither a class nor a function")
    return found


def _parameters(maker: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(maker).parameters
    except (TypeError, ValueError):  # of some written in C
        return {}


def _make(part: str, target: str, *given: Any, **settings: Any) -> Any:
    """Return what a class or a function makes; what it refuses is told in one line."""
    maker = _find(part, target)
    parameters = _parameters(maker)
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        _refuse_unknown(part, target, [name for name in settings if name not in parameters])
    try:
        return maker(*given, **settings)
    except Exception as error:  # a function may raise anything
        told = " ".join(str(error).split()) or type(error).__name__
        hint = "; set scheduler.cycle_momentum=false" if "cycle_momentum" in told else ""
        named = [name for name in settings if re.search(rf"\b{name}\b", told, re.IGNORECASE)]
        what = f"{part}.{named[0]}={show(settings[named[0]])}" if named else part
        raise InputError(f"{what}: {target} does not take these settings: {told}{hint}") from error


def _refuse_unknown(part: str, target: str, names: list[str]) -> None:
    """Refuse settings of these names, which a class does not take."""
    if names:
        told = ", ".join(f"{part}.{name}" for name in names)
        how = " ".join(f"'~{part}.{name}'" for name in names)
        raise InputError(f"{told}: {target} takes no such setting{'s'[: len(names) != 1]}; leave out: {how}")
