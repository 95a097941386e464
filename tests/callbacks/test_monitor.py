"""What chooses: ``monitor``, ``mode`` and ``test``."""

from pathlib import Path

import pytest

from src.callbacks.monitor import format_metric_name, infer_mode
from src.sweeps.store.jobs import compute_identity
from tests.command_line import BARE, NO_FIGURES, ReturnRecorder, read_history, read_json, run, train, train_bare

SHORT = ("trainer.max_epochs=3", "optimizer.lr=0.003")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val/loss", "min"),
        ("val_acc", "max"),
        ("valid.F1Score", "max"),
        ("val/MeanSquaredError", "min"),
        ("val/acc_error", "min"),
        ("val/mAP", "max"),
        ("val/loss/dataloader_idx_1", "min"),
        ("val/lossless", None),
        ("val/score", None),
    ],
)
def test_mode_is_inferred_from_metric_name(name: str, mode: str | None) -> None:
    assert infer_mode(name) == mode


@pytest.mark.parametrize(
    ("name", "stage", "spelled"),
    [
        ("val_loss", "val", "val/loss"),
        ("validation/loss", "val", "val/loss"),
        ("loss", "train", "train/loss"),
        ("value", "val", "val/value"),
        ("test_acc", "test", "test/acc"),
    ],
)
def test_metric_name_starts_with_stage(name: str, stage: str, spelled: str) -> None:
    assert format_metric_name(name, stage) == spelled


def test_monitor_selects_weights_and_return_value(tmp_path: Path) -> None:
    """The monitored metric selects the weights, and its best value is what the run returns."""
    ReturnRecorder.values.clear()
    asked = ("monitor=val/loss", "callbacks=early_stopping", *NO_FIGURES, "logger=none")
    outcome = train(*asked, ReturnRecorder.SETTING, *SHORT, cwd=tmp_path)
    metrics = outcome.metrics
    assert (metrics["monitor"], metrics["mode"]) == ("val/loss", "min")
    assert ReturnRecorder.values == [metrics["best"]] == [min(row["val/loss"] for row in read_history(outcome.folder))]


def test_training_metric_can_be_monitored(tmp_path: Path) -> None:
    """It is measured in each epoch, also in those without validation."""
    asked = ("monitor=train/loss", "mode=max", "data.val_size=0", "trainer.check_val_every_n_epoch=5")
    metrics = train_bare(*asked, *SHORT, cwd=tmp_path).metrics
    assert (metrics["best_epoch"], metrics["best"]) == (1, metrics["train/loss"])  # the worst, as asked


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["monitor=val/foo", "mode=min"], "monitor=val/foo is never measured; this run measures train/acc, train/loss"),
        (
            ["monitor=val/acc", "data=cubic"],
            "monitor=val/acc is never measured; this run measures train/loss, val/loss",
        ),
        (["monitor=val/acc", "data.val_size=0"], "train/loss (there is no validation set: data.val_size is 0)"),
        (["monitor=val/acc", "trainer.limit_val_batches=0"], "validation set: trainer.limit_val_batches is 0)"),
        (
            ["callbacks=early_stopping", "trainer.limit_val_batches=0"],
            "EarlyStopping needs a validation set: trainer.limit_val_batches is 0",
        ),
        (["+callbacks.own={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val_loss}"], "mean val/loss?"),
        (["+callbacks.own={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: acc}"], "measured; this run"),
        (
            ["monitor=val/loss", "trainer.check_val_every_n_epoch=5", "trainer.max_epochs=2"],
            "never measured: trainer.check_val_every_n_epoch=5 is more than trainer.max_epochs=2",
        ),
        (["mode=max", "data.val_size=0"], "mode=max: no metric is monitored; give monitor=NAME, too"),
        (["monitor=test/acc"], "monitor=test/acc must be null or the name of a metric of training or validation"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/los"],
            "callbacks.early_stopping.monitor=val/los is never measured",
        ),
    ],
)
def test_unmeasured_monitor_is_refused_before_training(asked: list[str], told: str, tmp_path: Path) -> None:
    assert told in run("src.train", "logger=none", *asked, cwd=tmp_path).error


def test_early_stopping_infers_own_mode(tmp_path: Path) -> None:
    """With a monitor of its own, early stopping infers the mode from that name."""
    own = ("callbacks=early_stopping", *NO_FIGURES, "callbacks.early_stopping.monitor=val/loss", "logger=none")
    stop = ("callbacks.early_stopping.patience=0", "callbacks.early_stopping.min_delta=100.0")
    outcome = train(*own, *stop, *SHORT, cwd=tmp_path)
    assert (outcome.metrics["monitor"], outcome.metrics["epochs"]) == ("val/acc", 2)  # the loss never falls by 100


def test_disabled_test_is_skipped(tmp_path: Path) -> None:
    """With test=false nothing is tested; a sweep still ranks its jobs, and its report says so."""
    sweep = ("-m", "test=false", "monitor=val/loss", "seed=0,1", "name=untested", *SHORT)
    outcome = run("src.train", *BARE, *sweep, "hydra/launcher=vectorized", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    found = [read_json(folder / "metrics.json") for folder in outcome.folders if (folder / "metrics.json").is_file()]
    assert len(found) == 2
    assert all(metrics["monitor"] == "val/loss" and not any("test" in name for name in metrics) for metrics in found)
    assert "val/loss, lower is better" in outcome.out
    assert "not tested" in outcome.out
    alone = train_bare("test=false", "monitor=val/loss", "seed=1", *SHORT, cwd=tmp_path).metrics
    assert alone["best"] == pytest.approx(found[1]["best"], rel=1e-3)


def test_default_monitor_keeps_job_identity() -> None:
    """A job from before these settings existed has the same identity."""
    before = {"seed": 0, "model.hidden_size": 5}
    assert compute_identity(before) == compute_identity({**before, "monitor": None, "mode": None, "test": True})
    assert compute_identity(before) != compute_identity({**before, "monitor": "val/loss"})


def test_long_name_is_abbreviated_in_error(tmp_path: Path) -> None:
    assert len(run("src.train", f"monitor={5000 * 'a'}", cwd=tmp_path).error) < 400
