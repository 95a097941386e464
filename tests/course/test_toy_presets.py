"""Presets on toy sets and on the wheat seeds: what each learns, and what it cannot."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.command_line import load_checkpoint, read_history, read_weights, train, train_bare
from tests.course.presets import Begun, composed, scores, sizes

CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TRUTH = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "nand": [1, 1, 1, 0], "xor": [0, 1, 1, 0]}  # of the corners
WEIGHT, BIAS = "net.layers.0.weight", "net.layers.0.bias"  # of a model without a hidden layer


def predict_corners(inputs: Tensor, state: dict[str, Tensor]) -> list[int]:
    """1 where a single unit's weighted sum is above 0: (N, D) → N numbers."""
    return (F.linear(inputs, state[WEIGHT], state[BIAS]).squeeze(1) > 0).long().tolist()


# What each preset is made of: layers (out, in), optimiser, batch; where the course gives them, rate and epochs

DEEP = [[30, 1], [100, 30], [100, 100], [30, 100], [1, 30]]
RECIPES = {
    "experiment=gates": ([[1, 2]], "SGD", 1),
    "experiment=gates_sigmoid": ([[1, 2]], "SGD", 4),
    "experiment=gates_products": ([[1, 3]], "SGD", 4),
    "experiment=gates_hidden": ([[4, 2], [1, 4]], "Adam", 4),
    "experiment=pulse": ([[2, 1], [1, 2]], "SGD", 10),
    "experiment=xor": ([[3, 2], [1, 3]], "SGD", 1),
    "experiment=linear": ([[1, 2]], "Adam", 32),
    "experiment=parabola": ([[2, 2], [1, 2]], "Adam", 32),
    "experiment=cubic": ([[100, 1], [1, 100]], "Adam", 32),
    "experiment=overfit": (DEEP, "Adam", 10),
    "experiment=overfit_batch_norm": (DEEP, "Adam", 10),
    "experiment=overfit_dropout": (DEEP, "Adam", 10),
    "experiment=overfit_l1": (DEEP, "Adam", 10),
    "experiment=overfit_l2": (DEEP, "Adam", 10),
    "experiment=descent": ([[1, 2]], "SGD", 1000),
}
RATES_AND_EPOCHS = {"experiment=xor": (0.1, 500), "experiment=linear": (0.1, 10), "experiment=parabola": (0.1, 10)}


@pytest.mark.parametrize("preset", RECIPES)
def test_preset_follows_course(preset: str, tmp_path: Path) -> None:
    """A preset has the layers, the optimiser and the batch size of the course."""
    train_bare(
        preset, Begun.SETTING, "trainer.max_epochs=1", "trainer.limit_train_batches=1", "test=false", cwd=tmp_path
    )
    begun = Begun.last
    batch = len(begun.trained[0].targets)
    assert (sizes(begun.start), type(begun.optimizer).__name__, batch) == RECIPES[preset]
    if preset in RATES_AND_EPOCHS:
        assert (begun.rate, composed(preset).trainer.max_epochs) == RATES_AND_EPOCHS[preset]
        assert begun.optimizer.param_groups[0].get("momentum", 0.0) == 0.0


# Gates


@pytest.mark.parametrize(("gate", "rate"), [("and", 1.0), ("or", 0.5), ("nand", 0.25)])
def test_perceptron_learns_gate_in_whole_steps(gate: str, rate: float, tmp_path: Path) -> None:
    """The perceptron learns a gate exactly; its weights are whole multiples of the learning rate."""
    outcome = train_bare("experiment=gates", f"data.gate={gate}", f"optimizer.lr={rate}", cwd=tmp_path)
    state = read_weights(outcome.folder)
    assert outcome.metrics["test/acc"] == 1.0
    assert predict_corners(CORNERS, state) == TRUTH[gate]
    steps = torch.cat([state[WEIGHT].flatten(), state[BIAS]]) / rate  # from zeros, by ±η·x with x of 0 and 1
    assert torch.equal(steps, steps.round()) and steps.any()


