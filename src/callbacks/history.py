"""The metrics of each epoch, and the time that training took; both go on where a run is resumed."""

import logging
import math
import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from src.callbacks.counting import name_epoch
from src.callbacks.monitor import spell_metric
from src.core.devices import is_main_process

log = logging.getLogger(__name__)
Row = dict[str, float]
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
        self.compile_seconds = 0.0  # of all of them, see `src.training.compilation`
        self.started: float | None = None
        self.ended: float | None = None
        self.told = -float("inf")
        self.measured: dict[str, Tensor] = {}  # by the validation since the last row, named as the model logs them
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
        """Return the row with the best value of ``monitor``, of equals the last; the last row if it has none (or NaN).

        ``{}`` before the first epoch has ended.
        """
        measured = [row for row in self.kept if not math.isnan(row.get(monitor or "", math.nan))]
        if monitor is None or not measured:
            return self.kept[-1] if self.kept else {}
        return (min if mode == "min" else max)(reversed(measured), key=lambda row: row[monitor])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = trainer.global_step
        others = trainer.callback_metrics.items()  # of several validation sets, Lightning tells the last one's apart
        own = _names_of_training(trainer)
        self.measured |= {name: value for name, value in others if name not in own}
        self.measured |= trainer._logger_connector.metrics["callback"]

    def is_validated(self, trainer: Trainer) -> bool:
        """Return whether the weights as they are have been validated since the last row."""
        return self.validated == trainer.global_step

    def record(self, trainer: Trainer) -> None:
        """Add the row of the epoch that ends, each metric named by its stage first, see `spell_metric`."""
        values = trainer.callback_metrics
        trained = {name: values[name] for name in _names_of_training(trainer) if name in values}
        measured = self.measured if self.is_validated(trainer) else {}
        metrics = _spell("val", measured) | _spell("train", trained)
        self.measured, self.validated = {}, None
        metrics = trainer.strategy.broadcast(metrics)  # they are to decide alike, also by what each measured for itself
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
        log.log(level, "%s  %s", name_epoch(trainer), numbers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        rows = [dict(row) for row in self.rows]
        return {"rows": rows, "seconds": self.seconds, "compile_seconds": self.compile_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds_before = state_dict["rows"], state_dict["seconds"]
        self.compile_seconds = state_dict.get("compile_seconds", 0.0)
        self.saved = len(self.rows)


def _names_of_training(trainer: Trainer) -> list[str]:
    """Return the names of the metrics that the epoch's training steps, hooks and callbacks have logged."""
    metas = [metric.meta for metric in trainer.fit_loop.epoch_loop._results.values()]
    return [name for meta in metas for name in dict.fromkeys([meta.name, *map(meta.forked_name, (True, False))])]


def _spell(stage: str, metrics: dict[str, Tensor]) -> Row:
    """Return the metrics of a stage by the names that files have; a loss over the epoch is that, and no loss_epoch.

    The learning rates that Lightning's LearningRateMonitor adds are no metrics.
    """
    doubles = {f"{name}_{kind}" for name in metrics for kind in ("step", "epoch")}
    own = {name: value for name, value in metrics.items() if name not in doubles and not name.startswith("lr-")}
    return {spell_metric(name, stage): value.item() for name, value in own.items()}
