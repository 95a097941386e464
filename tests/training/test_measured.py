"""What a run measures, keeps, tests and evaluates later are the same weights, whatever callbacks do to them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch import callbacks

from src.training.validation.refusals import REFUSED_CALLBACKS
from tests.command_line import BARE, Outcome, evaluate, history, load, quick, read_json, run, same, train, weights

LIGHTNING = "lightning.pytorch.callbacks"
SETTINGS = ("model.hidden_size=8", "data.noise=0.4", "trainer.max_epochs=4")
EMA = f"+callbacks.average={{_target_: {LIGHTNING}.EMAWeightAveraging, decay: 0.9}}"
MEAN = f"+callbacks.average._target_={LIGHTNING}.WeightAveraging"
ABSTRACT = ("Callback", "Checkpoint", "BaseFinetuning", "BasePredictionWriter", "ProgressBar", "LambdaCallback")
OTHERS: dict[str, dict[str, Any]] = {  # those that change no weights, with what they need; all are used in one run
    "DeviceStatsMonitor": {"cpu_stats": False},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": {0: 1, 1: 2}},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val/loss", "every_n_train_steps": 3},
    "TQDMProgressBar": {},
    "Timer": {"duration": {"hours": 1}},
}
ELSEWHERE = {  # with a reason why they are not in that run
    "ModelSummary": "shows, and changes nothing",
    "RichModelSummary": "shows, and changes nothing",
    "RichProgressBar": "shows, and changes nothing",
    "SpikeDetection": "ends training",
    "ThroughputMonitor": "asks for a function",
    "BackboneFinetuning": "asks for a model with a backbone",
    "EMAWeightAveraging": "in runs of its own",
    "WeightAveraging": "in runs of its own",
}


def is_measured(outcome: Outcome, cwd: Path, *given: str) -> None:
    """Hold a run's metrics to those that ``src.eval`` measures of its checkpoint, with the settings given."""
    metrics = outcome.metrics
    for split in ("val", "test"):
        evaluate(f"run={outcome.folder}", f"split={split}", *given, cwd=cwd)
        told = read_json(outcome.folder / f"eval_{split}.json")
        assert told[f"{split}/loss"] == pytest.approx(metrics[f"{split}/loss"], rel=1e-6)
        assert told[f"{split}/acc"] == metrics[f"{split}/acc"]


def test_all_lightning_callbacks_are_covered() -> None:
    """Each callback of Lightning is refused, tried in a run or excluded for a stated reason."""
    assert sorted({*REFUSED_CALLBACKS, *OTHERS, *ELSEWHERE, *ABSTRACT}) == sorted(callbacks.__all__)


def test_weight_average_is_validated_and_saved(tmp_path: Path) -> None:
    """With weight averaging, the average is what is validated, kept and tested."""
    plain = weights(quick(*SETTINGS, cwd=tmp_path).folder)
    outcome = quick(*SETTINGS, MEAN, cwd=tmp_path)
    is_measured(outcome, tmp_path)
    averaged, content = weights(outcome.folder), load(outcome.folder / "checkpoints" / "last.ckpt")
    assert same(content["current_model_state"], plain)  # what is trained is as without the average
    assert not any(torch.allclose(averaged[name], plain[name]) for name in plain)


def test_resume_restores_the_weight_average(tmp_path: Path) -> None:
    """A resumed run restores its average of the weights and ends with the result of an uninterrupted one."""
    straight = quick(*SETTINGS, EMA, cwd=tmp_path)
    is_measured(straight, tmp_path)
    folder = quick(*SETTINGS, EMA, "trainer.max_epochs=2", cwd=tmp_path).folder
    train(f"resume={folder}", "trainer.max_epochs=4", cwd=tmp_path)
    assert history(folder) == history(straight.folder)
    assert same(weights(folder), weights(straight.folder))
    assert read_json(folder / "metrics.json")["test/loss"] == straight.metrics["test/loss"]


def test_other_callbacks_leave_metrics_correct(tmp_path: Path) -> None:
    """With all other callbacks at once, the metrics are those of the kept weights."""
    given = [f"+callbacks.{name}={json.dumps({'_target_': f'{LIGHTNING}.{name}'} | OTHERS[name])}" for name in OTHERS]
    bare = ("callbacks=none", "~callbacks.progress")  # there may be one bar; some want a logger
    outcome = train(*bare, *SETTINGS, *(each.replace('"', "") for each in given), cwd=tmp_path)
    is_measured(outcome, tmp_path, "trust=lightning")  # some write elsewhere
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
    outcome = quick(*SETTINGS, "trainer.max_epochs=2", Change.at(moment), cwd=tmp_path)
    is_measured(outcome, tmp_path)


@pytest.mark.parametrize("moment", ["on_validation_epoch_end", "on_validation_end", "on_train_epoch_end"])
def test_weight_change_after_validation_is_refused(moment: str, tmp_path: Path) -> None:
    """Weights that change between validation and checkpoint are refused."""
    outcome = run("src.train", *BARE, *SETTINGS, Change.at(moment), cwd=tmp_path)
    assert "the weights to be saved are not those that were validated; Change or MLP may change them" in outcome.error
    assert not list(tmp_path.rglob("*.ckpt"))


def test_weights_may_change_without_validation(tmp_path: Path) -> None:
    """Without a validation set the weights may change at the end of an epoch."""
    outcome = quick(*SETTINGS, "data.val_size=0", Change.at("on_train_epoch_end"), cwd=tmp_path)
    evaluate(f"run={outcome.folder}", "split=test", cwd=tmp_path)
    told = read_json(outcome.folder / "eval_test.json")["test/loss"]
    assert told == pytest.approx(outcome.metrics["test/loss"], rel=1e-6)


def test_weight_change_after_checkpoint_is_reported(tmp_path: Path) -> None:
    """A change of the weights after the last checkpoint is reported as having no effect."""
    outcome = quick(*SETTINGS, Change.at("on_train_end"), cwd=tmp_path)
    assert "Change or MLP changed the weights after the last checkpoint: this has no effect" in outcome.out
    is_measured(outcome, tmp_path)


def test_weight_change_before_test_is_refused(tmp_path: Path) -> None:
    outcome = run("src.train", *BARE, *SETTINGS, Change.at("on_test_start"), cwd=tmp_path)
    assert "the weights to be tested are not the saved ones; Change or MLP may change them" in outcome.error
    assert "test/loss" not in outcome.metrics
