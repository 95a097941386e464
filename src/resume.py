"""Going on with a run: all that must hold is looked at before anything in its folder is touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from src.checkpoints import read_checkpoint
from src.configs import APART, changes, read_config
from src.core.files import pin_folders, remove_partials
from src.devices import is_main_process
from src.errors import InputError
from src.records import finished

# What does not alter the steps already taken. All else a resumed run keeps: its optimiser's state
# comes from the checkpoint, so another learning rate would be written down and not used.
MAY_CHANGE = (*APART, "callbacks.", "logger.", "trainer.log_every_n_steps", "trainer.max_", "trainer.profiler")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process and those it starts.

    Raises:
        InputError: if another process holds it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    if is_main_process():
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{folder} is being trained by another process") from None
        remove_partials(folder)
    try:
        with pin_folders(folder):
            yield
    finally:
        lock.release()


def where_to_go_on(cfg: DictConfig, folder: Path) -> tuple[str | None, int]:
    """The checkpoint that a resumed run goes on from and its step; nothing for a run that starts.

    Raises:
        InputError: if the run cannot go on exactly as it began, or has nothing left to do.
    """
    if not cfg.resume:
        return None, 0
    changed = changes(read_config(folder), cfg)
    for key, (old, new) in changed.items():
        if not key.startswith(MAY_CHANGE):
            raise InputError(
                f"resume: {key} was {old} when the run began and cannot become {new}; start a new run from its "
                f"weights: ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
            )
    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        if path.with_name("best.ckpt").is_file():
            raise InputError(f"{path} is missing: start a new run from best.ckpt beside it, ckpt_path=…")
        return None, 0  # stopped before its first epoch ended: it starts over
    checkpoint = read_checkpoint(path)
    check_there_is_more(cfg, folder, checkpoint, changed)
    return str(path), checkpoint["global_step"]


def check_there_is_more(cfg: DictConfig, folder: Path, checkpoint: dict[str, Any], changed: dict[str, Any]) -> None:
    """Refuse to go on with a run that is finished, or in a way that would not be exact."""
    epochs, longest = checkpoint["epoch"] + 1, cfg.trainer.max_epochs
    asked = any(key.startswith(("trainer.max_", "callbacks.early_stopping")) for key in changed)
    if finished(folder) and (epochs == longest or not asked):
        more = longer(cfg, epochs)
        how = f"give more to train on, {more}" if more else "start a new run from its weights with ckpt_path="
        raise InputError(f"{folder} is finished, with {epochs} epochs: {how}")
    if epochs > longest:
        raise InputError(f"{folder} has {epochs} epochs already: trainer.max_epochs={longest} is less")
    if any(key.startswith("trainer.max_") for key in changed) and planned(cfg):
        raise InputError(
            "resume: the learning rate's schedule was made for the run's own number of steps; for more start a new "
            f"run from its weights: ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
        )
    if not checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]:
        raise InputError(
            f"{folder} stopped within an epoch (trainer.max_steps or max_time) and cannot go on exactly; start a new "
            f"run from its weights: ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
        )


def planned(cfg: DictConfig) -> bool:
    """Whether the learning rate follows a schedule made for the run's number of steps."""
    return "total_steps" in cfg.scheduler.values()


def longer(cfg: DictConfig, epochs: int) -> str | None:
    """The setting that lets a finished run train on; ``None`` if none does."""
    if planned(cfg) or cfg.trainer.max_steps != -1:
        return None
    patience = OmegaConf.select(cfg, "callbacks.early_stopping.patience")
    if patience is not None and epochs < cfg.trainer.max_epochs:
        return f"callbacks.early_stopping.patience={2 * patience + 1}"
    return f"trainer.max_epochs={2 * max(1, epochs)}"
