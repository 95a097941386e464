"""Many optimiser steps in one ``training_step``: what Lightning does around each takes longer than a small net's own.

A chunk is the batches up to the fourth look at the losses from here. The steps in it are those that would be taken
one by one, bit for bit, and counted like those. How long they take beside a bare loop's, `make bench` says.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from src.core.devices import small_step
from src.core.errors import InputError
from src.data.base import Chunk, Samples
from src.models.graphs import GraphStep, can_record
from src.optimizers.settings import is_planned

# What would have to be called for each single step.
CALLBACK_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
MODULE_HOOKS = (
    *CALLBACK_HOOKS,
    "backward",
    "configure_callbacks",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "on_before_batch_transfer",
    "optimizer_step",
    "optimizer_zero_grad",
    "toggle_optimizer",
)
GLOBAL_HOOKS = (torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks)
LOOKS = 4  # at the losses in a chunk: the progress bar moves on after each
SIZE = "their size, of which Lightning's work is a small part"
OWN_HOOKS = ("training_step", "configure_optimizers", "scheduler")  # those of `SupervisedModule`
HARMLESS = (ProgressBar, LearningRateMonitor, EarlyStopping)  # Lightning's, to which a chunk is as good


def why_one_by_one(trainer: Any, model: Any, ours: type, operations: int) -> str | None:
    """What needs each step by itself, in words; ``None`` if nothing does.

    Args:
        trainer: with its callbacks and limits.
        model: of the class ``ours``, or of one made from it.
        ours: the class whose hooks are known.
        operations: floating-point operations of one forward pass of a batch; 0: not known.
    """
    schedule = model.scheduler_settings or {}
    reasons = {
        SIZE: not 0 < operations < small_step(trainer.strategy.root_device.type),
        "several processes": trainer.world_size > 1,
        f"precision {trainer.precision}": trainer.precision != "32-true",
        "gradient accumulation": trainer.accumulate_grad_batches != 1,
        "gradient clipping": trainer.gradient_clip_val is not None,
        "a number of steps or batches": counts_batches(trainer),
        "a profiler": not isinstance(trainer.profiler, PassThroughProfiler),
        "the loss of each step": trainer.log_every_n_steps < 2,
        "a schedule of the learning rate step by step": schedule.get("interval") == "step",
        "a schedule made for a number of steps": is_planned(schedule),
        "a schedule that watches a metric": bool(schedule.get("monitor")),
        type(model).__name__: overrides(model, LightningModule, MODULE_HOOKS) or overrides(model, ours, OWN_HOOKS),
    }
    for callback in trainer.callbacks:
        reasons[type(callback).__name__] = sees_steps(callback)
    return next((reason for reason, holds in reasons.items() if holds), None)


def counts_batches(trainer: Any) -> bool:
    """Whether a limit or an interval is a number of steps or batches, or a share of them."""
    parts = (trainer.limit_train_batches, trainer.val_check_interval)
    whole = all(isinstance(part, float) and part == 1.0 for part in parts)  # the int 1 is one batch
    return not whole or trainer.max_steps != -1 or bool(trainer.min_steps) or bool(trainer.overfit_batches)


def sees_steps(callback: Callback) -> bool:
    """Whether a callback looks at each step, or is one of Lightning's that may change how steps are taken."""
    if getattr(callback, "takes_chunks", False):
        return False
    base = next(kind for kind in type(callback).__mro__ if kind.__module__.startswith("lightning."))
    theirs = base not in (Callback, Checkpoint) and not issubclass(base, HARMLESS)
    each = getattr(callback, "logging_interval", None) == "step"
    return theirs or each or overrides(callback, base, CALLBACK_HOOKS)


def overrides(thing: object, base: type, hooks: Iterable[str]) -> bool:
    """Whether a class of one's own has any of these hooks of its base class, or an object got one later."""
    own = vars(thing).keys() & set(hooks)
    return bool(own) or any(getattr(type(thing), hook, None) is not getattr(base, hook, None) for hook in hooks)


