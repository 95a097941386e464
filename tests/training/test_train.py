"""python -m src.train: what a run does, and what it leaves."""

import json
import math
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.command_line import (
    BatchRecorder,
    Outcome,
    ReturnRecorder,
    WeightEraser,
    get_small_image_settings,
    is_identical,
    load_checkpoint,
    read_history,
    read_json,
    read_weights,
    run,
    train,
    train_bare,
)

STEPS = 10  # of an epoch on XOR: 100 points in batches of 10
LEARNABLE = {"mlp": 79510, "cnn": 241898, "resnet18": 11181642}  # parameters for images (1, 28, 28), by hand
LEARNABLE_COLOUR = {"mlp": 308310, "cnn": 357162, "resnet18": 11181642}  # for (3, 32, 32)


# The default run


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train(cwd=tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def events(default: Outcome) -> EventAccumulator:
    accumulator = EventAccumulator(str(default.folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def test_the_default_run_solves_xor(default: Outcome) -> None:
    assert default.metrics["test/acc"] == 1.0
    assert default.metrics["test/acc_per_class"] == {"0": 1.0, "1": 1.0}
    assert default.metrics["test/loss"] < 0.01


def test_metrics_json_has_kept_epoch_and_test(default: Outcome) -> None:
    """The file metrics.json has the metrics of the kept epoch and of the test."""
    metrics, rows = default.metrics, read_history(default.folder)
    best = max(row["val/acc"] for row in rows)
    kept = [row for row in rows if row["val/acc"] == best][-1]  # of equals the latest
    stages = {f"{stage}/{measure}" for stage in ("train", "val", "test") for measure in ("loss", "acc")}
    about = {"test/acc_per_class", "monitor", "mode", "best", "best_epoch", "epochs", "seconds", "parameters", "seed"}
    assert set(metrics) == stages | about
    assert {name: metrics[name] for name in kept if name != "epoch"} == {k: v for k, v in kept.items() if k != "epoch"}
    assert (metrics["monitor"], metrics["mode"], metrics["best"]) == ("val/acc", "max", best)
    assert (metrics["best_epoch"], metrics["epochs"]) == (kept["epoch"], 50)
    assert metrics["parameters"] == 2 * 100 + 100 + 100 + 1
    assert metrics["seconds"] > 0
    assert metrics["seed"] == 0


def test_run_leaves_one_folder(default: Outcome) -> None:
    """A run leaves one folder below outputs/runs, with all its files."""
    assert default.folder.parent.name == "runs"
    assert default.folder.parent.parent.name == "outputs"
    names = {path.name for path in default.folder.iterdir()}
    assert {".hydra", "checkpoints", "figures", "metrics.json", "status.json", "provenance.json", "train.log"} <= names
    assert {path.name for path in (default.folder / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    assert not [path for path in default.folder.rglob("*") if path.name.endswith(".partial")]


def test_finished_run_has_status_finished(default: Outcome) -> None:
    assert read_json(default.folder / "status.json") == {"status": "finished", "reason": None, "message": None}


def test_provenance_has_command_versions_and_device(default: Outcome) -> None:
    provenance = read_json(default.folder / "provenance.json")
    assert provenance["command"] == "python -m src.train"
    assert provenance["device"] == "CPU, 1 thread"
    assert {"torch", "lightning", "hydra-core", "numpy"} <= set(provenance["packages"])
    assert all(version(name) == number for name, number in provenance["packages"].items())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", provenance["started"])


def test_the_checkpoints_are_tensors_and_plain_values(default: Outcome) -> None:
    assert {path.name for path in (default.folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert load_checkpoint(default.folder / "checkpoints" / "last.ckpt")["epoch"] == 49
    assert load_checkpoint(default.folder / "checkpoints" / "best.ckpt")["epoch"] == default.metrics["best_epoch"] - 1
    assert sum(tensor.numel() for tensor in read_weights(default.folder, "best").values()) == 401


def test_tensorboard_has_all_metrics(default: Outcome, events: EventAccumulator) -> None:
    """TensorBoard finds each metric of each epoch and one point of each test metric."""
    assert list(default.folder.glob("events.out.tfevents.*"))  # flat: no folder of versions between
    for stage in ("train", "val"):
        for measure in ("loss", "acc"):
            points = events.Scalars(f"{stage}/{measure}")
            assert [point.step for point in points] == [STEPS * (epoch + 1) - 1 for epoch in range(50)]
            expected = [row[f"{stage}/{measure}"] for row in read_history(default.folder)]
            assert [point.value for point in points] == pytest.approx(expected)
    for measure in ("test/loss", "test/acc"):
        assert [point.value for point in events.Scalars(measure)] == pytest.approx([default.metrics[measure]])


def test_figures_are_files_and_in_tensorboard(default: Outcome, events: EventAccumulator) -> None:
    names = {"curves", "decision_regions", "confusion_matrix"}
    assert {path.stem for path in (default.folder / "figures").glob("*.png")} == names
    assert set(events.Tags()["images"]) == {f"visuals/{name}" for name in names}
    for name in names:
        picture = Image.open(default.folder / "figures" / f"{name}.png")
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 10


def test_log_has_a_line_per_epoch(default: Outcome) -> None:
    lines = re.findall(r"epoch (\d+)/50  train/acc .* val/loss", (default.folder / "train.log").read_text())
    assert lines == [str(epoch) for epoch in range(1, 51)]


def test_output_ends_with_next_commands(default: Outcome) -> None:
    """The output ends with the run's folder and the commands that evaluate it and train it longer."""
    shown = f"outputs/runs/{default.folder.name}"
    assert f"python -m src.eval run={shown}" in default.out
    assert f"python -m src.train resume={shown} trainer.max_epochs=100" in default.out
    assert "test/acc 100.00%" in default.out
    assert default.err == ""


def test_the_run_keeps_all_its_settings(default: Outcome, tmp_path: Path) -> None:
    config = (default.folder / ".hydra" / "config.yaml").read_text()
    for setting in ("hidden_size: 100", "batch_size: 10", "seed: 0", "_target_: torch.optim.Adam"):
        assert setting in config


# What a sweeper is told


def test_best_metric_is_returned_to_hydra(tmp_path: Path) -> None:
    """The best value of the monitor is returned to Hydra, for its sweeper."""
    ReturnRecorder.values.clear()
    # Hardly any learning: the accuracy goes up and down, so that best and last differ.
    outcome = train_bare(
        ReturnRecorder.SETTING, "trainer.max_epochs=8", "optimizer=sgd", "optimizer.lr=0.02", "seed=3", cwd=tmp_path
    )
    rows = read_history(outcome.folder)
    assert ReturnRecorder.values == [outcome.metrics["best"]] == [max(row["val/acc"] for row in rows)]
    assert len({row["val/acc"] for row in rows}) > 1


def test_smallest_loss_is_best(tmp_path: Path) -> None:
    """If the monitor is a loss, its smallest value is the best one."""
    (tmp_path / "line.py").write_text(
        "import torch\n"
        "from src.data.base import Samples, TensorDataModule\n"
        "class Line(TensorDataModule):\n"
        "    task, in_shape = 'regression', (1,)\n"
        "    def load(self):\n"
        "        x = torch.linspace(-1, 1, 60)[:, None]\n"
        "        return Samples(x, 3 * x[:, 0]), Samples(x, 3 * x[:, 0])\n"
    )
    ReturnRecorder.values.clear()
    settings = ["data._target_=line.Line", *[f"~data.{name}" for name in ("test_size", "noise")], "data.val_size=20"]
    outcome = train_bare(
        ReturnRecorder.SETTING, *settings, "data.train_size=null", "trainer.max_epochs=3", cwd=tmp_path
    )
    losses = [row["val/loss"] for row in read_history(outcome.folder)]
    assert (outcome.metrics["monitor"], outcome.metrics["mode"]) == ("val/loss", "min")
    assert ReturnRecorder.values == [outcome.metrics["best"]] == [min(losses)]
    assert losses[-1] < losses[0]


def test_last_epoch_counts_without_validation(tmp_path: Path) -> None:
    """Without a validation set the last epoch is kept, and Hydra gets no value."""
    ReturnRecorder.values.clear()
    outcome = train_bare(ReturnRecorder.SETTING, "data.val_size=0", "trainer.max_epochs=3", cwd=tmp_path)
    assert ReturnRecorder.values == [None]
    assert {path.name for path in (outcome.folder / "checkpoints").iterdir()} == {"last.ckpt"}
    metrics = outcome.metrics
    assert (metrics["monitor"], metrics["mode"], metrics["best"]) == (None, None, None)
    assert (metrics["best_epoch"], metrics["epochs"]) == (3, 3)
    assert not [name for name in metrics if name.startswith("val/")]
    assert metrics["train/loss"] == read_history(outcome.folder)[-1]["train/loss"]
    assert 0 <= metrics["test/acc"] <= 1


def test_best_differs_from_last_epoch(tmp_path: Path) -> None:
    """If the score falls, the best and the last checkpoint are those of different epochs."""
    outcome = train_bare(WeightEraser.setting(epoch=3), "trainer.max_epochs=4", cwd=tmp_path)
    assert [row["val/acc"] for row in read_history(outcome.folder)] == [1.0, 1.0, 0.5, 0.5]
    assert load_checkpoint(outcome.folder / "checkpoints" / "best.ckpt")["epoch"] == 1
    assert load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["epoch"] == 3
    assert (outcome.metrics["best_epoch"], outcome.metrics["epochs"]) == (2, 4)
    assert outcome.metrics["test/acc"] == 1.0  # of the kept weights, not of the last
    assert not any(read_weights(outcome.folder, "last")[name].any() for name in read_weights(outcome.folder))


# Every model, data set, optimizer, scheduler, debug preset


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_model_learns_small_grey_images(model: str, data: str, data_dir: Path, tmp_path: Path) -> None:
    outcome = train_bare(
        f"model={model}", *get_small_image_settings(data, data_dir), "trainer.max_epochs=3", cwd=tmp_path
    )
    assert outcome.metrics["parameters"] == LEARNABLE[model]
    assert outcome.metrics["test/acc"] > 0.9
    assert len(outcome.metrics["test/acc_per_class"]) == 10
    assert outcome.metrics["test/acc"] == pytest.approx(sum(outcome.metrics["test/acc_per_class"].values()) / 10)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_model_learns_small_colour_images(model: str, data_dir: Path, tmp_path: Path) -> None:
    outcome = train_bare(
        f"model={model}", *get_small_image_settings("cifar10", data_dir), "trainer.max_epochs=3", cwd=tmp_path
    )
    assert outcome.metrics["parameters"] == LEARNABLE_COLOUR[model]
    assert outcome.metrics["test/acc"] > 0.5


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_resnet18_trains_on_grey_and_colour_images(data: str, data_dir: Path, tmp_path: Path) -> None:
    few = ["data.train_size=32", "data.val_size=10", "trainer.max_epochs=1", "model.stem=imagenet"]
    outcome = train_bare("model=resnet18", *get_small_image_settings(data, data_dir), *few, cwd=tmp_path)
    assert outcome.metrics["parameters"] == LEARNABLE["resnet18"]
    assert load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert 0 < outcome.metrics["train/loss"] < 5
    assert sum(outcome.metrics["test/acc_per_class"].values()) / 10 == pytest.approx(outcome.metrics["test/acc"])


def test_image_run_draws_samples_and_mistakes(data_dir: Path, tmp_path: Path) -> None:
    outcome = train(
        *get_small_image_settings("fashion_mnist", data_dir),
        *("trainer.max_epochs=1", "optimizer.lr=1e-5", "logger=none"),
        cwd=tmp_path,
    )
    assert {path.stem for path in (outcome.folder / "figures").glob("*.png")} == {
        "curves",
        "samples",
        "confusion_matrix",
        "misclassified",
    }


EPOCHS = 3
TOTAL = EPOCHS * STEPS
RATES = {
    "none": [1.0] * TOTAL,
    "cosine": [(1 + math.cos(math.pi * step / TOTAL)) / 2 for step in range(TOTAL)],
    "exponential": [0.9 ** (step // STEPS) for step in range(TOTAL)],
}


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [("adam", "none"), ("adamw", "cosine"), ("sgd", "exponential"), ("sgd", "one_cycle"), ("adam", "one_cycle")],
)
def test_scheduler_sets_the_learning_rate(optimizer: str, scheduler: str, tmp_path: Path) -> None:
    """Each scheduler sets the learning rate of each optimizer at each step."""
    choices = [f"optimizer={optimizer}", f"scheduler={scheduler}", "optimizer.lr=0.1"]
    outcome = train_bare(BatchRecorder.SETTING, *choices, f"trainer.max_epochs={EPOCHS}", cwd=tmp_path)
    rates = [rate / 0.1 for rate in BatchRecorder.last.rates]
    assert len(rates) == TOTAL
    if scheduler == "one_cycle":
        top = 0.3 * TOTAL - 1  # the step at which the rate is optimizer.lr
        assert rates[0] == pytest.approx(1 / 25)
        assert rates[int(top)] == pytest.approx(1)
        assert rates[-1] == pytest.approx(1 / 25 / 1e4)
        assert rates == sorted(rates[: int(top)]) + sorted(rates[int(top) :], reverse=True)
    else:
        assert rates == pytest.approx(RATES[scheduler])
    assert outcome.metrics["train/loss"] < read_history(outcome.folder)[0]["train/loss"]


def test_one_cycle_supports_linear_annealing(tmp_path: Path) -> None:
    """One cycle can rise and fall linearly and leave the momentum unchanged."""
    straight = ["scheduler.anneal_strategy=linear", "scheduler.cycle_momentum=false", "scheduler.pct_start=0.2"]
    ends = ["scheduler.div_factor=5", "scheduler.final_div_factor=2", "optimizer.lr=0.1", "optimizer.momentum=0.7"]
    outcome = train_bare(
        "optimizer=sgd",
        "scheduler=one_cycle",
        *straight,
        *ends,
        "trainer.max_epochs=3",
        BatchRecorder.SETTING,
        cwd=tmp_path,
    )
    rise = [0.02 + 0.08 * step / 5 for step in range(6)]  # a fifth of 30 steps, from 0.1 / 5
    fall = [0.1 - 0.09 * step / 24 for step in range(1, 25)]  # to 0.02 / 2
    assert BatchRecorder.last.rates == pytest.approx(rise + fall)
    (group,) = load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert group["momentum"] == 0.7


def test_overfit_learns_one_batch_by_heart(tmp_path: Path) -> None:
    outcome = train_bare("debug=overfit", BatchRecorder.SETTING, cwd=tmp_path)
    assert outcome.metrics["epochs"] == 100
    losses = [row["train/loss"] for row in read_history(outcome.folder)]
    assert losses[-1] < losses[0] / 50
    assert len(BatchRecorder.last.trained) == 100
    assert all(is_identical(batch, BatchRecorder.last.trained[0]) for batch in BatchRecorder.last.trained)


def test_one_batch_goes_through_everything_once(data_dir: Path, tmp_path: Path) -> None:
    outcome = train(
        "debug=one_batch", *get_small_image_settings("mnist", data_dir), BatchRecorder.SETTING, cwd=tmp_path
    )
    assert load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["global_step"] == 1
    assert [len(batch.targets) for batch in BatchRecorder.last.trained] == [16]
    assert len(BatchRecorder.last.tested) == 1
    assert outcome.metrics["epochs"] == 1
    assert {"val/acc", "test/acc"} <= set(outcome.metrics)
    assert (outcome.folder / "figures" / "confusion_matrix.png").is_file()


def test_profiler_report_is_in_the_folder(tmp_path: Path) -> None:
    outcome = train_bare("debug=profiler", cwd=tmp_path)
    assert outcome.metrics["epochs"] == 1
    report = (outcome.folder / "fit-profile.txt").read_text()
    steps = re.search(r"optimizer_step\S*\s*\|\s*[\d.e-]+\s*\|\s*(\d+)", report)
    assert steps is not None
    assert int(steps[1]) == STEPS


def test_early_stopping_ends_stagnating_run(tmp_path: Path) -> None:
    """Early stopping ends a run that no longer improves."""
    outcome = train(
        "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "trainer.max_epochs=40", cwd=tmp_path
    )
    scores = [row["val/acc"] for row in read_history(outcome.folder)]
    assert len(scores) == scores.index(max(scores)) + 1 + 2
    assert outcome.metrics["epochs"] == len(scores)


@pytest.mark.parametrize("callbacks", ["default", "early_stopping"])
def test_figures_without_logger_are_only_files(callbacks: str, tmp_path: Path) -> None:
    outcome = train(f"callbacks={callbacks}", "logger=none", "trainer.max_epochs=2", cwd=tmp_path)
    assert outcome.metrics["epochs"] == 2
    assert not list(outcome.folder.glob("events.out.tfevents.*"))
    assert (outcome.folder / "figures" / "curves.png").is_file()


def test_the_learning_rate_is_in_tensorboard(tmp_path: Path) -> None:
    settings = ["scheduler=exponential", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"]
    accumulator = EventAccumulator(str(train(*settings, cwd=tmp_path).folder))
    accumulator.Reload()
    (tag,) = [tag for tag in accumulator.Tags()["scalars"] if "lr-" in tag]
    assert tag == "train/lr-Adam"
    rates = [point.value for point in accumulator.Scalars(tag)]
    assert rates == pytest.approx([0.01, 0.009, 0.0081])


# A run from a checkpoint's weights


def test_ckpt_path_starts_from_checkpoint_weights(tmp_path: Path) -> None:
    """The setting ckpt_path starts a new run from the weights of a checkpoint."""
    old = train_bare("trainer.max_epochs=10", cwd=tmp_path)
    path = old.folder / "checkpoints" / "last.ckpt"
    new = train_bare(f"ckpt_path={path}", "trainer.max_epochs=1", "optimizer.lr=1e-12", cwd=tmp_path)
    assert new.folder != old.folder
    assert new.metrics["epochs"] == 1
    assert new.metrics["val/loss"] == pytest.approx(read_history(old.folder)[-1]["val/loss"], rel=1e-5)
    assert new.metrics["val/loss"] < read_history(old.folder)[0]["val/loss"] / 5


def test_ckpt_path_keeps_every_digit(tmp_path: Path) -> None:
    """Under 64-true a run starts from its checkpoint's weights to the last bit."""
    given = ("trainer.precision=64-true", "trainer.max_epochs=1", "optimizer=sgd")
    old = train_bare(*given, cwd=tmp_path).folder
    path = old / "checkpoints" / "last.ckpt"
    new = train_bare(*given, f"ckpt_path={path}", "optimizer.lr=1e-30", cwd=tmp_path).folder
    assert is_identical(read_weights(new), read_weights(old))


def test_json_files_are_standard_json(tmp_path: Path) -> None:
    """JSON files contain neither NaN nor infinity, not even those of a failed run."""
    outcome = run("src.train", "optimizer=sgd", "optimizer.lr=1e37", "trainer.log_every_n_steps=1", cwd=tmp_path)
    status = json.loads((outcome.folder / "status.json").read_text(), parse_constant=pytest.fail)
    assert status["status"] == "failed"
    assert (status["reason"], "the loss became nan at step 2" in status["message"]) == ("diverged", True)
    assert not (outcome.folder / "metrics.json").exists()


def test_name_names_the_folder_with_plain_characters(tmp_path: Path) -> None:
    assert train_bare("name='my run: 2/3'", "trainer.max_epochs=1", cwd=tmp_path).folder.name == "my-run-2-3"


def test_gradients_accumulate_over_batches(tmp_path: Path) -> None:
    whole = train_bare(
        "data.batch_size=20", "optimizer=sgd", "trainer.max_epochs=2", "data.shuffle=false", cwd=tmp_path
    )
    halves = train_bare(
        "data.batch_size=10",
        "trainer.accumulate_grad_batches=2",
        "optimizer=sgd",
        "trainer.max_epochs=2",
        "data.shuffle=false",
        cwd=tmp_path,
    )
    assert load_checkpoint(halves.folder / "checkpoints" / "last.ckpt")["global_step"] == STEPS
    for name, value in read_weights(whole.folder).items():
        assert torch.allclose(value, read_weights(halves.folder)[name], atol=1e-5)


def test_one_batch_overrides_validation_interval(tmp_path: Path) -> None:
    """With debug=one_batch a run validates even if its preset validates only every few epochs."""
    metrics = train_bare("experiment=xor", "debug=one_batch", cwd=tmp_path).metrics
    assert {"train/loss", "val/loss", "val/acc", "test/acc"} <= set(metrics)
