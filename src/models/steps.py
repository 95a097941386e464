"""Many optimiser steps in one ``training_step``: what Lightning does around each takes longer than a small net's own.

A chunk is the batches between two looks at the loss. The steps in it are those that would be taken
one by one, bit for bit, and counted like those. Of XOR with batch 1 a step takes 0.36 ms of CPU time so,
0.89 ms one by one, and 0.22 ms in a bare loop without metrics.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

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
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "toggle_optimizer",
)
HARMLESS = (ProgressBar, LearningRateMonitor, EarlyStopping)  # Lightning's, to which a chunk is as good


def why_one_by_one(trainer: Any, model: LightningModule, scheduler: dict[str, Any] | None) -> str | None:
    """What needs each step by itself, in words; ``None`` if nothing does."""
    reasons = {
        "several processes": trainer.world_size > 1,
        f"precision {trainer.precision}": trainer.precision not in ("32-true", "64-true"),
        "gradient accumulation": trainer.accumulate_grad_batches != 1,
        "gradient clipping": trainer.gradient_clip_val is not None,
        "a number of steps or batches": trainer.max_steps != -1
        or trainer.limit_train_batches != 1.0
        or bool(trainer.overfit_batches)
        or trainer.val_check_interval != 1.0,
        "a profiler": not isinstance(trainer.profiler, PassThroughProfiler),
        "the loss of each step": trainer.log_every_n_steps < 2,
        "a schedule of the learning rate step by step": (scheduler or {}).get("interval") == "step",
        type(model).__name__: overrides(model, LightningModule, MODULE_HOOKS),
    }
    for callback in trainer.callbacks:
        if not isinstance(callback, HARMLESS):
            theirs = type(callback).__module__.startswith("lightning.")  # some change how steps are taken
            reasons[type(callback).__name__] = theirs or overrides(callback, Callback, CALLBACK_HOOKS)
    return next((reason for reason, holds in reasons.items() if holds), None)


def overrides(thing: object, base: type, hooks: Iterable[str]) -> bool:
    """Whether a class of one's own has any of these hooks of its base class, or an object got one later."""
    own = vars(thing).keys() & set(hooks)
    return bool(own) or any(getattr(type(thing), hook, None) is not getattr(base, hook, None) for hook in hooks)


def take_steps(model: Any, chunk: Iterable[Any]) -> None:
    """An optimiser step for each batch of a chunk, in order."""
    trainer, optimizer = model.trainer, model.optimizers(use_pl_optimizer=False)
    count = 0
    for batch in chunk:
        optimizer.step(partial(gradient, model, optimizer, trainer.datamodule.on_after_batch_transfer(batch, 0)))
        count += 1
    count_steps(trainer, count)
    model.look_at_losses()
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        for config in trainer.lr_scheduler_configs:
            if (trainer.current_epoch + 1) % config.frequency == 0:
                config.scheduler.step()


def gradient(model: Any, optimizer: Any, batch: Any) -> Tensor:
    """Put a batch's gradient in place; returns what it descends on."""
    objective: Tensor = model.step_loss(batch)
    optimizer.zero_grad()
    objective.backward()
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