def test_perceptron_stays_at_zero_errors(tmp_path: Path) -> None:
    """Once the perceptron makes no error it makes none in later epochs."""
    folder = train_bare("experiment=gates", "data.gate=or", cwd=tmp_path).folder
    errors = [1 - accuracy for accuracy in scores(folder, "train/acc")]
    assert errors[0] > 0 and errors[-5:] == [0.0] * 5


def test_perceptron_fails_on_xor(tmp_path: Path) -> None:
    outcome = train_bare("experiment=gates", "data.gate=xor", cwd=tmp_path)
    accuracies = scores(outcome.folder, "val/acc")
    assert len(accuracies) == 20 and max(accuracies) <= 0.75
    assert outcome.metrics["test/acc"] <= 0.75


@pytest.mark.parametrize("gate", ["and", "or", "nand"])
def test_sigmoid_unit_learns_gate_with_margin(gate: str, tmp_path: Path) -> None:
    outcome = train_bare("experiment=gates_sigmoid", f"data.gate={gate}", "trainer.max_epochs=100", cwd=tmp_path)
    state = read_weights(outcome.folder)
    assert outcome.metrics["test/acc"] == 1.0
    assert predict_corners(CORNERS, state) == TRUTH[gate]
    distances = F.linear(CORNERS, state[WEIGHT], state[BIAS]).abs() / state[WEIGHT].norm()
    assert distances.min() > 0.7 * math.sqrt(2) / 4  # the line half-way between the corners is √2 / 4 away


def test_sigmoid_unit_fails_on_xor(tmp_path: Path) -> None:
    """A sigmoid unit cannot separate XOR, and its loss stays at that of guessing, log 2."""
    outcome = train_bare("experiment=gates_sigmoid", "data.gate=xor", "trainer.max_epochs=100", cwd=tmp_path)
    assert max(scores(outcome.folder, "val/acc")) <= 0.75
    losses = scores(outcome.folder, "val/loss")
    assert losses[-1] == pytest.approx(math.log(2), abs=1e-4)
    assert min(losses) > math.log(2) - 1e-6


def test_product_input_lets_unit_learn_xor(tmp_path: Path) -> None:
    """With the product of the inputs as a third input a single unit learns XOR."""
    outcome = train_bare("experiment=gates_products", "trainer.max_epochs=80", cwd=tmp_path)
    state = read_weights(outcome.folder)
    assert outcome.metrics["test/acc"] == 1.0
    assert predict_corners(torch.cat([CORNERS, CORNERS[:, :1] * CORNERS[:, 1:]], dim=1), state) == TRUTH["xor"]
    first, second, product = state[WEIGHT][0].tolist()
    assert first > 0 and second > 0 and product < -(first + second) / 2


@pytest.mark.parametrize("gate", ["xor", "nand"])
def test_hidden_layer_learns_gate(gate: str, tmp_path: Path) -> None:
    outcome = train_bare("experiment=gates_hidden", f"data.gate={gate}", "trainer.max_epochs=120", cwd=tmp_path)
    assert outcome.metrics["test/acc"] == 1.0
    assert outcome.metrics["test/loss"] < 0.05


# One input


def test_cubic_network_fits_without_output_bias(tmp_path: Path) -> None:
    """The cubic's network has no output bias and fits the curve."""
    outcome = train_bare("experiment=cubic", "trainer.max_epochs=25", cwd=tmp_path)
    assert {name: list(tensor.shape) for name, tensor in read_weights(outcome.folder).items()} == {
        "net.layers.0.0.weight": [100, 1],
        "net.layers.0.0.bias": [100],
        "net.layers.1.weight": [1, 100],
    }
    assert outcome.metrics["test/loss"] < 0.001  # of a curve whose own variance is 0.36


def test_large_network_memorises_ten_points(tmp_path: Path) -> None:
    outcome = train_bare("experiment=overfit", "trainer.max_epochs=600", "optimizer.lr=0.015", cwd=tmp_path)
    assert outcome.metrics["test/loss"] < 0.01  # the targets' variance is 5.7
    assert outcome.metrics["test/loss"] == outcome.metrics["val/loss"]
    assert "note: trains, validates and tests on the same 10 points" in outcome.out


