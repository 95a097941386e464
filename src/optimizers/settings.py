"""Build optimisers and learning rate schedules from their settings, and count how often a schedule is stepped."""

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

from src.core.checks import format_value
from src.core.errors import InputError
from src.storage.moved import update_names
from src.storage.trust import can_name_function

Settings = dict[str, Any]
FUSED_OPTIMIZERS = (Adam, SGD)  # have one kernel for all parameters on FUSED_ON; AdamW is an Adam
FUSED_DEVICES = ("cpu", "cuda")
LIGHTNING_KEYS = (
    "interval",
    "frequency",
    "monitor",
    "strict",
    "name",
    "reduce_on_plateau",
)  # keys that Lightning reads
MONITOR_KEYS = ("monitor", "strict")  # only for a schedule that follows a metric
TOTAL_STEPS, LEARNING_RATES = (
    "total_steps",
    "lr",
)  # as values of a schedule's settings: placeholders for numbers of the run

# Optimisers


def make_optimizer(settings: Settings, get_groups: Callable[[float], list[Settings]], device: str) -> Optimizer:
    """Build an optimiser.

    Args:
        settings: ``{"_target_": a class or a function, "lr": 0.001, …}``; ``"fused": None`` means: if the
            device supports it.
        get_groups: returns the parameter groups for a learning rate, see `SupervisedModule.parameter_groups`.
        device: "cpu", "cuda" or another.

    Raises:
        InputError: for settings that it does not accept.
    """
    settings = update_names(dict(settings))
    target = settings.pop("_target_")
    maker = _find_callable("optimizer", target)
    if settings.get("fused", ...) is None:
        del settings["fused"]
        if isinstance(maker, type) and issubclass(maker, FUSED_OPTIMIZERS) and "fused" in _get_parameters(maker):
            settings["fused"] = device in FUSED_DEVICES
    optimizer = _instantiate_checked("optimizer", target, _make_groups(get_groups, maker, settings), **settings)
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer: {target} returns no optimizer, but {type(optimizer).__name__}")
    if isinstance(optimizer, SparseAdam):
        raise InputError(
            f"optimizer: {target} works with sparse gradients only, and there are none here; use optimizer=adam"
        )
    disable_fused_unscaling(optimizer)
    return optimizer


def disable_fused_unscaling(optimizer: Optimizer) -> None:
    """Have the gradients of mixed precision unscaled before they are clipped and logged, not in the step.

    Fused optimisers would unscale them in the step, and Lightning therefore never clips their gradients.
    """
    if hasattr(optimizer, "_step_supports_amp_scaling"):
        optimizer._step_supports_amp_scaling = False


def check_precision(optimizer: Optimizer, precision: str) -> None:
    """Refuse an optimiser that does not work in a precision.

    Raises:
        InputError: if it does not; names settings that work.
    """
    if isinstance(optimizer, LBFGS) and precision in ("16-mixed", "16-true"):
        raise InputError(f"trainer.precision={precision}: LBFGS does not work in float16; use 32-true")
    groups = optimizer.param_groups
    half = any(weight.dtype == torch.float16 for group in groups for weight in group["params"])
    eps = [group["eps"] for group in groups if isinstance(group.get("eps"), float)]
    if half and any(torch.tensor(value, dtype=torch.float16) == 0 for value in eps):
        reason = f"{type(optimizer).__name__} would divide by 0, since optimizer.eps={min(eps)} is 0 in float16"
        raise InputError(f"trainer.precision={precision}: {reason}; use bf16-true, 16-mixed, or +optimizer.eps=1e-4")


def _make_groups(get_groups: Callable[[float], list[Settings]], factory: Any, settings: Settings) -> list[Settings]:
    """Return the parameter groups with their learning rates, or without them if the optimiser takes none."""
    parameters = _get_parameters(factory)
    default = parameters["lr"].default if "lr" in parameters else inspect.Parameter.empty
    lr = settings.get("lr", None if default is inspect.Parameter.empty else default)
    if lr is not None:
        return get_groups(lr)
    groups = get_groups(1.0)
    if "lr" in parameters or len(groups) > 1:
        raise InputError("optimizer.lr is missing")
    return [{"params": group["params"]} for group in groups]


# Schedules of the learning rate


