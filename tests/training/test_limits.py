"""Limits of an epoch: shares and numbers of batches, checked before training for all sets."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from src.core.errors import InputError
from src.training.validation.limits import check_limits
from tests.command_line import BARE, BatchRecorder, evaluate, read_json, run, train_bare
from tests.doubles import InMemoryDataModule, make_samples

# 30 training batches, 40 validation samples, 300 test samples: the smallest share that will do, and what is refused.
SMALLEST = {
    "limit_train_batches": (0.034, 0.03, "of 30 training batches is none"),
    "overfit_batches": (0.034, 0.01, "of 30 training batches is none"),
    "limit_val_batches": (0.025, 0.01, "of 40 validation samples is none"),
    "limit_test_batches": (0.0034, 0.001, "of 300 test samples is none"),
}


@pytest.fixture(scope="module")
def data() -> InMemoryDataModule:
    torch.manual_seed(0)
    return InMemoryDataModule(make_samples(300, 2), make_samples(40, 2), make_samples(300, 2), class_names=("a", "b"))


@pytest.mark.parametrize("name", SMALLEST)
def test_too_small_fraction_is_refused(name: str, data: InMemoryDataModule) -> None:
    """A fraction that leaves nothing is refused with the smallest one that would do."""
    smallest, none, words = SMALLEST[name]
    with pytest.raises(InputError) as caught:
        check_limits(OmegaConf.create({name: none}), data)
    assert f"trainer.{name}={none} {words}: give {smallest} or more" in str(caught.value)
    check_limits(OmegaConf.create({name: smallest}), data)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"val_check_interval": 0.4}, "after each 12 of 30 batches the last validation would come before"),
        ({"val_check_interval": 0.4}, "use 10 or 15 (batches)"),
        ({"val_check_interval": 31}, "trainer.val_check_interval=31: an epoch has 30 batches"),
        ({"val_check_interval": 30, "limit_train_batches": 0.5}, "an epoch has 15 batches"),
        ({"val_check_interval": 0.5}, None),
        ({"val_check_interval": 0.001}, None),  # after each batch
        ({"val_check_interval": 0.4, "limit_val_batches": 0}, None),
        ({"val_check_interval": 6, "limit_train_batches": 12}, None),
        ({"overfit_batches": 2, "limit_train_batches": 3}, "trainer.limit_train_batches=3 has no effect"),
        ({"overfit_batches": 2, "limit_val_batches": 0.5}, "trainer.overfit_batches=2 replaces it"),
        ({"overfit_batches": 0.5, "limit_val_batches": 1}, "trainer.limit_val_batches=1 has no effect"),
        ({"overfit_batches": 2, "limit_val_batches": 1.0, "limit_test_batches": 1}, None),
        ({"min_epochs": 5, "max_epochs": 3}, "trainer.min_epochs=5 has no effect: training ends with"),
    ],
)
def test_ineffective_limits_are_refused(
    settings: dict[str, float], words: str | None, data: InMemoryDataModule
) -> None:
    """Limits that have no effect, and intervals that leave an epoch's end unvalidated, are refused."""
    if words is None:
        check_limits(OmegaConf.create(settings), data)
        return
    with pytest.raises(InputError) as caught:
        check_limits(OmegaConf.create(settings), data)
    assert words in str(caught.value)


def test_evaluation_fraction_is_of_samples(tmp_path: Path) -> None:
    """XOR's 100 validation and 1000 test points fit one batch and two."""
    shares = ("trainer.limit_val_batches=0.3", "trainer.limit_test_batches=0.25", "data.noise=0.4")
    outcome = train_bare(*shares, "data.test_size=1000", "trainer.max_epochs=2", BatchRecorder.SETTING, cwd=tmp_path)
    assert [len(batch.targets) for batch in BatchRecorder.last.tested] == [250]
    metrics, given = outcome.metrics, BatchRecorder.last.data
    assert (given.test_set.size, given.val_set.size) == (1000, 100)
    assert [len(batch.targets) for batch in given.val_dataloader()] == [30]
    for split in ("val", "test"):
        evaluate(f"run={outcome.folder}", f"split={split}", cwd=tmp_path)
        assert read_json(outcome.folder / f"eval_{split}.json")[f"{split}/loss"] == pytest.approx(
            metrics[f"{split}/loss"]
        )
    evaluate(f"run={outcome.folder}", "split=test", "trainer.limit_test_batches=1.0", cwd=tmp_path)
    assert read_json(outcome.folder / "eval_test.json")["test/loss"] != pytest.approx(metrics["test/loss"], abs=1e-4)


def test_overfit_run_evaluates_its_own_batches(tmp_path: Path) -> None:
    """A run that overfits a few batches is evaluated on those on which it was validated."""
    outcome = train_bare("trainer.overfit_batches=0.2", "data.noise=0.4", "trainer.max_epochs=2", cwd=tmp_path)
    evaluate(f"run={outcome.folder}", cwd=tmp_path)
    told = read_json(outcome.folder / "eval_val.json")["val/loss"]
    assert told == pytest.approx(outcome.metrics["val/loss"], rel=1e-6)


def test_a_limit_is_refused_before_training(tmp_path: Path) -> None:
    outcome = run("src.train", *BARE, "data.test_size=100", "trainer.limit_test_batches=0.001", cwd=tmp_path)
    assert "trainer.limit_test_batches=0.001 of 100 test samples is none: give 0.01 or more" in outcome.error
    assert not list(tmp_path.rglob("*.ckpt"))


def test_cut_epoch_has_no_validation_metrics(tmp_path: Path) -> None:
    """The validation after step 15 is not one of the weights after step 17."""
    outcome = train_bare("+trainer.val_check_interval=0.5", "trainer.max_steps=17", cwd=tmp_path)
    assert outcome.metrics["epochs"] == 2
    assert outcome.metrics["best_epoch"] == 1
    evaluate(f"run={outcome.folder}", cwd=tmp_path)
    assert read_json(outcome.folder / "eval_val.json")["val/loss"] == pytest.approx(
        outcome.metrics["val/loss"], rel=1e-6
    )