def test_early_stopping_ends_on_seven_points(tmp_path: Path) -> None:
    """Early stopping trains on seven of the ten points and ends before the last epoch."""
    outcome = train_bare("experiment=overfit_early_stopping", Begun.SETTING, cwd=tmp_path)
    rows, metrics = read_history(outcome.folder), outcome.metrics
    assert {len(batch.targets) for batch in Begun.last.trained} == {7}
    assert "note: trains on 7 of ten points, validates on the other 3, tests on all ten" in outcome.out
    assert metrics["epochs"] == len(rows) == metrics["best_epoch"] + 200 < 3000  # 20 validations, ten epochs apart
    assert metrics["val/loss"] == min(scores(outcome.folder, "val/loss"))
    assert rows[-1]["train/loss"] < 0.1 < rows[-1]["val/loss"]  # it was bending to the seven points


# Two inputs


def test_linear_model_recovers_true_line(tmp_path: Path) -> None:
    """The line found is the one that labelled the points."""
    outcome = train_bare("experiment=linear", cwd=tmp_path)
    weight, bias = read_weights(outcome.folder).values()
    assert F.cosine_similarity(weight[0], torch.tensor([0.8, 1.0]), dim=0) > 0.99
    assert (bias / weight[0, 1]).item() == pytest.approx(-3, rel=0.1)
    assert outcome.metrics["test/acc"] >= 0.97


def test_parabola_needs_two_sigmoid_units(tmp_path: Path) -> None:
    """Two sigmoid units follow the parabola; a straight line cannot."""
    bent = train_bare("experiment=parabola", cwd=tmp_path).metrics["test/acc"]
    straight = train_bare("experiment=parabola", "model.hidden_size=[]", cwd=tmp_path).metrics["test/acc"]
    assert bent >= 0.94
    assert straight <= bent - 0.1


def test_descent_takes_full_gradient_step(tmp_path: Path) -> None:
    """Descent moves two weights from zero along the gradient of all samples."""
    outcome = train_bare("experiment=descent", Begun.SETTING, "trainer.max_epochs=1", cwd=tmp_path)
    assert outcome.metrics["parameters"] == 2
    assert not Begun.last.start[WEIGHT].any()
    inputs, targets = Begun.last.data.train_set
    slope = ((0.5 - targets)[:, None] * inputs).mean(dim=0)  # of the mean logistic loss, where σ(0) = ½
    assert read_weights(outcome.folder)[WEIGHT][0].tolist() == pytest.approx((-0.3 * slope).tolist(), rel=1e-5)


# Wheat


def test_ten_hidden_units_classify_wheat(wheat: list[str], tmp_path: Path) -> None:
    settings = ["trainer.max_epochs=40", "data.fold=2", Begun.SETTING]
    outcome = train_bare("experiment=wheat", *wheat, *settings, cwd=tmp_path)
    assert sizes(Begun.last.start) == [[10, 7], [3, 10]]
    assert {len(batch.targets) for batch in Begun.last.trained} == {41}  # all but a fold's 12 and 7 to choose by
    assert outcome.metrics["test/acc"] == 1.0
    assert outcome.metrics["monitor"] == "val/loss"
    losses = scores(outcome.folder, "val/loss")
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)


# The pictures of each bundle

COMMON_FIGURES = {"curves", "confusion_matrix"}


@pytest.mark.parametrize(
    ("arguments", "pictures"),
    [
        (["experiment=parabola"], {*COMMON_FIGURES, "decision_regions", "hidden_space", "cost_and_accuracy"}),
        (["experiment=pulse", "data.train_size=50"], {*COMMON_FIGURES, "fit", "cost_and_accuracy"}),
        (["experiment=overfit_l2"], {"curves", "fit"}),
    ],
)
def test_preset_figures_are_drawn(arguments: list[str], pictures: set[str], tmp_path: Path) -> None:
    folder = train(*arguments, "logger=none", "trainer.max_epochs=2", cwd=tmp_path).folder
    assert {path.stem for path in (folder / "figures").glob("*.png")} == pictures
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] == 1