def make_schedule(settings: Settings, optimizer: Optimizer, trainer: Any) -> Settings:
    """Build a schedule of an optimiser's learning rate, as a dictionary for Lightning.

    Args:
        settings: ``{"_target_": a class or a function, "interval": "step" or "epoch", …}``. Among its values
            "total_steps" stands for the number of times that the schedule is stepped, "lr" for the optimiser's learning
            rates, and the dotted name of a function for that function, if the parameter is a callable. Nested schedules
            are built too.
        optimizer: the optimiser whose learning rate changes.
        trainer: a Trainer or a stand-in, from which the number of steps is computed.

    Raises:
        InputError: for settings that it does not accept, or that would have no effect.
    """
    settings = update_names(dict(settings))
    if "_target_" not in settings:
        raise InputError(f"scheduler.{next(iter(settings))}: no scheduler is chosen; choose scheduler=…")
    # Separate Lightning's keys from the arguments of the schedule itself.
    config: Settings = {name: settings[name] for name in LIGHTNING_KEYS if settings.get(name) is not None}
    config.setdefault("interval", "epoch")
    config.setdefault("frequency", 1)
    arguments = {name: value for name, value in settings.items() if name not in LIGHTNING_KEYS}
    total = None
    if has_total_steps(arguments):
        _refuse_unknown_end(trainer)
        total = count_learning_rates(trainer, config["interval"], config["frequency"])
    schedule = _build_schedule(arguments, optimizer, total)
    if isinstance(schedule, ReduceLROnPlateau) or config.get("reduce_on_plateau"):
        config["frequency"] = _resolve_monitor_frequency(settings, config, trainer)
    elif extra := [name for name in MONITOR_KEYS if name in config]:
        raise InputError(f"scheduler.{extra[0]}: {arguments['_target_']} watches no metric; leave it out")
    if isinstance(schedule, OneCycleLR):
        needed = count_learning_rates(trainer, config["interval"], config["frequency"])
        if schedule.total_steps < needed:
            setting = f"scheduler.total_steps={schedule.total_steps}"
            raise InputError(f"{setting}: the run takes {needed}; give as many, or {TOTAL_STEPS}")
    return config | {"scheduler": schedule}


def _resolve_monitor_frequency(settings: Settings, config: Settings, trainer: Any) -> int:
    """Return after how many epochs (or steps) a schedule reads its metric: by default whenever it is measured."""
    if "monitor" not in config:
        raise InputError("scheduler.monitor is missing: the metric that it watches, such as val/loss")
    validated = (trainer.check_val_every_n_epoch or 1) if config["monitor"].startswith("val") else 1
    if config["interval"] == "step":
        if config.get("strict", True):
            reason = f"scheduler.interval=step: {config['monitor']} is not measured at each step"
            raise InputError(f"{reason}; use interval=epoch, or +scheduler.strict=false")
        return int(config["frequency"])
    if settings.get("frequency") is None:
        return int(validated)
    if config["frequency"] % validated and config.get("strict", True):
        raise InputError(
            f"scheduler.frequency={config['frequency']}: {config['monitor']} is measured every {validated} "
            "epochs; give a "
            "multiple of trainer.check_val_every_n_epoch"
        )
    return int(config["frequency"])


def _build_schedule(settings: Settings, optimizer: Optimizer, total_steps: int | None) -> LRScheduler:
    """Return a schedule that is stepped ``total_steps`` times; the parts of a sequence divide these steps."""
    target, arguments = settings["_target_"], {name: value for name, value in settings.items() if name != "_target_"}
    maker = _find_callable("scheduler", target)
    parameters = _get_parameters(maker)
    if maker is SequentialLR and total_steps is not None:
        arguments["schedulers"] = _build_sequence(arguments, optimizer, total_steps)
    for name, value in arguments.items():
        function = name in parameters and "Callable" in str(parameters[name].annotation)
        arguments[name] = _resolve_value(value, optimizer, total_steps, function)
    positional: tuple[Any, ...] = ()
    if "optimizer" in parameters:
        arguments["optimizer"] = optimizer
    else:
        positional = (optimizer,)
    schedule: LRScheduler = _instantiate_checked("scheduler", target, *positional, **arguments)
    if not isinstance(schedule, LRScheduler):
        raise InputError(f"scheduler: {target} returns no learning rate schedule, but {type(schedule).__name__}")
    try:
        schedule.state_dict()
    except AttributeError as error:
        reason = "its functions cannot be saved in a checkpoint; use functions written in Python"
        raise InputError(f"scheduler: {target}: {reason} ({error})") from error
    return schedule


def _build_sequence(settings: Settings, optimizer: Optimizer, total_steps: int) -> list[Any]:
    """Return the schedules of a sequence, each built for the number of steps between its milestones."""
    ends = [*settings.get("milestones", []), total_steps]
    if any(not isinstance(end, int) for end in ends) or ends != sorted(set(ends)):
        raise InputError(
            f"scheduler.milestones={ends[:-1]}: give increasing numbers of steps, below the run's {total_steps}"
        )
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    parts = zip(settings.get("schedulers", []), lengths, strict=False)
    return [_resolve_value(part, optimizer, length, is_function=False) for part, length in parts]


