"""Run many optimiser steps in one ``training_step``: Lightning's work per call exceeds that of a small net's step.

A chunk has the batches of four logging intervals. Its steps equal separate steps bit for bit, and are counted like
them. `make bench` compares their time with a bare loop's.
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

# Hooks that Lightning would call for each single step, and that a chunk does not call.
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
LOOKS = 4  # times that losses are logged per chunk
SIZE = "their size, of which Lightning's work is a small part"
OWN_HOOKS = ("training_step", "configure_optimizers", "scheduler")  # of `SupervisedModule`
HARMLESS = (ProgressBar, LearningRateMonitor, EarlyStopping)  # Lightning's callbacks that work with chunks


def why_one_by_one(trainer: Any, model: Any, ours: type, operations: int) -> str | None:
    """Return the reason why steps cannot be taken in chunks, as text; ``None`` if they can.

    Args:
        trainer: the trainer, with its callbacks and limits.
        model: an instance of ``ours`` or of a subclass.
        ours: the class whose hooks work with chunks.
        operations: floating-point operations of one forward pass of a batch; 0: unknown.
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
    """Return True if a limit or an interval is a number of steps or batches, or a fraction of them."""
    limits = (trainer.limit_train_batches, trainer.val_check_interval)
    unlimited = all(isinstance(limit, float) and limit == 1.0 for limit in limits)  # the int 1 is one batch
    return not unlimited or trainer.max_steps != -1 or bool(trainer.min_steps) or bool(trainer.overfit_batches)


def sees_steps(callback: Callback) -> bool:
    """Return True if a callback acts at each step, or is one of Lightning's that may change the steps."""
    if getattr(callback, "takes_chunks", False):
        return False
    base = next(parent for parent in type(callback).__mro__ if parent.__module__.startswith("lightning."))
    unknown = base not in (Callback, Checkpoint) and not issubclass(base, HARMLESS)
    every_step = getattr(callback, "logging_interval", None) == "step"
    return unknown or every_step or overrides(callback, base, CALLBACK_HOOKS)


def overrides(thing: object, base: type, hooks: Iterable[str]) -> bool:
    """Return True if an object or its class overrides any of these hooks of a base class."""
    assigned = vars(thing).keys() & set(hooks)
    return bool(assigned) or any(getattr(type(thing), hook, None) is not getattr(base, hook, None) for hook in hooks)


@torch.no_grad()
def take_steps(model: Any, chunk: Chunk) -> None:
    """Take an optimiser step on each batch of a chunk, in order."""
    trainer, optimizer = model.trainer, model.optimizers(use_pl_optimizer=False)
    refuse_late(trainer)
    step, results, count = choose_step(model, optimizer), trainer._results, 0
    for batch in chunk.parts():
        if trainer.received_sigterm:
            raise SIGTERMException
        results.batch, results.batch_size = batch, None  # for calls of self.log() in a model
        step(batch, chunk.prepare)
        count += 1
        if count % trainer.log_every_n_steps == 0:
            model.look_at_losses()
    optimizer._opt_called = True  # else schedulers warn that they are stepped before the optimiser
    count_steps(trainer, count)
    if model.unread:
        model.look_at_losses()
    # With manual optimisation Lightning leaves the schedules, which are per epoch here, to the module.
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        for config in trainer.lr_scheduler_configs:
            if (trainer.current_epoch + 1) % config.frequency == 0:
                config.scheduler.step()


def refuse_late(trainer: Any) -> None:
    """Refuse settings that a callback has changed after training started, and that chunks do not support.

    Raises:
        InputError: if there is one; names the setting to use instead.
    """
    for name, value in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
        if (chosen := getattr(trainer, name)) != value:
            remedy = f"give trainer.{name}={chosen}, or have the callback look at each step (on_train_batch_start)"
            raise InputError(f"a callback set trainer.{name} to {chosen} while steps are taken in chunks: {remedy}")


def choose_step(model: Any, optimizer: Any) -> Callable[[Samples, Callable[[Tensor], Tensor]], None]:
    """Return the function that takes a step on a stored batch: on a GPU a `GraphStep` if possible."""
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
    """Take an optimiser step on a stored batch; ``prepare`` is the transform of its inputs."""
    # Copy the batch, since sums over a tensor with another memory alignment are rounded differently.
    prepared = Samples(prepare(batch.inputs.clone()), batch.targets.clone())
    step(partial(gradient, model, weights, prepared, model.batches))


def bare_step(optimizer: Any) -> Callable[[Callable[[], Tensor]], Any]:
    """Return an optimiser's step function; if it is torch's, without the wrapper for the profiler and for hooks."""
    # The wrapper takes 40 µs, a sixth of a small net's step. It must stay if there are hooks to call.
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, *GLOBAL_HOOKS)
    if any(hooks) or optimizer.defaults.get("differentiable") or not is_torchs(type(optimizer).step):
        return optimizer.step
    return partial(inspect.unwrap(type(optimizer).step), optimizer)


def is_torchs(method: Any) -> bool:
    return str(method.__module__).startswith("torch.optim.")


def gradient(model: Any, weights: list[Tensor], batch: Any, number: int) -> Tensor:
    """Set the weights' gradients of a batch, and return the objective; ``number`` is its index in the epoch."""
    objective: Tensor = model.step_loss(batch, number)
    gradients = torch.autograd.grad(objective, weights, allow_unused=True)  # new tensors: nothing to zero or add to
    for weight, its_gradient in zip(weights, gradients, strict=True):
        weight.grad = its_gradient
    return objective


def count_steps(trainer: Any, count: int) -> None:
    """Add the steps of a chunk to Lightning's counters, which count a chunk as one step."""
    loop = trainer.fit_loop.epoch_loop
    for progress in (
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ):
        for counter in (progress.total, progress.current):
            counter.ready += count
            counter.completed += count
    loop._batches_that_stepped += count - 1


def same_count(trainer: Any) -> None:
    """Set Lightning's two step counters to the larger one, when a run is resumed."""
    # Lightning has one counter for manual and one for automatic optimisation. A resumed run may take its steps in
    # another way than before, and would then count from 0.
    loop = trainer.fit_loop.epoch_loop
    manual, automatic = (
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    )
    for name in ("ready", "completed"):
        count = max(getattr(manual.total, name), getattr(automatic.total, name))
        setattr(manual.total, name, count)
        setattr(automatic.total, name, count)
