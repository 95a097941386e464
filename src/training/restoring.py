"""How a trainer takes over a checkpoint: as an epoch's end, exactly, or not at all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loops.loop import _Loop

from src.core.errors import InputError
from src.models.steps import same_count
from src.training.checkpoints import WATCHED, AtomicCheckpointIO
from src.training.resume import Past


def restore(trainer: Trainer, past: Past) -> None:
    """Have a trainer's ``fit`` take over a checkpoint that has been read.

    Raises:
        InputError: in ``fit``, if a part of the checkpoint is not what it should be.
    """
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    trainer.strategy.checkpoint_io.read = kept = past.content
    expected = [kept["epoch"] + 1, kept["global_step"], len(kept["optimizer_states"]), len(kept["lr_schedulers"])]
    connector = trainer._checkpoint_connector
    restore_states, restore_loops = connector._restore_modules_and_callbacks, connector.restore_training_state

    def restore_callbacks(*args: Any, **settings: Any) -> None:
        with refusing(past.path):
            restore_states(*args, **settings)

    def restore_training() -> None:
        with refusing(past.path):
            restore_loops()
            if trainer.fit_loop._loaded_from_state_dict:  # also called before a test, which takes over nothing
                begin_after_epoch(trainer, expected)
                step_watching(trainer, kept["epoch"] + 1, kept.get(WATCHED, {}))

    connector._restore_modules_and_callbacks = restore_callbacks  # type: ignore[method-assign]
    connector.restore_training_state = restore_training  # type: ignore[method-assign]


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Tell in one line what those who take over a checkpoint's parts find wrong with it.

    Raises:
        InputError: if anything is.
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


def begin_after_epoch(trainer: Trainer, expected: Sequence[int]) -> None:
    """Let training go on with the next epoch.

    With ``max_steps`` Lightning would end the last one again, and count it twice.

    Args:
        trainer: with its state taken over.
        expected: epochs, steps, optimisers and schedules of the learning rate that there are.

    Raises:
        ValueError: if there are others: the parts of the checkpoint are not of one moment.
    """
    same_count(trainer)
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]
    trainer.fit_loop._resuming_from_checkpoint = False  # a DataLoader begins anew once `EpochSeed` has seeded its order
    epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    found = (epochs, trainer.global_step, len(trainer.optimizers), len(trainer.lr_scheduler_configs))
    for what, here, there in zip(("epochs", "steps", "optimizers", "schedulers"), found, expected, strict=True):
        if here != there:
            raise ValueError(f"{there} {what}, not {here}")


def step_watching(trainer: Trainer, epochs: int, watched: Mapping[str, float]) -> None:
    """Step the schedules that go by a metric, as Lightning does after an epoch's checkpoint has been written.

    Args:
        trainer: with its state taken over.
        epochs: how many there have been.
        watched: the metrics at the last one's end.
    """
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and epochs % config.frequency == 0
        metric = watched.get(config.monitor or "")
        if config.reduce_on_plateau and due and metric is not None:
            trainer.lightning_module.lr_scheduler_step(config.scheduler, metric)
