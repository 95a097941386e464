"""Checkpoints that are whole at every moment, and reading them with one clear line when they are not."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from src.callbacks.history import History
from src.errors import InputError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, forces it to the disk, then moves it there in one step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


class RunCheckpoint(ModelCheckpoint):
    """``best.ckpt`` by the monitored metric, of equals the latest, and ``last.ckpt``, after every epoch.

    Without a validation set nothing is selected: only ``last.ckpt`` is kept.

    Args:
        dirpath: the folder to keep them in.
        monitor, mode: the metric that chooses and its direction; ``None`` as a monitor keeps the last.
        history: where the epoch's metrics go before they are saved.
    """

    def __init__(self, dirpath: str | Path, monitor: str | None, mode: str, history: History) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1 if monitor else 0,
            save_last=True,
            save_on_train_epoch_end=True,  # when all metrics of the epoch are there
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

        self.history = history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.record(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    @property
    def chosen(self) -> str:
        """The checkpoint that the run is judged by: the best, or the last where nothing selects."""
        return self.best_model_path or self.last_model_path

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether to save: also at the same score, since the later weights have learned for longer."""
        equal = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best score so far, also where the run's folder has been moved."""
        old, new = str(state_dict["dirpath"]), str(self.dirpath)
        moved = {key: value.replace(old, new) if isinstance(value, str) else value for key, value in state_dict.items()}
        moved["best_k_models"] = {k.replace(old, new): v for k, v in state_dict["best_k_models"].items()}
        super().load_state_dict(moved)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values.

    Raises:
        InputError: if the file is missing, truncated or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
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
        if state[key].shape != own[key].shape:
            raise InputError(
                f"checkpoint {path} does not fit the model: {key} has shape {tuple(state[key].shape)} "
                f"there, {tuple(own[key].shape)} here"
            )
    module.load_state_dict(state)
