"""python -m src.eval: a run's metrics again, from its own folder."""

import shutil
from pathlib import Path

import pytest

from tests.command_line import (
    BatchRecorder,
    Outcome,
    WeightEraser,
    evaluate,
    get_image_settings,
    read_json,
    run,
    run_process,
    train_bare,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run whose metrics are far from round numbers, and whose best and last epochs differ."""
    settings = ["data.noise=0.3", "trainer.max_epochs=6", WeightEraser.setting(epoch=5), "name=trained"]
    return train_bare(*settings, cwd=tmp_path_factory.mktemp("eval"))


@pytest.fixture
def folder(trained: Outcome, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "outputs" / "runs" / "trained"))


def test_default_evaluation_repeats_validation_metrics(folder: Path, tmp_path: Path) -> None:
    """By default the validation set is evaluated, with the metrics of the run itself."""
    outcome = evaluate("run=outputs/runs/trained", cwd=tmp_path)
    result, metrics = read_json(folder / "eval_val.json"), read_json(folder / "metrics.json")
    assert result == {
        "val/loss": pytest.approx(metrics["val/loss"], rel=1e-6),
        "val/acc": metrics["val/acc"],
        "checkpoint": "best.ckpt",
        "epoch": metrics["best_epoch"],
    }
    assert f"val/acc {metrics['val/acc']:.2%}" in outcome.out
    assert outcome.err == ""


def test_split_test_gives_the_runs_test_metrics(folder: Path, tmp_path: Path) -> None:
    evaluate(f"run={folder}", "split=test", cwd=tmp_path)
    result, metrics = read_json(folder / "eval_test.json"), read_json(folder / "metrics.json")
    assert result["test/acc"] == metrics["test/acc"]
    assert result["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-6)
    assert not (folder / "eval_val.json").exists()


def test_evaluation_prints_one_line(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, too, where Lightning would tell much about itself."""
    outcome = run_process("src.eval", f"run={folder}", cwd=tmp_path)
    assert outcome.err == "" and outcome.out.count("\n") == 1 and outcome.out.startswith("best.ckpt of ")


def test_evaluation_uses_the_runs_precision(tmp_path: Path) -> None:
    """A run is evaluated in the precision in which it was tested, unless another one is given."""
    settings = ("model.hidden_size=300", "data.noise=0.4", "trainer.precision=bf16-mixed", "trainer.max_epochs=3")
    folder = train_bare(*settings, cwd=tmp_path).folder
    evaluate(f"run={folder}", "split=test", cwd=tmp_path)
    tested = read_json(folder / "metrics.json")["test/loss"]
    assert read_json(folder / "eval_test.json")["test/loss"] == tested
    evaluate(f"run={folder}", "split=test", "trainer.precision=32-true", cwd=tmp_path)
    assert 0 < abs(read_json(folder / "eval_test.json")["test/loss"] - tested) < 0.01


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["data=gate"], "there is no setting data: a run is evaluated with its own settings"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0: there is nothing to evaluate"),
        (["trainer.limit_test_batches=0.5"], "trainer.limit_test_batches=0.5 has no effect with split=val"),
        (["split=test", "trainer.limit_val_batches=0"], "trainer.limit_val_batches=0 has no effect with split=test"),
    ],
)
def test_ineffective_limit_is_refused(given: list[str], words: str, folder: Path, tmp_path: Path) -> None:
    """A limit that leaves nothing to evaluate or that applies to the other set is refused."""
    assert words in run("src.eval", f"run={folder}", *given, cwd=tmp_path).error
    assert not list(folder.glob("eval_*"))


def test_last_checkpoint_can_be_evaluated(folder: Path, tmp_path: Path) -> None:
    """With checkpoint=last the weights of the last epoch are evaluated, not the best ones."""
    evaluate(f"run={folder}", "checkpoint=last", cwd=tmp_path)
    result, metrics = read_json(folder / "eval_val.json"), read_json(folder / "metrics.json")
    assert (result["checkpoint"], result["epoch"]) == ("last.ckpt", 6)
    assert metrics["best_epoch"] <= 4
    assert result["val/loss"] == pytest.approx(0.6931, abs=1e-4)  # ln 2: all weights are zero by then
    assert metrics["val/loss"] < 0.6