def _resolve_value(value: Any, optimizer: Optimizer, total_steps: int | None, is_function: bool) -> Any:
    """Return a value of a schedule's settings, with placeholders, functions and nested schedules resolved."""
    if isinstance(value, Mapping) and "_target_" in value:
        if _is_schedule(value["_target_"]):
            return _build_schedule(dict(value), optimizer, total_steps)
        return instantiate(dict(value))
    if isinstance(value, list):
        return [_resolve_value(item, optimizer, total_steps, is_function) for item in value]
    if value == TOTAL_STEPS and isinstance(value, str):
        return total_steps
    if value == LEARNING_RATES and isinstance(value, str):
        return [group["lr"] for group in optimizer.param_groups]
    return _find_callable("scheduler", value) if is_function and can_name_function(value) else value


def _is_schedule(target: str) -> bool:
    found = _find_callable("scheduler", target)
    return isinstance(found, type) and issubclass(found, LRScheduler)


def has_total_steps(settings: Any) -> bool:
    """Return True if a schedule, or one nested in it, depends on the run's number of steps."""
    if isinstance(settings, (str, int, float)) or settings is None:
        return bool(settings == TOTAL_STEPS)
    values: Iterable[Any] = settings.values() if isinstance(settings, Mapping) else settings
    return any(map(has_total_steps, values))


def count_learning_rates(trainer: Any, interval: str, frequency: int) -> int:
    """Return the number of successive learning rates in a run that is not stopped early.

    Lightning steps a schedule after every ``frequency``-th epoch, or, with ``interval`` "step", after each optimiser
    step whose batch number in its epoch is a multiple of ``frequency``. A learning rate lasts from one of these to the
    next.

    Raises:
        InputError: if the number cannot be known in advance.
    """
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    chunked = getattr(trainer.train_dataloader, "batches", None)  # Lightning counts chunks of them
    batches = trainer.num_training_batches if chunked is None else len(chunked)
    parts, frequency = trainer.accumulate_grad_batches, int(frequency)
    epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else math.inf
    steps = trainer.max_steps if (trainer.max_steps or -1) > 0 else math.inf
    if batches == math.inf and interval == "epoch" and steps == math.inf > epochs:
        return 1 + (int(epochs) - 1) // frequency
    batches = min(batches, steps * parts)  # infinite for a stream of unknown length
    ends = math.inf if batches == math.inf else -(-batches // parts)  # optimiser steps of an epoch
    steps = min(steps, epochs * ends)
    if steps == math.inf:
        raise InputError(f"scheduler: {TOTAL_STEPS} is not known for a stream of batches; give trainer.max_steps")
    whole, rest = divmod(int(steps) - 1, int(ends))  # epochs and steps before the last step
    if interval == "epoch":
        return 1 + whole // frequency
    # True for each optimiser step of an epoch after which Lightning steps the schedule.
    changes = [batch % frequency == 0 for batch in (*range(parts, batches, parts), batches)]
    return 1 + whole * sum(changes) + sum(changes[:rest])


def _refuse_unknown_end(trainer: Any) -> None:
    """Refuse callbacks that make the number of a run's steps unknown in advance."""
    for callback in trainer.callbacks:
        if isinstance(callback, (Timer, GradientAccumulationScheduler)):
            cause = "trainer.max_time" if isinstance(callback, Timer) else type(callback).__name__
            raise InputError(f"scheduler: under {cause} {TOTAL_STEPS} is not known in advance; give a number instead")


# Shared by optimisers and schedules


def _find_callable(group: str, target: str) -> Any:
    """Return the class or function with a dotted name."""
    try:
        found = get_object(target)
    except Exception as error:  # the import may raise anything
        raise InputError(f"{group}: there is no {target} ({error.__cause__ or error})") from error
    if not callable(found):
        raise InputError(f"{group}: {target} is neither a class nor a function")
    return found


def _get_parameters(factory: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some that are written in C have no signature
        return {}


def _instantiate_checked(group: str, target: str, *arguments: Any, **settings: Any) -> Any:
    """Return what a class or function makes of settings.

    Raises:
        InputError: if it raises an error, or does not take a setting; the message is one line.
    """
    maker = _find_callable(group, target)
    parameters = _get_parameters(maker)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        _refuse_unknown_settings(group, target, [name for name in settings if name not in parameters])
    try:
        return maker(*arguments, **settings)
    except Exception as error:  # a function may raise anything
        message = " ".join(str(error).split()) or type(error).__name__
        hint = "; set scheduler.cycle_momentum=false" if "cycle_momentum" in message else ""
        named = [name for name in settings if re.search(rf"\b{name}\b", message, re.IGNORECASE)]
        subject = f"{group}.{named[0]}={format_value(settings[named[0]])}" if named else group
        raise InputError(f"{subject}: {target} does not take these settings: {message}{hint}") from error


def _refuse_unknown_settings(group: str, target: str, names: list[str]) -> None:
    """Refuse settings by their names, if there are any."""
    if names:
        unknown = ", ".join(f"{group}.{name}" for name in names)
        overrides = " ".join(f"'~{group}.{name}'" for name in names)
        raise InputError(f"{unknown}: {target} has no such setting{'s'[: len(names) != 1]}; leave out: {overrides}")
