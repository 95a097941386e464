"""Run many optimiser steps in one ``training_step``: Lightning's work per call exceeds that of a small net's step.

A chunk has the batches of four logging intervals. Its steps equal separate steps bit for bit, and are counted like
them. `make bench` compares their time with a bare loop's.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from src.core.errors import InputError
from src.data.loading.batches import Chunk
from src.data.loading.samples import Samples
from src.models.graphs import GraphStep, Prepare, can_record, copy_batch

# Hooks on all optimisers, which torch's wrapper of `step` calls; torch has no public way to ask for them.
GLOBAL_HOOKS = (torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks)


@torch.no_grad()
def run_optimizer_steps(model: Any, chunk: Chunk) -> None:
    """Take an optimiser step on each batch of a chunk, in order."""
    trainer, optimizer = model.trainer, model.optimizers(use_pl_optimizer=False)
    _refuse_late_settings(trainer)
    step, count = _choose_step_function(model, optimizer, chunk), 0
    by_step, by_epoch = _group_schedules(trainer)
    results = trainer._results  # where Lightning keeps what `self.log` gets in a training step
    optimizer._opt_called = True  # else schedulers warn that they are stepped before the optimiser
    # Lightning has turned mixed precision on for all of this, but it is meant for the forward pass alone.
    with torch.autocast(model.device.type, enabled=False):
        for batch in chunk.split_batches():
            if trainer.received_sigterm:
                raise SIGTERMException
            results.batch, results.batch_size = batch, None  # for calls of self.log() in a model
            if by_step and count:
                _start_next_step(model, batch)
            step(batch, chunk.prepare)
            count += 1
            _step_schedules(by_step, model.num_batches)
            if count % trainer.log_every_n_steps == 0:
                model.log_losses()
    _add_step_counts(trainer, count, 0 if by_step else count - 1)
    if model.pending_batches:
        model.log_losses()
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        _step_schedules(by_epoch, trainer.current_epoch + 1)


def _group_schedules(trainer: Any) -> tuple[list[Any], list[Any]]:
    """Return the schedules to step after each step, and those after each epoch.

    With manual optimisation Lightning leaves them to the module.
    """
    groups: dict[str, list[Any]] = {"step": [], "epoch": []}
    for config in trainer.lr_scheduler_configs:
        groups[config.interval].append(config)
    return groups["step"], groups["epoch"]


def _step_schedules(configs: list[Any], number: int) -> None:
    """Step the schedules that are due after a batch or an epoch with this number, from 1."""
    for config in configs:
        if number % config.frequency == 0:
            config.scheduler.step()


def _start_next_step(model: Any, batch: Samples) -> None:
    """Count a step of a chunk, and have the learning rate of the next one logged, as Lightning does for its first."""
    trainer = model.trainer
    trainer.fit_loop.epoch_loop._batches_that_stepped += 1  # the step that Lightning's loggers are given
    for callback in trainer.callbacks:
        if isinstance(callback, LearningRateMonitor):
            callback.on_train_batch_start(trainer, model, batch, model.num_batches)


def _refuse_late_settings(trainer: Any) -> None:
    """Refuse settings that a callback has changed after training started, and that chunks do not support.

    Raises:
        InputError: if there is one; names the setting to use instead.
    """
    for name, value in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
        if (chosen := getattr(trainer, name)) != value:
            remedy = f"give trainer.{name}={chosen}, or give the callback an on_train_batch_start hook"
            raise InputError(f"a callback set trainer.{name} to {chosen} while steps are taken in chunks: {remedy}")


def _choose_step_function(model: Any, optimizer: Any, chunk: Chunk) -> Callable[[Samples, Prepare], None]:
    """Return the function that takes a step on the chunk's next stored batch: on a GPU a `GraphStep` if possible."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.requires_grad]
    take = partial(_run_optimizer_step, model, _unwrap_step(optimizer), weights)
    if not (model.uses_cuda_graphs and can_record(optimizer, model.device)):
        return lambda batch, prepare: take(copy_batch(batch), prepare)
    if model.graph_step is None or model.graph_step.optimizer is not optimizer:
        model.graph_step = GraphStep(optimizer, take, model.pending_batches)
    model.graph_step.load(chunk)
    return model.graph_step


def _run_optimizer_step(
    model: Any, step: Callable[[Callable[[], Tensor]], Any], weights: list[Tensor], batch: Samples, prepare: Prepare
) -> None:
    """Take an optimiser step on a batch as it is stored; ``prepare`` is its transform."""
    step(partial(_compute_gradient, model, weights, prepare(batch), model.num_batches))


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
    with _enter_precision(model.trainer):
        objective: Tensor = model.compute_step_objective(batch, batch_index)
    gradients = torch.autograd.grad(objective, weights, allow_unused=True)  # new tensors: nothing to zero or add to
    for weight, its_gradient in zip(weights, gradients, strict=True):
        weight.grad = _match_layout(its_gradient, weight)
    return objective


def _match_layout(gradient: Tensor | None, weight: Tensor) -> Tensor | None:
    """Return a gradient in its weight's memory layout, which fused optimisers need, as a backward pass leaves it."""
    if gradient is None or gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)  # torch.compile may pad its rows


def _enter_precision(trainer: Any) -> AbstractContextManager[None]:
    """Return the context of mixed precision for a forward pass; without it, one that costs nothing."""
    return nullcontext() if trainer.precision == "32-true" else trainer.precision_plugin.train_step_context()


def _add_step_counts(trainer: Any, count: int, uncounted: int) -> None:
    """Add the steps of a chunk to Lightning's counters, which count a chunk as one step.

    Args:
        trainer: the trainer.
        count: the steps of the chunk.
        uncounted: how many of them, but for one, the number for Lightning's loggers does not have yet.
    """
    loop = trainer.fit_loop.epoch_loop
    for progress in (
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ):
        for counter in (progress.total, progress.current):
            counter.ready += count
            counter.completed += count
    loop._batches_that_stepped += uncounted


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
