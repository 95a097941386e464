"""Write checkpoints atomically, choose the best, and read them with clear errors if they are damaged."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from src.callbacks.early_stopping import EarlyStopping
from src.callbacks.history import History
from src.callbacks.monitor import describe_unmeasured, format_metric_name
from src.core.devices import is_main_process
from src.core.errors import InputError
from src.data.preprocessing import write_description
from src.storage.weights import read_checkpoint, write_checkpoint
from src.training.checkpointing.weight_changes import (
    Weights,
    copy_weights,
    find_weight_changers,
    has_equal_weights,
    refuse_changed_weights,
)

log = logging.getLogger(__name__)
# Key in the checkpoint of an unfinished epoch: the content of the checkpoint that it replaced.
WHOLE_EPOCH = "whole_epoch"
# Key in a checkpoint: the metrics at the end of the epoch that learning rate schedules depend on.
SCHEDULE_METRICS = "watched"
HISTORY = "History"  # the key of the history among the callbacks' states
UNKNOWN_CALLBACK = "a callback"  # stands for an unknown callback that stopped training
Stops = dict[str, float | None]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes files atomically and verifies those that it reads.

    Attributes:
        preloaded: content of the checkpoint to resume from, if it has been read already; returned once.
    """

    preloaded: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        # Networks among the hyperparameters are contained in the state_dict already.
        if isinstance(kept := checkpoint.get("hyper_parameters"), dict):
            kept = {name: value for name, value in kept.items() if not isinstance(value, torch.nn.Module)}
            checkpoint = {**checkpoint, "hyper_parameters": kept}
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **settings: Any) -> dict[str, Any]:
        content, self.preloaded = self.preloaded, None
        return read_checkpoint(path) if content is None else content