@torch.no_grad()
def take_steps(model: Any, chunk: Chunk) -> None:
    """An optimiser step for each batch of a chunk, in order."""
    trainer, optimizer = model.trainer, model.optimizers(use_pl_optimizer=False)
    refuse_late(trainer)
    step, results, count = choose_step(model, optimizer), trainer._results, 0
    for batch in chunk.parts():
        if trainer.received_sigterm:
            raise SIGTERMException
        results.batch, results.batch_size = batch, None  # what a model's own log() counts
        step(batch, chunk.prepare)
        count += 1
        if count % trainer.log_every_n_steps == 0:
            model.look_at_losses()
    optimizer._opt_called = True  # schedulers complain if they are asked before the optimiser was
    count_steps(trainer, count)
    if model.unread:
        model.look_at_losses()
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        for config in trainer.lr_scheduler_configs:
            if (trainer.current_epoch + 1) % config.frequency == 0:
                config.scheduler.step()


def refuse_late(trainer: Any) -> None:
    """Refuse ways to take steps that a callback has chosen after training began, which steps in chunks do not have.

    Raises:
        InputError: naming the setting to choose them with.
    """
    for name, value in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
        if (chosen := getattr(trainer, name)) != value:
            how = f"give trainer.{name}={chosen}, or have the callback look at each step (on_train_batch_start)"
            raise InputError(f"a callback set trainer.{name} to {chosen} while steps are taken in chunks: {how}")


def choose_step(model: Any, optimizer: Any) -> Callable[[Samples, Callable[[Tensor], Tensor]], None]:
    """Return what takes a step on a batch as it is kept: on a GPU a recorded one where that can be."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
    take = partial(take_step, model, bare_step(optimizer), weights)
    if not (model.records_steps and can_record(optimizer, model.device)):
        return take
    if model.graph_step is None or model.graph_step.optimizer is not optimizer:
        model.graph_step = GraphStep(optimizer, take, model.unread)
    return model.graph_step


def take_step(
    model: Any,
    step: Callable[[Callable[[], Tensor]], Any],
    weights: list[Tensor],
    batch: Samples,
    prepare: Callable[[Tensor], Tensor],
) -> None:
    """Take an optimiser step on a batch as it is kept."""
    # Copies: where a tensor begins elsewhere in memory its sums are rounded in another way.
    prepared = Samples(prepare(batch.inputs.clone()), batch.targets.clone())
    step(partial(gradient, model, weights, prepared, model.batches))


def bare_step(optimizer: Any) -> Callable[[Callable[[], Tensor]], Any]:
    """An optimiser's step; one of torch's without what wraps it for the profiler and for hooks, if there are none.

    That takes 40 µs: of a small net's step a sixth.
    """
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, *GLOBAL_HOOKS)
    if any(hooks) or optimizer.defaults.get("differentiable") or not is_torchs(type(optimizer).step):
        return optimizer.step
    return partial(inspect.unwrap(type(optimizer).step), optimizer)


def is_torchs(method: Any) -> bool:
    return str(method.__module__).startswith("torch.optim.")


def gradient(model: Any, weights: list[Tensor], batch: Any, number: int) -> Tensor:
    """Put the gradient of a batch, by its number in the epoch, in place; returns what it descends on."""
    objective: Tensor = model.step_loss(batch, number)
    gradients = torch.autograd.grad(objective, weights, allow_unused=True)  # at once, without adding to zeros
    for weight, its_gradient in zip(weights, gradients, strict=True):
        weight.grad = its_gradient
    return objective


def count_steps(trainer: Any, count: int) -> None:
    """Count steps as Lightning does, which counts those of a chunk as one."""
    loop = trainer.fit_loop.epoch_loop
    for progress in (
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ):
        for part in (progress.total, progress.current):
            part.ready += count
            part.completed += count
    loop._batches_that_stepped += count - 1


def same_count(trainer: Any) -> None:
    """A resumed run counts on from where it was, whichever way it took its steps before."""
    loop = trainer.fit_loop.epoch_loop
    one, other = loop.manual_optimization.optim_step_progress, loop.automatic_optimization.optim_progress.optimizer.step
    for name in ("ready", "completed"):
        most = max(getattr(one.total, name), getattr(other.total, name))
        setattr(one.total, name, most)
        setattr(other.total, name, most)
