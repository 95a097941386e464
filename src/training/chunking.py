"""Decide whether steps are taken in chunks, which changes only their speed; see `src.models.chunked_steps`."""

import logging
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler

from src.core.devices import get_small_step, is_main_process
from src.core.hints import has_custom_hooks
from src.data.base import TensorDataModule
from src.models.base import SupervisedModule

log = logging.getLogger(__name__)
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
LOADING_HOOKS = (
    "train_dataloader",
    "make_batches",
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
)
LOGS_PER_CHUNK = 4  # times that losses are logged per chunk, at most
# Of a chunk, at most: it is copied to a GPU's memory, and the progress bar stands still until it ends, by estimate
# about a second on a large GPU.
CHUNK_OPERATIONS, CHUNK_BYTES = 5e13, 2**29  # of the forward passes, of the samples
SIZE_REASON = "their size, compared with which Lightning's overhead is small"
SUPERVISED_HOOKS = ("training_step", "configure_optimizers", "build_scheduler")  # of `SupervisedModule`
CHUNK_SAFE_CALLBACKS = (ProgressBar, LearningRateMonitor, EarlyStopping)  # Lightning's callbacks that work with chunks


def enable_chunking(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, operations: int, use_cuda_graphs: bool
) -> None:
    """Enable training in chunks of batches for one of our models, unless something needs to see every single step."""
    if not isinstance(model, SupervisedModule) or not isinstance(data, TensorDataModule):
        return
    if has_custom_hooks(data, TensorDataModule, LOADING_HOOKS):
        return
    reason = _find_chunking_blocker(trainer, model, SupervisedModule, operations)
    if reason is None and not _choose_chunk_length(trainer, data, operations):
        reason = SIZE_REASON
    # Large steps lose nothing without chunks, so that the reason SIZE is not worth a line in the log.
    worth_logging = is_main_process() and reason not in (None, SIZE_REASON)
    level = logging.INFO if worth_logging else logging.DEBUG
    log.log(level, "steps: %s", f"one by one, because of {reason}" if reason else "in chunks")
    if reason is None:
        model.automatic_optimization = False
        data.chunk_length = _choose_chunk_length(trainer, data, operations)
        # A graph would repeat the shares that mixing draws on the CPU.
        model.uses_cuda_graphs = use_cuda_graphs and not data.is_mixing


def _find_chunking_blocker(trainer: Any, model: Any, base_class: type, operations: int) -> str | None:
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
        f"precision {trainer.precision}": trainer.precision not in ("32-true", "bf16-mixed"),
        "gradient accumulation": trainer.accumulate_grad_batches != 1,
        "gradient clipping": trainer.gradient_clip_val is not None,
        "a number of steps or batches": _has_batch_limits(trainer),
        "a profiler": not isinstance(trainer.profiler, PassThroughProfiler),
        "the loss of each step": trainer.log_every_n_steps < 2,
        "a schedule that watches a metric": bool(schedule.get("monitor")),
        type(model).__name__: has_custom_hooks(model, LightningModule, MODULE_HOOKS)
        or has_custom_hooks(model, base_class, SUPERVISED_HOOKS),
    }
    for callback in trainer.callbacks:
        reasons[type(callback).__name__] = _has_step_hooks(callback)
    return next((reason for reason, holds in reasons.items() if holds), None)


def _choose_chunk_length(trainer: Any, data: TensorDataModule, operations: int) -> int:
    """Return the number of batches in a chunk, a multiple of those between two logs; 0 if even so few are too many.

    Args:
        trainer: the trainer, with its interval of logging.
        data: the data module, with its samples loaded.
        operations: floating-point operations of one forward pass of a batch.
    """
    assert data.train_set is not None
    size = sum(values.nbytes for values in data.train_set) / data.train_set.size * data.batch_size
    every = trainer.log_every_n_steps
    logs = min(CHUNK_OPERATIONS // (operations * every), CHUNK_BYTES // (size * every), LOGS_PER_CHUNK)
    return int(logs) * every


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
