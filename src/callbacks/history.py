"""The metrics of each epoch, and the time that training took; both go on where a run is resumed."""

import logging
import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from src.devices import is_main_process

log = logging.getLogger(__name__)
Row = dict[str, float]
STAGES = ("train/", "val/")
SECONDS_BETWEEN_LINES = 1.0  # on the terminal; the log file has a line for each epoch


class History(Callback):
    """One row of metrics per epoch, kept in the checkpoints and told in the log.

    `RunCheckpoint` calls ``record`` before it saves: Lightning calls checkpoint callbacks last,
    when all of the epoch's metrics are there.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.saved = 0  # how many of them lie in last.ckpt
        self.seconds_before = 0.0  # of training, before this process
        self.compile_seconds = 0.0  # of all of them, see `src.compilation`
        self.started: float | None = None
        self.ended: float | None = None
        self.told = -float("inf")
        self.validated: int | None = None  # the optimiser steps before the last validation

    @property
    def seconds(self) -> float:
        """Seconds of training, validation included, over all of the run's starts."""
        if self.started is None:
            return self.seconds_before
        return self.seconds_before + (self.ended or time.monotonic()) - self.started

    @property
    def kept(self) -> list[Row]:
        """The rows of the epochs that are kept: what a stopped run goes on from."""
        return self.rows[: self.saved]

    def chosen(self, monitor: str | None, mode: str) -> Row:
        """The row with the best value of ``monitor``, of equals the last; the last row where it was not measured.

        ``{}`` before the first epoch has ended.
        """
        measured = [row for row in self.kept if monitor in row]
        if monitor is None or not measured:
            return self.kept[-1] if self.kept else {}
        return (min if mode == "min" else max)(reversed(measured), key=lambda row: row[monitor])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = trainer.global_step

    def record(self, trainer: Trainer) -> None:
        """Add the row of the epoch that ends; unless that ends with a validation Lightning still has older metrics."""
        stages = STAGES if self.validated == trainer.global_step else STAGES[:1]
        self.validated = None
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(stages)}
        self.rows.append({"epoch": trainer.current_epoch + 1, **metrics})
        if is_main_process():
            self.tell(trainer, metrics)

    def tell(self, trainer: Trainer, metrics: Row) -> None:
        """A line for the log; also for the terminal where no progress bar shows the epochs."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.told > SECONDS_BETWEEN_LINES
        level = logging.INFO if due and not sys.stderr.isatty() else logging.DEBUG
        self.told = time.monotonic() if due else self.told
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        log.log(level, "epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, numbers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        rows = [dict(row) for row in self.rows]
        return {"rows": rows, "seconds": self.seconds, "compile_seconds": self.compile_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds_before = state_dict["rows"], state_dict["seconds"]
        self.compile_seconds = state_dict.get("compile_seconds", 0.0)
        self.saved = len(self.rows)
