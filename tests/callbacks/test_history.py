import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from src.callbacks.epoch_seed import EpochSeed
from src.callbacks.history import History, Row
from src.models.mlp import MLP
from src.training.checkpointing.checkpoint import RunCheckpoint
from tests.doubles import SGD, InMemoryDataModule, make_samples, quiet_trainer

ROWS = [{"epoch": epoch, "val/acc": acc} for epoch, acc in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.2))]


def make_history(rows: list[dict[str, float]]) -> History:
    history = History()
    history.rows, history.saved_count = rows, len(rows)
    return history


def test_best_row_prefers_later_on_ties() -> None:
    assert make_history(ROWS).select_best_row("val/acc", "max")["epoch"] == 3
    assert make_history(ROWS).select_best_row("val/acc", "min")["epoch"] == 4


def test_without_monitor_last_row_is_selected() -> None:
    assert make_history(ROWS).select_best_row(None, "max")["epoch"] == 4


def test_empty_history_has_no_best_row() -> None:
    assert make_history([]).select_best_row("val/acc", "max") == {}
    assert make_history([]).select_best_row(None, "max") == {}


def test_history_is_restored_from_checkpoint() -> None:
    """The rows and the training time continue from a checkpoint."""
    first, second = make_history(ROWS), History()
    first.seconds_before = 12.5
    second.load_state_dict(first.state_dict())
    assert second.rows == ROWS
    assert second.seconds == 12.5


class RandomNumberRecorder(EpochSeed):
    """Notes the first random number of each epoch."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.numbers: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.numbers.append(torch.rand(()).item())


def record_random_numbers(tmp_path: Path, seed: int) -> list[float]:
    callback = RandomNumberRecorder(seed)
    model = MLP(2, "relu", 0.0, False, in_shape=[2], num_classes=2, task="multiclass", optimizer=SGD)
    trainer = quiet_trainer(tmp_path, callbacks=[callback], max_epochs=3)
    trainer.fit(model, datamodule=InMemoryDataModule(make_samples(8, classes=2), class_names=("a", "b")))
    return callback.numbers


def test_random_numbers_depend_on_seed_and_epoch(tmp_path: Path) -> None:
    """They do not depend on what was drawn before."""
    first = record_random_numbers(tmp_path, seed=1)
    torch.rand(100)  # whatever was drawn in between
    assert record_random_numbers(tmp_path, seed=1) == first
    assert len({*first, *record_random_numbers(tmp_path, seed=2)}) == 6


class OtherValueLogger(Callback):
    """Logs what is no metric of a stage, as Lightning's LearningRateMonitor does."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("lr-SGD/pg1", 0.1)


def train_and_get_rows(epochs: int, folder: Path, **settings: Any) -> list[Row]:
    """The history of a run."""
    history = History()
    callbacks = [OtherValueLogger(), RunCheckpoint(folder / "checkpoints", None, "max", history)]
    model = MLP([], "relu", 0.0, False, in_shape=[2], num_classes=2, task="multiclass", optimizer=SGD)
    data = InMemoryDataModule(make_samples(8, classes=2), make_samples(4, classes=2), class_names=("a", "b"))
    quiet_trainer(folder, callbacks=callbacks, max_epochs=epochs, **settings).fit(model, datamodule=data)
    return history.rows


def test_row_has_training_and_validation_metrics(tmp_path: Path) -> None:
    """Values without a stage, such as a logged learning rate, are left out."""
    rows = train_and_get_rows(2, tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {*rows[1]} == {"epoch", "train/loss", "train/acc", "val/loss", "val/acc"}


def test_epoch_without_validation_has_training_metrics(tmp_path: Path) -> None:
    """An epoch without validation has no validation metrics in its row."""
    rows = train_and_get_rows(3, tmp_path, check_val_every_n_epoch=2)
    assert ["val/loss" in row for row in rows] == [False, True, False]


def test_seconds_accumulate_over_resumed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.0, 130.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    history = History()
    history.load_state_dict({"rows": [], "seconds": 30.0})
    assert history.seconds == 30.0
    history.start()  # at 100
    assert history.seconds == 37.0  # asked at 107
    history.stop()  # at 130
    assert history.seconds == 60.0


def test_epoch_lines_are_throttled_on_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The terminal gets at most one line per second and the last one; the log file gets them all."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    history, trainer = History(), Trainer(logger=False, accelerator="cpu", max_epochs=5)
    caplog.set_level(logging.DEBUG, "src")
    for epoch, seconds in enumerate([0.0, 0.5, 1.2, 1.9, 2.0]):
        trainer.fit_loop.epoch_progress.current.completed = epoch
        now[0] = seconds
        history.log_row(trainer, {"train/loss": 0.123456, "train/acc": 0.5})
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "INFO", "DEBUG", "INFO"]
    assert caplog.messages[1] == "epoch 2/5  train/acc 0.5  train/loss 0.1235"
