"""Checkpoints that are whole at every moment, and reading them with one clear line when they are not."""

from os.path import isfile
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from src.callbacks.history import History
from src.core.checks import show
from src.core.files import open_atomic
from src.errors import InputError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, forces it to the disk, then moves it there in one step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with open_atomic(Path(path)) as file:
            torch.save(checkpoint, file)


class RunCheckpoint(Checkpoint):
    """``best.ckpt`` by the monitored metric, of equals the latest, and ``last.ckpt``, after each validation.

    That is every epoch, or every ``check_val_every_n_epoch``-th and the last.

    Not Lightning's ModelCheckpoint, which (2.6) writes its last checkpoint only when the best one
    changes. Without a validation set nothing is selected: only ``last.ckpt`` is kept.

    Args:
        folder: the folder to keep them in.
        monitor, mode: the metric that chooses and its direction ("min" or "max"); ``None`` as a
            monitor keeps the last.
        history: where the epoch's metrics go before they are saved.
    """

    def __init__(self, folder: Path, monitor: str | None, mode: str, history: History) -> None:
        self.folder, self.monitor, self.mode, self.history = folder, monitor, mode, history
        self.best_model_score: float | None = None

    @property
    def best_model_path(self) -> str:
        """Where the weights are that the run is judged by: the best, or the last where nothing selects."""
        return str(self.folder / ("last.ckpt" if self.best_model_score is None else "best.ckpt"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.record(trainer)
        if not due(trainer):
            return
        score = self.history.rows[-1].get(self.monitor) if self.monitor else None  # None: not measured in this epoch
        if score is not None and self.at_least_as_good(score):
            self.best_model_score = score
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self.history.saved = len(self.history.rows)

    def at_least_as_good(self, score: float) -> bool:
        """Whether to keep the weights: also at the same score, since they have learned for longer."""
        if self.best_model_score is None:
            return True
        return score >= self.best_model_score if self.mode == "max" else score <= self.best_model_score

    def state_dict(self) -> dict[str, Any]:
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_model_score = state_dict["best_model_score"]


def due(trainer: Trainer) -> bool:
    """Whether the epoch that ends is one to keep: one with a validation, or the last."""
    epochs = trainer.current_epoch + 1
    ends = trainer.should_stop or epochs == trainer.max_epochs or trainer.global_step == trainer.max_steps
    return ends or epochs % (trainer.check_val_every_n_epoch or 1) == 0


def chosen_checkpoint(folder: Path, name: str | None) -> Path:
    """The path of a run's checkpoint: best, last, a path, or by default the best that there is."""
    if name not in (None, "best", "last"):
        return Path(str(name))
    names = [name] if name else ["best", "last"]
    paths = [folder / "checkpoints" / f"{each}.ckpt" for each in names]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise InputError(f"checkpoint {paths[0]} does not exist: the run has not finished an epoch")
    return found[0]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values.

    Raises:
        InputError: if the file is missing, truncated or holds something else.
    """
    path = Path(path)
    if not isfile(path):  # also where the name is too long to be one
        raise InputError(f"checkpoint {show(path)} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"checkpoint {path} is truncated or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"checkpoint {path} holds no weights")
    return checkpoint


def load_weights(module: torch.nn.Module, path: str | Path) -> None:
    """Load a checkpoint's weights into a module of the same shape.

    Raises:
        InputError: as `read_checkpoint`, or if the shapes differ.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("state_dict", checkpoint)
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own:
            where = "the checkpoint lacks it" if key not in state else "the model lacks it"
            raise InputError(f"checkpoint {path} does not fit the model: {key} ({where})")
        if not key.endswith("_extra_state") and state[key].shape != own[key].shape:  # of extra state any size fits
            raise InputError(
                f"checkpoint {path} does not fit the model: {key} has shape {tuple(state[key].shape)} "
                f"there, {tuple(own[key].shape)} here"
            )
    module.load_state_dict(state)
