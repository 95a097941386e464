import csv
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from src.callbacks.history import History
from src.core.errors import InputError
from src.models.base import SupervisedModule
from src.storage.files import StorageError
from src.storage.weights import load_weights, read_checkpoint
from src.training.checkpointing.checkpoint import AtomicCheckpointIO, RunCheckpoint
from tests.command_line import read_history, read_json, train, train_bare
from tests.doubles import InMemoryDataModule, make_samples, quiet_trainer
from tests.training.test_resume import assert_the_same_run


class Scripted(SupervisedModule):
    """Learns nothing; its validation metric follows a script, one value an epoch."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__([2], 0, "regression", {"_target_": "torch.optim.SGD", "lr": 0.1})
        self.net, self.scores = nn.Linear(2, 1), scores

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", self.scores[self.current_epoch])


def fit(
    folder: Path,
    scores: list[float],
    monitor: str | None = "val/score",
    mode: str = "max",
    ckpt_path: str | None = None,
    **settings: Any,
) -> RunCheckpoint:
    checkpoint = RunCheckpoint(folder, monitor, mode, History())
    trainer = quiet_trainer(folder, callbacks=[checkpoint], max_epochs=len(scores), **settings)
    trainer.fit(
        Scripted(scores),
        datamodule=InMemoryDataModule(make_samples(4), make_samples(4), task="regression"),
        ckpt_path=ckpt_path,
    )
    return checkpoint


def read_epoch(path: str | Path) -> int:
    return int(read_checkpoint(path)["epoch"])


def test_best_and_last_epochs_are_saved(tmp_path: Path) -> None:
    """The file best.ckpt holds the best epoch and last.ckpt the last one."""
    checkpoint = fit(tmp_path, [0.1, 0.9, 0.5])
    assert Path(checkpoint.best_model_path) == tmp_path / "best.ckpt"
    assert read_epoch(tmp_path / "best.ckpt") == 1
    assert read_epoch(tmp_path / "last.ckpt") == 2
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


def test_best_epoch_follows_monitor_mode(tmp_path: Path) -> None:
    """With mode min the epoch with the lowest score is the best."""
    fit(tmp_path, [0.5, 0.1, 0.9], mode="min")
    assert read_epoch(tmp_path / "best.ckpt") == 1


def test_latest_of_equal_epochs_is_kept(tmp_path: Path) -> None:
    """Of several epochs with the same score, the latest is kept as the best."""
    fit(tmp_path, [0.5, 0.9, 0.9, 0.7])
    assert read_epoch(tmp_path / "best.ckpt") == 2


def test_only_last_is_kept_without_monitor(tmp_path: Path) -> None:
    checkpoint = fit(tmp_path, [0.5, 0.9], monitor=None)
    assert Path(checkpoint.best_model_path) == tmp_path / "last.ckpt"
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


def test_unvalidated_epoch_is_not_scored(tmp_path: Path) -> None:
    """An epoch without validation is not judged by the score of an earlier one."""
    checkpoint = fit(tmp_path, [0.0, 0.9, 0.0, 0.5, 0.0], check_val_every_n_epoch=2)
    assert [row.get("val/score") for row in checkpoint.history.rows] == [None, pytest.approx(0.9), None, 0.5, None]
    assert read_epoch(tmp_path / "best.ckpt") == 1
    assert read_epoch(tmp_path / "last.ckpt") == 4


def test_last_is_kept_if_never_validated(tmp_path: Path) -> None:
    checkpoint = fit(tmp_path, [0.5, 0.9], check_val_every_n_epoch=3)
    assert Path(checkpoint.best_model_path) == tmp_path / "last.ckpt"


# Validated, and kept, every fifth epoch


class SavedEpochs(Callback):
    """Notes in each epoch what is on the disk: the epochs of last.ckpt, of metrics.json and of history.csv."""

    SETTING = "+callbacks.kept._target_=tests.training.test_checkpoints.SavedEpochs"
    seen: ClassVar[list[list[int]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.seen.append(read_saved_epochs(Path(trainer.default_root_dir)))


def read_saved_epochs(folder: Path) -> list[int]:
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not checkpoint.exists():
        assert not (folder / "metrics.json").exists() and not (folder / "history.csv").exists()
        return [0, 0, 0]
    return [read_epoch(checkpoint) + 1, read_json(folder / "metrics.json")["epochs"], len(read_history_table(folder))]


def read_history_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class StopOnce(Callback):
    """Fails as the eighth epoch begins, once in the life of a run."""

    SETTING = "+callbacks.stop._target_=tests.training.test_checkpoints.StopOnce"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        mark = Path(trainer.default_root_dir) / "was_stopped"
        if trainer.current_epoch == 7 and not mark.exists():
            mark.touch()
            raise RuntimeError("stopped in the eighth epoch")


EVERY_FIFTH = ("trainer.check_val_every_n_epoch=5", "trainer.max_epochs=12", "data.train_size=40")


def test_checkpoints_follow_the_validation_interval(tmp_path: Path) -> None:
    """Checkpoints and metrics are written at every fifth epoch, which is validated, and at the last one."""
    SavedEpochs.seen.clear()
    folder = train_bare(*EVERY_FIFTH, SavedEpochs.SETTING, cwd=tmp_path).folder
    assert SavedEpochs.seen == [[0, 0, 0]] * 5 + [[5, 5, 5]] * 5 + [[10, 10, 10]] * 2
    assert read_saved_epochs(folder) == [12, 12, 12]
    assert read_epoch(folder / "checkpoints" / "best.ckpt") + 1 in (5, 10)


def test_history_has_a_row_per_epoch(tmp_path: Path) -> None:
    """The file history.csv has a row of metrics for each epoch."""
    folder = train_bare(*EVERY_FIFTH, cwd=tmp_path).folder
    rows = read_history_table(folder)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert [int(row["epoch"]) for row in rows if row["val/loss"]] == [5, 10]
    assert all((row["val/acc"] == "") == (row["val/loss"] == "") for row in rows)
    for row, kept in zip(rows, read_history(folder), strict=True):
        assert {name: float(value) for name, value in row.items() if value} == kept
        assert {"train/loss", "train/acc"} <= set(kept)


@pytest.mark.parametrize("scheduler", ["none", "cosine"])
def test_failed_run_resumes_from_fifth_epoch(scheduler: str, tmp_path: Path) -> None:
    """A failed run resumes from the fifth epoch with the result of a run that never failed."""
    settings = [*EVERY_FIFTH, "model.dropout=0.2", "optimizer=sgd", f"scheduler={scheduler}", "data.noise=0.3"]
    whole = train_bare(*settings, "name=whole", cwd=tmp_path).folder
    with pytest.raises(RuntimeError, match="in the eighth epoch"):
        train_bare(*settings, StopOnce.SETTING, "name=stopped", cwd=tmp_path)
    stopped = whole.parent / "stopped"
    assert read_saved_epochs(stopped) == [5, 5, 5]  # all of them tell of the weights that it goes on from
    train(f"resume={stopped}", cwd=tmp_path)
    assert_the_same_run(stopped, whole)
    assert (stopped / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_run_ended_between_validations_resumes_exactly(tmp_path: Path) -> None:
    """A run that ended between two validations trains longer with the result of one run of that length."""
    settings = [*EVERY_FIFTH, "model.dropout=0.2", "optimizer=sgd", "data.noise=0.3"]
    whole = train_bare(*settings, "name=whole", cwd=tmp_path).folder
    longer = train_bare(*settings, "trainer.max_epochs=7", "name=longer", cwd=tmp_path).folder
    assert read_saved_epochs(longer) == [7, 7, 7]
    train(f"resume={longer}", "trainer.max_epochs=12", cwd=tmp_path)
    assert_the_same_run(longer, whole)
    assert (longer / "history.csv").read_text() == (whole / "history.csv").read_text()


# Reading and writing


def test_resume_in_moved_folder_keeps_best(tmp_path: Path) -> None:
    """A run that is resumed after its folder has moved keeps its best checkpoint."""
    fit(tmp_path / "old", [0.5, 0.9])
    (tmp_path / "old").rename(tmp_path / "new")
    last = str(tmp_path / "new" / "last.ckpt")
    checkpoint = fit(tmp_path / "new", [0.5, 0.9, 0.7], ckpt_path=last)
    assert checkpoint.best_model_score == pytest.approx(0.9)
    assert read_epoch(tmp_path / "new" / "best.ckpt") == 1
    assert read_epoch(tmp_path / "new" / "last.ckpt") == 2


def test_failed_write_keeps_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def half(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(StorageError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}


def test_open_checkpoint_survives_the_next_write(tmp_path: Path) -> None:
    """A reader that has a checkpoint open reads it to its end while the next one is written."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with path.open("rb") as reader:
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
        assert torch.load(reader, weights_only=True) == {"step": 1}
    assert read_checkpoint(path) == {"step": 2}


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.ckpt does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"a\.ckpt is truncated or not a checkpoint"):
        read_checkpoint(path)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 3).state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"weight has shape \(3, 2\) there, \(4, 2\) here"):
        load_weights(nn.Linear(2, 4), tmp_path / "a.ckpt")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 3, bias=False).state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"bias \(the checkpoint lacks it\)"):
        load_weights(nn.Linear(2, 3), tmp_path / "a.ckpt")


def test_weights_that_fit_are_loaded(tmp_path: Path) -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "a.ckpt")
    load_weights(target, tmp_path / "a.ckpt")
    assert torch.equal(source.weight, target.weight)
    assert torch.equal(source.bias, target.bias)
