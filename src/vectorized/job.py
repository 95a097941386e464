"""A job in a stack: its model, its progress, and the files in its folder."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from lightning import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from src.callbacks.epoch_seed import EpochSeed
from src.callbacks.monitor import infer_mode, resolve_monitor
from src.core import devices
from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.models.base import SupervisedModule
from src.storage.weights import load_weights
from src.training.build import select_model_arguments
from src.training.checkpointing.checkpoint import HISTORY, find_stops
from src.training.recorder import RunRecorder

log = logging.getLogger(__name__)


class StackedJob:
    """A job that is trained in a stack, together with others.

    Args:
        cfg: the job's config as plain values, references resolved.
        folder: the job's folder.
        data: the data module of the stack.

    Raises:
        InputError: if a setting is invalid.
    """

    def __init__(self, cfg: dict[str, Any], folder: Path, data: TensorDataModule) -> None:
        self.cfg, self.folder, self.seed = cfg, folder, int(cfg["seed"])
        seed_everything(self.seed, workers=True, verbose=False)
        settings = dict(cfg["model"])
        model_class = get_class(settings.pop("_target_"))  # Hydra's `instantiate` would take milliseconds per job
        self.model: SupervisedModule = model_class(**settings, **select_model_arguments(cfg, data))
        if cfg["ckpt_path"]:
            devices.convert_weights(self.model, cfg["trainer"]["precision"])
            load_weights(self.model, cfg["ckpt_path"])
        self.recorder = RunRecorder(folder, is_job=True)
        self.history = self.recorder.history
        monitor, mode = resolve_monitor(cfg, data)
        self.recorder.select_by(monitor, mode, required=False)
        self.early_stopping_callbacks = [
            _build_early_stopping(each, monitor, mode) for each in cfg["callbacks"].values() if _is_early_stopping(each)
        ]
        self.recorder.start(self.model, self.seed)
        self.logged_losses: list[tuple[int, float]] = []  # logged losses: step, and mean loss since the previous entry
        self.logged_rates: list[
            tuple[int, list[float]]
        ] = []  # logged learning rates: step, and one rate per parameter group
        self.epoch_times: list[float] = []  # end of each epoch, in seconds since 1970
        self.failure: str | None = None  # message of its divergence, if it diverged
        self.write_error: str | None = None  # error that prevents writing to its folder
        self.schedule: dict[str, Any] = {}  # the state of its `Schedule` at its end

    @property
    def order_seed(self) -> int:
        """The seed of its sample order: by default the job's seed, as in `TensorDataModule`."""
        order_seed = self.cfg["data"].get("order_seed")
        return self.seed if order_seed is None else int(order_seed)

    # Results of an epoch

    def add_epoch(
        self, row: dict[str, float], losses: list[tuple[int, float]], rates: list[tuple[int, list[float]]]
    ) -> bool:
        """Add an epoch's metrics, losses and learning rates; return True if its weights are the best so far."""
        self.history.rows.append({"epoch": len(self.history.rows) + 1, **row})
        self.logged_losses += losses
        self.logged_rates += rates
        self.epoch_times.append(time.time())
        self.history.saved_count = len(self.history.rows)
        score = row.get(self.recorder.monitor) if self.recorder.monitor else None
        if score is None or not self.recorder.is_new_best(score):
            return False
        self.recorder.best_model_score = score
        return True

    @property
    def has_stopped(self) -> bool:
        """True if one of its early stopping callbacks ends training after the last epoch."""
        row, stop = self.history.rows[-1], False
        for early in self.early_stopping_callbacks:
            if early.monitor in row:
                stop, reason = early._evaluate_stopping_criteria(torch.tensor(row[early.monitor]))
                if stop:
                    early.stopped_epoch, early.stopping_reason_message = len(self.history.rows) - 1, reason
                    self.recorder.stops = find_stops(self.early_stopping_callbacks)
        return stop

    def get_callback_states(self, rows: int | None = None) -> dict[str, Any]:
        """Return the states of its callbacks for a checkpoint after ``rows`` epochs; ``None``: after all of them."""
        history = {"rows": [dict(row) for row in self.history.rows[:rows]], "seconds": self.history.seconds}
        parts = {
            each.state_key: each.state_dict()
            for each in (EpochSeed(self.seed), self.recorder, *self.early_stopping_callbacks)
        }
        if rows is not None and rows < len(self.history.rows):
            parts[self.recorder.state_key]["stops"] = {}  # training continued after that epoch
        return {**parts, HISTORY: history}

    # Saving and resuming

    def get_progress(self) -> dict[str, Any]:
        """Return all state that it needs to resume, as plain values and tensors."""
        return {
            "rows": self.history.rows,
            "best": self.recorder.best_model_score,
            "stops": self.recorder.stops,
            "early": [each.state_dict() for each in self.early_stopping_callbacks],
            "looks": self.logged_losses,
            "rates": self.logged_rates,
            "times": self.epoch_times,
            "trouble": self.failure,
            "schedule": self.schedule,
        }

    def load_progress(self, progress: dict[str, Any], seconds: float) -> None:
        self.history.rows, self.history.saved_count = progress["rows"], len(progress["rows"])
        self.history.seconds_before = seconds
        self.recorder.best_model_score, self.failure = progress["best"], progress["trouble"]
        self.schedule, self.recorder.stops = progress["schedule"], progress["stops"]
        for early, state in zip(self.early_stopping_callbacks, progress["early"], strict=True):
            early.load_state_dict(state)
        self.logged_losses, self.logged_rates, self.epoch_times = (
            progress["looks"],
            progress["rates"],
            progress["times"],
        )

    # Final results

    def add_test_metrics(
        self, loss: float, acc: float | None, confusion: Tensor | None, names: tuple[str, ...]
    ) -> None:
        """Add the test's metrics, the same as `RunRecorder.add_test_metrics`."""
        self.recorder.test_metrics = {"test/loss": loss}
        if acc is not None and confusion is not None:
            values = (confusion.diagonal() / confusion.sum(dim=1)).tolist()
            self.recorder.test_metrics |= {"test/acc": acc, "test/acc_per_class": dict(zip(names, values, strict=True))}

    @contextmanager
    def capture_write_errors(self) -> Iterator[None]:
        """Make errors of writing this job's folder fail this job only, not the other jobs of the stack."""
        try:
            yield
        except (InputError, OSError) as error:
            self.write_error = self.write_error or str(error)

    def write_progress(self, seconds: float) -> None:
        """Write its metrics so far, after ``seconds`` of training."""
        self.history.seconds_before = seconds
        with self.capture_write_errors():
            self.recorder.write_metrics()

    def write_final_status(self) -> None:
        """Write its final status, the last of its files."""
        with self.capture_write_errors():
            if self.write_error is not None:
                self.recorder.write_status("failed", "error", self.write_error)
            elif self.failure is not None:
                self.recorder.write_status("failed", "diverged", self.failure)
            else:
                self.recorder.write_final_status()


def _is_early_stopping(settings: dict[str, Any] | None) -> bool:
    return settings is not None and settings["_target_"].endswith(".EarlyStopping")


def _build_early_stopping(settings: dict[str, Any], monitor: str | None, mode: str) -> EarlyStopping:
    """Return the early stopping callback; without a metric in its settings it uses the run's monitored metric."""
    metric = settings["monitor"] or monitor
    direction = settings.get("mode") or (mode if metric == monitor else infer_mode(str(metric)))
    callback: EarlyStopping = instantiate({**settings, "monitor": metric, "mode": direction})
    return callback
