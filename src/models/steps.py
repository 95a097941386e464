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

from src.core.devices import get_small_step
from src.core.errors import InputError
from src.data.base import Chunk, Samples
from src.models.graphs import GraphStep, can_record
from src.optimizers.settings import has_total_steps

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
LOGS_PER_CHUNK = 4  # times that losses are logged per chunk
SIZE_REASON = "their size, compared with which Lightning's overhead is small"
SUPERVISED_HOOKS = ("training_step", "configure_optimizers", "build_scheduler")  # of `SupervisedModule`
CHUNK_SAFE_CALLBACKS = (ProgressBar, LearningRateMonitor, EarlyStopping)  # Lightning's callbacks that work with chunks


def find_chunking_blocker(trainer: Any, model: Any, base_class: type, operations: int) -> str | None:
    """Return the reason why steps cannot be taken in chunks, as text; ``None`` if they can.

    Args:
        trainer: the trainer, with its callbacks and limits.
        model: an instance of ``base_class`` or of a subclass.
        base_class: the class whose hooks work with chunks.
        operations: floating-point operations of one forward pass of a batch; 0: unknown.
    """
    schedule = model.scheduler_settings or {}
    reasons = {
        SIZE_REASON: not 0 < operations < get_small_step(trainer.strategy.root_device.type),
        "several processes": trainer.world_size > 1,
        f"precision {trainer.precision}": trainer.precision != "32-true",
        "gradient accumulation": trainer.accumulate_grad_batches != 1,
        "gradient clipping": trainer.gradient_clip_val is not None,
        "a number of steps or batches": _has_batch_limits(trainer),
        "a profiler": not isinstance(trainer.profiler, PassThroughProfiler),
        "the loss of each step": trainer.log_every_n_steps < 2,
        "a schedule of the learning rate step by step": schedule.get("interval") == "step",
        "a schedule made for a number of steps": has_total_steps(schedule),
        "a schedule that watches a metric": bool(schedule.get("monitor")),
        type(model).__name__: has_custom_hooks(model, LightningModule, MODULE_HOOKS)
        or has_custom_hooks(model, base_class, SUPERVISED_HOOKS),
    }
    for callback in trainer.callbacks:
        reasons[type(callback).__name__] = _has_step_hooks(callback)
    return next((reason for reason, holds in reasons.items() if holds), None)


def _has_batch_limits(trainer: Any) -> bool:
    """Return True if a limit or an interval is a number of steps or batches, or a fraction of them."""
    limits = (trainer.limit_train_batches, trainer.val_check_interval)
    unlimited = all(isinstance(limit, float) and limit == 1.0 for limit in limits)  # the int 1 is one batch
    return not unlimited or trainer.max_steps != -1 or bool(trainer.min_steps) or bool(trainer.overfit_batches)


def _has_step_hooks(callback: Callback) -> bool:
    """Return True if a callback acts at each step, or is one of Lightning's that may change the steps."""
    if getattr(callback, "takes_chunks", False):
        return False
    base = next(parent for parent in type(callback).__mro__ if parent.__module__.startswith("lightning."))
    unknown = base not in (Callback, Checkpoint) and not issubclass(base, CHUNK_SAFE_CALLBACKS)
    every_step = getattr(callback, "logging_interval", None) == "step"
    return unknown or every_step or has_custom_hooks(callback, base, CALLBACK_HOOKS)


def has_custom_hooks(instance: object, base: type, hooks: Iterable[str]) -> bool:
    """Return True if an object or its class overrides any of these hooks of a base class."""
    assigned = vars(instance).keys() & set(hooks)
    return bool(assigned) or any(getattr(type(instance), hook, None) is not getattr(base, hook, None) for hook in hooks)


@torch.no_grad()
def run_optimizer_steps(model: Any, chunk: Chunk) -> None:
    """Take an optimiser step on each batch of a chunk, in order."""
    trainer, optimizer = model.trainer, model.optimizers(use_pl_optimizer=False)
    _refuse_late_settings(trainer)
    step, results, count = _choose_step_function(model, optimizer), trainer._results, 0
    for batch in chunk.split_batches():
        if trainer.received_sigterm:
            raise SIGTERMException
        results.batch, results.batch_size = batch, None  # for calls of self.log() in a model
        step(batch, chunk.prepare)
        count += 1
        if count % trainer.log_every_n_steps == 0:
            model.log_losses()
    optimizer._opt_called = True  # else schedulers warn that they are stepped before the optimiser
    _add_step_counts(trainer, count)
    if model.pending_batches:
        model.log_losses()
    # With manual optimisation Lightning leaves the schedules, which are per epoch here, to the module.
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        for config in trainer.lr_scheduler_configs:
            if (trainer.current_epoch + 1) % config.frequency == 0:
                config.scheduler.step()


def _refuse_late_settings(trainer: Any) -> None:
    """Refuse settings that a callback has changed after training started, and that chunks do not support.

    Raises:
        InputError: if there is one; names the setting to use instead.
    """
    for name, value in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
        if (chosen := getattr(trainer, name)) != value:
            remedy = f"give trainer.{name}={chosen}, or give the callback an on_train_batch_start hook"
            raise InputError(f"a callback set trainer.{name} to {chosen} while steps are taken in chunks: {remedy}")


def _choose_step_function(model: Any, optimizer: Any) -> Callable[[Samples, Callable[[Tensor], Tensor]], None]:
    """Return the function that takes a step on a stored batch: on a GPU a `GraphStep` if possible."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
    take = partial(_run_optimizer_step, model, _unwrap_step(optimizer), weights)
    if not (model.uses_cuda_graphs and can_record(optimizer, model.device)):
        return take
    if model.graph_step is None or model.graph_step.optimizer is not optimizer:
        model.graph_step = GraphStep(optimizer, take, model.pending_batches)
    return model.graph_step


def _run_optimizer_step(
    model: Any,
    step: Callable[[Callable[[], Tensor]], Any],
    weights: list[Tensor],
    batch: Samples,
    prepare: Callable[[Tensor], Tensor],
) -> None:
    """Take an optimiser step on a stored batch; ``prepare`` is the transform of its inputs."""
    # Copy the batch, since sums over a tensor with another memory alignment are rounded differently.
    prepared = Samples(prepare(batch.inputs.clone()), batch.targets.clone())
    step(partial(_compute_gradient, model, weights, prepared, model.num_batches))


def _unwrap_step(optimizer: Any) -> Callable[[Callable[[], Tensor]], Any]:
    """Return an optimiser's step function; if it is torch's, without the wrapper for the profiler and for hooks."""
    # The wrapper takes 40 µs, a sixth of a small net's step. It must stay if there are hooks to call.
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, *GLOBAL_HOOKS)
    if any(hooks) or optimizer.defaults.get("differentiable") or not _is_torch_method(type(optimizer).step):
        return optimizer.step
    return partial(inspect.unwrap(type(optimizer).step), optimizer)


def _is_torch_method(method: Any) -> bool:
    return str(method.__module__).startswith("torch.optim.")


def _compute_gradient(model: Any, weights: list[Tensor], batch: Any, batch_index: int) -> Tensor:
    """Set the weights' gradients of a batch, and return the objective; ``batch_index`` is its index in the epoch."""
    objective: Tensor = model.compute_step_objective(batch, batch_index)
    gradients = torch.autograd.grad(objective, weights, allow_unused=True)  # new tensors: nothing to zero or add to
    for weight, its_gradient in zip(weights, gradients, strict=True):
        weight.grad = its_gradient
    return objective


def _add_step_counts(trainer: Any, count: int) -> None:
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


def sync_step_counters(trainer: Any) -> None:
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