class RunCheckpoint(Checkpoint):
    """Callback that saves ``best.ckpt`` by the monitored metric, and ``last.ckpt``, after each validation.

    Ties go to the later epoch. It saves every epoch, or every ``check_val_every_n_epoch``-th and the last; every epoch
    if the monitored metric is one of training. Without a validation set no epoch is selected: only ``last.ckpt`` is
    kept. Lightning's own ModelCheckpoint (2.6) writes its last checkpoint only when the best one changes.

    The checkpoints record that training was stopped, so that a run that is killed before its end does not train on.
    Training cannot resume in the middle of an epoch that was cut short (``max_steps``, ``max_time``): its checkpoints
    contain the earlier ones that they replaced, and a run that is to train longer resumes from these.

    The weights that are validated, saved and tested must be the same: a callback or model that changes them in between
    is refused.

    Args:
        folder: the folder for the checkpoints.
        monitor, mode: the metric that selects the best epoch and its direction ("min" or "max"); ``None`` as a
            monitor keeps the last.
        history: the metrics of each epoch, recorded before they are saved.
        required: True if the user named the metric: then it is an error if it is not measured.

    Attributes:
        stops: the callbacks that stopped training, see `find_stops`.
        cut_short: True if the last epoch was not finished.
    """

    def __init__(self, folder: Path, monitor: str | None, mode: str, history: History, required: bool = False) -> None:
        self.folder, self.mode, self.history, self.is_required = folder, mode, history, required
        self.monitor = None if monitor is None else format_metric_name(monitor)
        self.best_model_score: float | None = None
        self.stops: Stops = {}
        self.cut_short = False
        self._replaced_content: dict[str, Any] | None = None  # the content that the checkpoint being saved replaces
        self._validated_weights: Weights = {}  # the weights validated in this epoch, or about to be tested
        self._saved_weights: Weights = {}  # the weights of the last checkpoint

    @property
    def state_key(self) -> str:
        return "RunCheckpoint"

    @property
    def best_model_path(self) -> str:
        """The path of the chosen weights: the best, or the last if no metric selects."""
        return str(self.folder / ("last.ckpt" if self.best_model_score is None else "best.ckpt"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if select_active_stops(self.stops, trainer.callbacks):  # type: ignore[attr-defined]
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_weights = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.start()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.add_validation(trainer)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if args[1] == 0:  # callbacks that change weights for the validation have run by now
            self._validated_weights = copy_weights(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.history.is_validated(trainer):
            self._validated_weights = {}  # discard a validation before the epoch was cut short
        measured = self.history.is_validated(trainer) or not trainer.enable_validation
        self.history.record(trainer)
        row = self.history.rows[-1]
        if self.monitor and self.monitor not in row and measured:
            self._report_unmeasured_monitor([name for name in row if name != "epoch"])
        score = row.get(self.monitor) if self.monitor else None  # None: not measured in this epoch
        if score is None and not _should_save(trainer):
            return
        self.stops = find_stops(trainer.callbacks) if trainer.should_stop else {}  # type: ignore[attr-defined]
        self.cut_short = _is_cut_short(trainer)
        # best.ckpt first: a run killed between the two files can resume from it.
        if score is not None and self.is_new_best(score):
            self.best_model_score = score
            self._save(trainer, self.folder / "best.ckpt")
        self._save(trainer, self.folder / "last.ckpt")
        self.history.saved_count = len(self.history.rows)

    def is_new_best(self, score: float) -> bool:
        """Return True if a score is at least the best: ties go to the later epoch, which trained longer."""
        if math.isnan(score) or self.best_model_score is None:
            return not math.isnan(score)
        return score >= self.best_model_score if self.mode == "max" else score <= self.best_model_score

    def _report_unmeasured_monitor(self, names: list[str]) -> None:
        """Refuse an unmeasured metric if the user named it; otherwise log a note, once."""
        if self.is_required:
            raise InputError(describe_unmeasured("monitor", str(self.monitor), names))
        if is_main_process() and len(self.history.rows) == 1:
            note = f"nothing called {self.monitor} is measured, so the last epoch's weights are kept, not the best ones"
            measured = f"; select by monitor=NAME, one of {', '.join(sorted(names))}" if names else ""
            log.info("note: %s%s", note, measured)

    def _save(self, trainer: Trainer, path: Path) -> None:
        # The checkpoint of an unfinished epoch contains the one that it replaces, to resume from; see
        # `ResumeCheckpoint`.
        if self.cut_short and is_main_process():
            self._replaced_content = read_checkpoint(path) if path.is_file() else None
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        what = "the weights to be saved are not those that were validated"
        refuse_changed_weights(self._validated_weights, content["state_dict"], trainer, what, "before the validation")
        trainer.strategy.save_checkpoint(content, path)
        trainer.strategy.barrier("checkpoint")
        self._saved_weights = self._validated_weights or copy_weights(trainer.lightning_module, content["state_dict"])
        self._replaced_content = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.stop()
        if self.best_model_score is None and any(self.monitor in row for row in self.history.rows):
            log.warning(
                "%s was NaN in every epoch, so the last epoch's weights are kept, not the best ones", self.monitor
            )
        if not has_equal_weights(self._saved_weights, dict(pl_module.named_parameters())):
            log.warning(
                "%s changed the weights after the last checkpoint: this has no effect, the saved weights are tested",
                find_weight_changers(trainer),
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            self._validated_weights = copy_weights(pl_module)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if args[1] == 0:
            what = "the weights to be tested are not the saved ones"
            refuse_changed_weights(
                self._validated_weights, dict(pl_module.named_parameters()), trainer, what, "while it trains"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[SCHEDULE_METRICS] = {
            config.monitor: float(trainer.callback_metrics[config.monitor])
            for config in trainer.lr_scheduler_configs
            if config.monitor in trainer.callback_metrics
        }
        checkpoint["callbacks"][HISTORY] = self.history.state_dict()
        write_description(checkpoint, getattr(trainer, "datamodule", None))
        if self.cut_short:
            checkpoint[WHOLE_EPOCH] = self._replaced_content

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.cut_short = WHOLE_EPOCH in checkpoint
        self.history.load_state_dict(checkpoint["callbacks"][HISTORY])

    def state_dict(self) -> dict[str, Any]:
        return {"best_model_score": self.best_model_score, "stops": self.stops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_model_score, self.stops = state_dict["best_model_score"], state_dict["stops"]


def _should_save(trainer: Trainer) -> bool:
    """Return True if the epoch that ends must be saved: it has a validation, or it is the last."""
    epochs = trainer.current_epoch + 1
    ends = trainer.should_stop or epochs == trainer.max_epochs or trainer.global_step == trainer.max_steps
    return ends or epochs % (trainer.check_val_every_n_epoch or 1) == 0


def _is_cut_short(trainer: Trainer) -> bool:
    """Return True if training ends before the epoch's last batch."""
    ends = trainer.global_step == trainer.max_steps or (trainer.should_stop and trainer.fit_loop._can_stop_early)
    return ends and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def find_stops(callbacks: Iterable[Callback]) -> Stops:
    """Return the callbacks that stopped training: their state keys, each with the limit that was reached.

    The limit is that of `_get_callback_limit`; ``None`` if no other limit would let training continue.
    """
    found: Stops = {}
    for callback in callbacks:
        if isinstance(callback, LightningEarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            out_of_patience = callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED
            found[callback.state_key] = _get_callback_limit(callback) if out_of_patience else None
        elif isinstance(callback, Timer) and (callback.time_remaining() or 0.0) <= 0.0:
            found[callback.state_key] = _get_callback_limit(callback)
    return found or {UNKNOWN_CALLBACK: None}


def _get_callback_limit(callback: Callback) -> float | None:
    """Return the limit that must be raised for training to continue; ``None`` if there is none.

    It is in epochs for a patience, in seconds for a timer.
    """
    if isinstance(callback, Timer):
        return callback._duration
    return callback.patience if isinstance(callback, EarlyStopping) else None


def select_active_stops(stops: Stops, callbacks: Iterable[Callback]) -> Stops:
    """Return the stops that are still in effect with the present callbacks and their limits."""
    now = {callback.state_key: _get_callback_limit(callback) for callback in callbacks}
    now[UNKNOWN_CALLBACK] = None
    return {key: limit for key, limit in stops.items() if key in now and not _is_raised(limit, now[key])}


def _is_raised(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > before


def find_checkpoint(folder: Path, name: str | None) -> Path:
    """Return the path of a run's checkpoint: best, last, a given path, or by default best if it exists, else last."""
    if name not in (None, "best", "last"):
        return Path(str(name))
    names = [name] if name else ["best", "last"]
    paths = [folder / "checkpoints" / f"{stem}.ckpt" for stem in names]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise InputError(f"checkpoint {paths[0]} does not exist: the run has not finished an epoch")
    return found[0]
