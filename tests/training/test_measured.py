"""What a run measures, keeps, tests and evaluates later are the same weights, whatever callbacks do to them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch import callbacks

from src.training.validation.refusals import REFUSED_CALLBACKS
from tests.command_line import (
    BARE,
    Outcome,
    evaluate,
    is_identical,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    run,
    train,
    train_bare,
)

LIGHTNING = "lightning.pytorch.callbacks"
SETTINGS = ("model.hidden_size=8", "data.noise=0.4", "trainer.max_epochs=4")
EMA = f"+callbacks.average={{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.9}}"
MEAN = f"+callbacks.average._target_={LIGHTNING}.WeightAveraging"
ABSTRACT = ("Callback", "Checkpoint", "BaseFinetuning", "BasePredictionWriter", "ProgressBar", "LambdaCallback")
HARMLESS_CALLBACKS: dict[
    str, dict[str, Any]
] = {  # those that change no weights, with what they need; all are used in one run
    "DeviceStatsMonitor": {"cpu_stats": False},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": {0: 1, 1: 2}},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val/loss", "every_n_train_steps": 3},
    "TQDMProgressBar": {},
    "Timer": {"duration": {"hours": 1}},
}
EXCLUDED_CALLBACKS = {  # with a reason why they are not in that run
    "ModelSummary": "shows, and changes nothing",
    "RichModelSummary": "shows, and changes nothing",
    "RichProgressBar": "shows, and changes nothing",
    "SpikeDetection": "ends training",
    "ThroughputMonitor": "asks for a function",
    "BackboneFinetuning": "asks for a model with a backbone",
    "EMAWeightAveraging": "in runs of its own",
    "WeightAveraging": "in runs of its own",
}


def assert_metrics_match_evaluation(outcome: Outcome, cwd: Path, *given: str) -> None:
    """Hold a run's metrics to those that ``src.eval`` measures of its checkpoint, with the settings given."""
    metrics = outcome.metrics
    for split in ("val", "test"):
        evaluate(f"run={outcome.folder}", f"split={split}", *given, cwd=cwd)
        told = read_json(outcome.folder / f"eval_{split}.json")
        assert told[f"{split}/loss"] == pytest.approx(metrics[f"{split}/loss"], rel=1e-6)
        assert told[f"{split}/acc"] == metrics[f"{split}/acc"]


def test_all_lightning_callbacks_are_covered() -> None:
    """Each callback of Lightning is refused, tried in a run or excluded for a stated reason."""
    assert sorted({*REFUSED_CALLBACKS, *HARMLESS_CALLBACKS, *EXCLUDED_CALLBACKS, *ABSTRACT}) == sorted(
        callbacks.__all__
    )


def test_weight_average_is_validated_and_saved(tmp_path: Path) -> None:
    """With weight averaging, the average is what is validated, kept and tested."""
    plain = read_weights(train_bare(*SETTINGS, cwd=tmp_path).folder)
    outcome = train_bare(*SETTINGS, MEAN, cwd=tmp_path)
    assert_metrics_match_evaluation(outcome, tmp_path)
    averaged, content = read_weights(outcome.folder), load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")
    assert is_identical(content["current_model_state"], plain)  # what is trained is as without the average
    assert not any(torch.allclose(averaged[name], plain[name]) for name in plain)


def test_resume_restores_the_weight_average(tmp_path: Path) -> None:
    """A resumed run restores its average of the weights and ends with the result of an uninterrupted one."""
    straight = train_bare(*SETTINGS, EMA, cwd=tmp_path)
    assert_metrics_match_evaluation(straight, tmp_path)
    folder = train_bare(*SETTINGS, EMA, "trainer.max_epochs=2", cwd=tmp_path).folder
    train(f"resume={folder}", "trainer.max_epochs=4", cwd=tmp_path)
    assert read_history(folder) == read_history(straight.folder)
    assert is_identical(read_weights(folder), read_weights(straight.folder))
    assert read_json(folder / "metrics.json")["test/loss"] == straight.metrics["test/loss"]


def test_other_callbacks_leave_metrics_correct(tmp_path: Path) -> None:
    """With all other callbacks at once, the metrics are those of the kept weights."""
    given = [
        f"+callbacks.{name}={json.dumps({'_target_': f'{LIGHTNING}.{name}'} | HARMLESS_CALLBACKS[name])}"
        for name in HARMLESS_CALLBACKS
    ]
    bare = ("callbacks=none", "~callbacks.progress")  # there may be one bar; some want a logger
    outcome = train(*bare, *SETTINGS, *(each.replace('"', "") for each in given), cwd=tmp_path)
    assert_metrics_match_evaluation(outcome, tmp_path, "trust=lightning")  # some write elsewhere
    assert outcome.metrics["epochs"] == 4


class Change(Callback):
    """Doubles the weights at a moment of a run; before validation and test they are doubled for as long as that takes.

    Args:
        moment: the name of a hook.
    """

    def __init__(self, moment: str) -> None:
        setattr(self, moment, self.double)

    @staticmethod
    def double(trainer: Any, pl_module: Any, *args: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.data.mul_(2)

    @classmethod
    def at(cls, moment: str) -> str:
        return f"+callbacks.change={{_target_: {__name__}.Change, moment: {moment}}}"


@pytest.mark.parametrize("moment", ["on_train_epoch_start", "on_train_batch_end", "on_validation_start"])
def test_weights_may_change_before_validation(moment: str, tmp_path: Path) -> None:
    outcome = train_bare(*SETTINGS, "trainer.max_epochs=2", Change.at(moment), cwd=tmp_path)
    assert_metrics_match_evaluation(outcome, tmp_path)


@pytest.mark.parametrize("moment", ["on_validation_epoch_end", "on_validation_end", "on_train_epoch_end"])
def test_weight_change_after_validation_is_refused(moment: str, tmp_path: Path) -> None:
    """Weights that change between validation and checkpoint are refused."""
    outcome = run("src.train", *BARE, *SETTINGS, Change.at(moment), cwd=tmp_path)
    assert "the weights to be saved are not those that were validated; Change or MLP may change them" in outcome.error
    assert not list(tmp_path.rglob("*.ckpt"))


def test_weights_may_change_without_validation(tmp_path: Path) -> None:
    """Without a validation set the weights may change at the end of an epoch."""
    outcome = train_bare(*SETTINGS, "data.val_size=0", Change.at("on_train_epoch_end"), cwd=tmp_path)
    evaluate(f"run={outcome.folder}", "split=test", cwd=tmp_path)
    told = read_json(outcome.folder / "eval_test.json")["test/loss"]
    assert told == pytest.approx(outcome.metrics["test/loss"], rel=1e-6)


def test_weight_change_after_checkpoint_is_reported(tmp_path: Path) -> None:
    """A change of the weights after the last checkpoint is reported as having no effect."""
    outcome = train_bare(*SETTINGS, Change.at("on_train_end"), cwd=tmp_path)
    assert "Change or MLP changed the weights after the last checkpoint: this has no effect" in outcome.out
    assert_metrics_match_evaluation(outcome, tmp_path)


def test_weight_change_before_test_is_refused(tmp_path: Path) -> None:
    outcome = run("src.train", *BARE, *SETTINGS, Change.at("on_test_start"), cwd=tmp_path)
    assert "the weights to be tested are not the saved ones; Change or MLP may change them" in outcome.error
    assert "test/loss" not in outcome.metrics
