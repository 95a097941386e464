"""The metrics of each epoch and the training time; both continue when a run is resumed."""

import logging
import math
import sys
import time
from typing import Any

from lightning import Trainer
from torch import Tensor

from src.callbacks.counting import format_epoch
from src.callbacks.monitor import format_metric_name
from src.core.devices import is_main_process

log = logging.getLogger(__name__)
Row = dict[str, float]
SECONDS_BETWEEN_LINES = 1.0  # on the terminal; the log file has a line for each epoch


class History:
    """One row of metrics per epoch, and the time of training; a run's recorder keeps it up to date.

    The recorder is the callback that Lightning calls last: all metrics of an epoch are available then.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.saved_count = 0  # number of rows in last.ckpt
        self.seconds_before = 0.0  # training time before this process
        self.compile_seconds = 0.0  # compile time of all processes of the run, see `src.training.compilation`
        self.start_time: float | None = None
        self.end_time: float | None = None
        self.last_logged = -float("inf")
        self.validation_metrics: dict[
            str, Tensor
        ] = {}  # from the validation since the last row, named as the model logs them
        self.validated_step: int | None = None  # number of optimiser steps before the last validation

    @property
    def seconds(self) -> float:
        """Seconds of training, validation included, summed over all of the run's processes."""
        if self.start_time is None:
            return self.seconds_before
        return self.seconds_before + (self.end_time or time.monotonic()) - self.start_time

    @property
    def saved_rows(self) -> list[Row]:
        """The rows of the epochs in ``last.ckpt``, from which a stopped run is resumed."""
        return self.rows[: self.saved_count]

    def select_best_row(self, monitor: str | None, mode: str) -> Row:
        """Return the row with the best value of ``monitor``; ties go to the later epoch.

        If no row has the metric (or all are NaN), return the last row; before the first epoch has ended, return ``{}``.
        """
        candidates = [row for row in self.saved_rows if not math.isnan(row.get(monitor or "", math.nan))]
        if monitor is None or not candidates:
            return self.saved_rows[-1] if self.saved_rows else {}
        return (min if mode == "min" else max)(reversed(candidates), key=lambda row: row[monitor])

    def start(self) -> None:
        """Start the time of training."""
        self.start_time = time.monotonic()

    def add_validation(self, trainer: Trainer) -> None:
        """Keep the metrics of the validation that ends, until the epoch's row is recorded."""
        self.validated_step = trainer.global_step
        metrics = trainer.callback_metrics.items()
        training_names = _find_training_metrics(trainer)
        # With several validation sets, callback_metrics has only the last one's metrics separately: accumulate them.
        self.validation_metrics |= {name: value for name, value in metrics if name not in training_names}
        self.validation_metrics |= trainer._logger_connector.metrics["callback"]

    def is_validated(self, trainer: Trainer) -> bool:
        """Return True if the current weights have been validated since the last row."""
        return self.validated_step == trainer.global_step

    def record(self, trainer: Trainer) -> None:
        """Add the row of the epoch that ends; each metric's name begins with its stage, see `format_metric_name`."""
        values = trainer.callback_metrics
        trained = {name: values[name] for name in _find_training_metrics(trainer) if name in values}
        measured = self.validation_metrics if self.is_validated(trainer) else {}
        metrics = _rename_metrics("val", measured) | _rename_metrics("train", trained)
        self.validation_metrics, self.validated_step = {}, None
        # All ranks use rank 0's metrics, also those measured per rank: they must make the same decisions.
        metrics = trainer.strategy.broadcast(metrics)
        self.rows.append({"epoch": trainer.current_epoch + 1, **metrics})
        if is_main_process():
            self.log_row(trainer, metrics)

    def log_row(self, trainer: Trainer, metrics: Row) -> None:
        """Log the metrics of an epoch; on the terminal only if no progress bar shows the epochs."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.last_logged > SECONDS_BETWEEN_LINES
        level = logging.INFO if due and not sys.stderr.isatty() else logging.DEBUG
        self.last_logged = time.monotonic() if due else self.last_logged
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        log.log(level, "%s  %s", format_epoch(trainer), numbers)

    def stop(self) -> None:
        """Stop the time of training."""
        self.end_time = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        rows = [dict(row) for row in self.rows]
        return {"rows": rows, "seconds": self.seconds, "compile_seconds": self.compile_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds_before = state_dict["rows"], state_dict["seconds"]
        self.compile_seconds = state_dict.get("compile_seconds", 0.0)
        self.saved_count = len(self.rows)


def find_history(trainer: Trainer) -> History | None:
    """Return the history that a trainer's recorder keeps, if there is one."""
    found = (getattr(callback, "history", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return next((history for history in found if isinstance(history, History)), None)


def _find_training_metrics(trainer: Trainer) -> list[str]:
    """Return the names of the metrics that the epoch's training steps, hooks and callbacks have logged."""
    metas = [metric.meta for metric in trainer.fit_loop.epoch_loop._results.values()]
    return [name for meta in metas for name in dict.fromkeys([meta.name, *map(meta.forked_name, (True, False))])]


def _rename_metrics(stage: str, metrics: dict[str, Tensor]) -> Row:
    """Return the metrics of a stage under the names that files use, without duplicates and learning rates.

    For example a loss that Lightning logs as ``loss``, ``loss_step`` and ``loss_epoch`` is kept once, as ``loss``. The
    learning rates of Lightning's LearningRateMonitor are no metrics.
    """
    duplicates = {f"{name}_{kind}" for name in metrics for kind in ("step", "epoch")}
    kept = {name: value for name, value in metrics.items() if name not in duplicates and not name.startswith("lr-")}
    return {format_metric_name(name, stage): value.item() for name, value in kept.items()}
