"""Restore a checkpoint into a trainer, exactly as at the end of an epoch; refuse any that does not fit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loops.loop import _Loop

from src.core.errors import InputError
from src.models.chunked_steps import sync_step_counters
from src.training.checkpointing.checkpoint import SCHEDULE_METRICS, AtomicCheckpointIO
from src.training.checkpointing.resume import ResumeCheckpoint


def resume_trainer(trainer: Trainer, checkpoint: ResumeCheckpoint) -> None:
    """Make a trainer's ``fit`` restore a checkpoint that has been read already.

    Raises:
        InputError: later in ``fit``, if a part of the checkpoint does not fit.
    """
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    trainer.strategy.checkpoint_io.preloaded = kept = checkpoint.content
    expected = [kept["epoch"] + 1, kept["global_step"], len(kept["optimizer_states"]), len(kept["lr_schedulers"])]
    connector = trainer._checkpoint_connector
    restore_states, restore_loops = connector._restore_modules_and_callbacks, connector.restore_training_state

    def resume_callbacks(*args: Any, **settings: Any) -> None:
        with explain_restore_errors(checkpoint.path):
            trainer.precision_plugin.convert_module(trainer.lightning_module)  # Lightning does so after it has restored
            restore_states(*args, **settings)

    def resume_training() -> None:
        with explain_restore_errors(checkpoint.path):
            restore_loops()
            if trainer.fit_loop._loaded_from_state_dict:  # the test also calls this, but restores nothing
                _resume_after_epoch(trainer, expected)
                _step_metric_schedules(trainer, kept["epoch"] + 1, kept.get(SCHEDULE_METRICS, {}))

    connector._restore_modules_and_callbacks = resume_callbacks  # type: ignore[method-assign]
    connector.restore_training_state = resume_training  # type: ignore[method-assign]


@contextmanager
def explain_restore_errors(path: Path) -> Iterator[None]:
    """Turn any error of the block, which restores a checkpoint, into an explanation in one line.

    Raises:
        InputError: in place of the error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"checkpoint {path} does not fit this run ({reason[:200]}); start a new run from its weights: "
            f"ckpt_path={path}"
        ) from error


def _resume_after_epoch(trainer: Trainer, expected: Sequence[int]) -> None:
    """Make training continue with the next epoch.

    With ``max_steps``, Lightning would otherwise finish the last epoch again and count it twice.

    Args:
        trainer: the trainer, with its state restored.
        expected: the numbers of epochs, steps, optimisers and learning rate schedules.

    Raises:
        ValueError: if the numbers differ: the parts of the checkpoint were not saved at the same time.
    """
    sync_step_counters(trainer)
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]
    trainer.fit_loop._resuming_from_checkpoint = False  # the DataLoader starts afresh after `EpochSeed` sets its order
    epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    found = (epochs, trainer.global_step, len(trainer.optimizers), len(trainer.lr_scheduler_configs))
    for what, here, there in zip(("epochs", "steps", "optimizers", "schedulers"), found, expected, strict=True):
        if here != there:
            raise ValueError(f"{there} {what}, not {here}")


def _step_metric_schedules(trainer: Trainer, epochs: int, metrics: Mapping[str, float]) -> None:
    """Step the schedules that depend on a metric, as Lightning does after it has written an epoch's checkpoint.

    Args:
        trainer: the trainer, with its state restored.
        epochs: the number of finished epochs.
        metrics: the metrics at the end of the last epoch.
    """
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and epochs % config.frequency == 0
        metric = metrics.get(config.monitor or "")
        if config.reduce_on_plateau and due and metric is not None:
            trainer.lightning_module.lr_scheduler_step(config.scheduler, metric)