def test_evaluation_changes_no_other_file(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    evaluate(f"run={folder}", cwd=tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before
    assert set(after) - set(before) == {folder / "eval_val.json"}


def test_run_without_validation_needs_split_test(tmp_path: Path) -> None:
    """A run without a validation set can only be evaluated on the test set."""
    outcome = train_bare("data.val_size=0", "trainer.max_epochs=1", cwd=tmp_path)
    error = run("src.eval", f"run={outcome.folder}", cwd=tmp_path).error
    assert "data.val_size is 0" in error
    assert "split=test" in error
    evaluate(f"run={outcome.folder}", "split=test", cwd=tmp_path)
    result = read_json(outcome.folder / "eval_test.json")
    assert (result["test/acc"], result["checkpoint"]) == (outcome.metrics["test/acc"], "last.ckpt")


def test_the_data_folder_may_have_moved(data_dir: Path, tmp_path: Path) -> None:
    settings = ["data=mnist", "data.val_size=40", "trainer.max_epochs=1", *get_image_settings(data_dir)]
    outcome = train_bare(*settings, cwd=tmp_path)
    config = outcome.folder / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(data_dir), str(tmp_path / "no-longer-here")))
    evaluate(f"run={outcome.folder}", f"paths.data={data_dir}", cwd=tmp_path)
    assert read_json(outcome.folder / "eval_val.json")["val/acc"] == outcome.metrics["val/acc"]


def test_evaluation_repeats_the_validation_split(data_dir: Path, tmp_path: Path) -> None:
    """Evaluation uses the validation split that the run's settings determine."""
    settings = ["data=mnist", "data.val_size=0.25", "data.split_seed=7", "seed=3", *get_image_settings(data_dir)]
    outcome = train_bare(*settings, BatchRecorder.SETTING, "trainer.max_epochs=2", cwd=tmp_path)
    assert BatchRecorder.last.data.val_set.size == 50
    evaluate(f"run={outcome.folder}", cwd=tmp_path)
    result = read_json(outcome.folder / "eval_val.json")
    assert result["val/acc"] == outcome.metrics["val/acc"]
    assert result["val/loss"] == pytest.approx(outcome.metrics["val/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), ["run=", "missing", "--help"]),
        (("run=outputs/runs/nope",), ["run=outputs/runs/nope", "no run there"]),
        (("run=.",), ["run=.", "no run there"]),
        (("run=outputs/runs/trained", "split=foo"), ["split=foo", "val or test"]),
        (("run=outputs/runs/trained", "split=train"), ["split=train", "val or test"]),
        (("run=outputs/runs/trained", "checkpoint=outputs/other.ckpt"), ["outputs/other.ckpt", "does not exist"]),
        (("runs=outputs/runs/trained",), ["runs", "did you mean run?"]),
    ],
)
def test_invalid_evaluation_is_refused(
    arguments: tuple[str, ...], told: list[str], folder: Path, tmp_path: Path
) -> None:
    """An evaluation that is not possible is refused in one line."""
    error = run("src.eval", *arguments, cwd=tmp_path).error
    assert [words for words in told if words not in error] == []
    assert not list(folder.glob("eval_*.json"))


def test_run_without_epoch_cannot_be_evaluated(folder: Path, tmp_path: Path) -> None:
    """A run that has not finished an epoch has nothing to evaluate."""
    shutil.rmtree(folder / "checkpoints")
    error = run("src.eval", f"run={folder}", cwd=tmp_path).error
    assert "best.ckpt" in error
    assert "has not finished an epoch" in error


def test_training_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    """Settings of training are refused in an evaluation, and its help does not show them."""
    for setting in ("trainer.max_epochs=3", "+trainer.max_time=00:00:01:00", "trainer.overfit_batches=1"):
        error = run("src.eval", f"run={folder}", setting, cwd=tmp_path).error
        assert f"{setting.split('=')[0].lstrip('+')} has no effect in an evaluation" in error
    shown = run("src.eval", "--help", cwd=tmp_path).out
    assert "limit_test_batches: null" in shown
    assert "max_epochs" not in shown
    assert "overfit_batches" not in shown
