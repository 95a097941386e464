"""Pictures of a fit over one input and of its training, with weights set by hand."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.callbacks.figures.fitted_function import Fit, compute_contributions, make_input_grid
from src.callbacks.figures.learning_curves import CostAndAccuracy, compute_totals
from src.callbacks.history import History
from src.core.colours import TRAIN
from src.data.loading.samples import Samples
from src.models.base import SupervisedModule
from src.training.checkpointing.checkpoint import RunCheckpoint
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule, quiet_trainer

CURVE = Samples(torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([1.0, 0.5, 2.0]))
BAND = Samples(torch.tensor([[-2.0], [0.0], [2.0]]), torch.tensor([0, 1, 0]))


class NetworkModel(SupervisedModule):
    """A model of one input around a network made by hand."""

    def __init__(self, task: str, net: nn.Module) -> None:
        super().__init__((1,), {"regression": 0, "binary": 2, "multiclass": 3}[task], task, optimizer=ZERO_RATE_SGD)
        self.net = net


def network(first: list[float], bias: list[float], output: list[float], output_bias: float) -> nn.Sequential:
    """Rectified hidden units of one input, and one output."""
    net = nn.Sequential(nn.Linear(1, len(first)), nn.ReLU(), nn.Linear(len(first), 1))
    weights: Any = net
    with torch.no_grad():
        weights[0].weight.copy_(torch.tensor(first)[:, None])
        weights[0].bias.copy_(torch.tensor(bias))
        weights[2].weight.copy_(torch.tensor([output]))
        weights[2].bias.fill_(output_bias)
    return net


def hat() -> nn.Sequential:
    """2·relu(x + 1) − 4·relu(x) + 0.25."""
    return network([1, 1], [1, 0], [2, -4], 0.25)


def draw_fit(model: SupervisedModule, data: InMemoryDataModule, folder: Path) -> None:
    quiet_trainer(folder, callbacks=[Fit(0)]).test(model, datamodule=data, verbose=False)


def make_data(samples: Samples, task: Any, **settings: Any) -> InMemoryDataModule:
    names = {"regression": (), "binary": ("out", "in"), "multiclass": ("a", "b", "c")}[task]
    return InMemoryDataModule(samples, test=samples, task=task, class_names=names, **settings)


def get_lines_by_label(figure: Figure, axis: int) -> dict[Any, Any]:
    return {line.get_label(): line for line in figure.axes[axis].lines}


def test_contributions_are_weighted_unit_values() -> None:
    outputs, parts, bias = compute_contributions(
        NetworkModel("regression", hat()), torch.tensor([[-2.0], [-0.5], [0.5]])
    )
    assert parts.tolist() == [[0, 1, 3], [0, 0, -2]]
    assert bias == 0.25
    assert outputs.tolist() == [0.25, 1.25, 1.25]


@pytest.mark.parametrize("hidden", [[5], [7, 3], []])
def test_contributions_and_bias_sum_to_output(hidden: list[int]) -> None:
    sizes = [1, *hidden]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    model = NetworkModel("regression", nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(sizes[-1], 1)))
    outputs, parts, bias = compute_contributions(model, torch.linspace(-3, 3, 50)[:, None])
    assert parts.shape == (sizes[-1], 50)
    assert (parts.sum(dim=0) + bias - outputs).abs().max() < 1e-6


def test_contributions_without_bias_sum_to_output() -> None:
    model = NetworkModel("regression", nn.Sequential(nn.Linear(1, 3), nn.Sigmoid(), nn.Linear(3, 1, bias=False)))
    outputs, parts, bias = compute_contributions(model, torch.linspace(-3, 3, 50)[:, None])
    assert bias == 0
    assert (parts.sum(dim=0) - outputs).abs().max() < 1e-6


def test_input_grid_extends_beyond_inputs() -> None:
    """The grid extends a tenth of the range beyond the inputs on both sides."""
    x = make_input_grid(torch.tensor([[3.0], [1.0], [2.0]]))
    assert x[0].item() == pytest.approx(0.8) and x[-1].item() == pytest.approx(3.2)
    assert x.shape[1] == 1 and (x.diff(dim=0) > 0).all()


class DataWithTruth(InMemoryDataModule):
    def truth(self, inputs: Tensor) -> Tensor:
        return inputs.squeeze(1).square()


def test_regression_fit_shows_truth_and_contributions(drawn: list[Figure], tmp_path: Path) -> None:
    """The fit is drawn with the test points, the true function and each unit's contribution."""
    draw_fit(NetworkModel("regression", hat()), DataWithTruth(CURVE, test=CURVE, task="regression"), tmp_path)
    (figure,) = drawn
    left, right = get_lines_by_label(figure, 0), get_lines_by_label(figure, 1)
    x = np.asarray(left["fit"].get_xdata())
    first, second = 2 * np.maximum(x + 1, 0), -4 * np.maximum(x, 0)
    np.testing.assert_allclose(left["fit"].get_ydata(), first + second + 0.25, atol=1e-6)
    np.testing.assert_allclose(left["truth"].get_ydata(), x**2, atol=1e-6)
    assert left["truth"].get_linestyle() == "--"
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), [[-1, 1], [0, 0.5], [1, 2]])
    assert [label for label in right if label != "fit"] == ["$w_1h_1$, $w_1 = 2$", "$w_2h_2$, $w_2 = -4$"]
    np.testing.assert_allclose(right["$w_1h_1$, $w_1 = 2$"].get_ydata(), first, atol=1e-6)
    np.testing.assert_allclose(right["$w_2h_2$, $w_2 = -4$"].get_ydata(), second, atol=1e-6)
    assert figure.axes[0].get_title() == "Fit, selected weights"


def test_binary_fit_shows_probability_and_units(drawn: list[Figure], tmp_path: Path) -> None:
    """For two classes, the probability of the second class and the units' own values are drawn."""
    draw_fit(NetworkModel("binary", hat()), make_data(BAND, "binary"), tmp_path)
    (figure,) = drawn
    left, right = get_lines_by_label(figure, 0), get_lines_by_label(figure, 1)
    x = np.asarray(left["probability of class in"].get_xdata())
    logit = 2 * np.maximum(x + 1, 0) - 4 * np.maximum(x, 0) + 0.25
    np.testing.assert_allclose(left["probability of class in"].get_ydata(), 1 / (1 + np.exp(-logit)), atol=1e-6)
    np.testing.assert_allclose(right["$h_1$, $w_1 = 2$"].get_ydata(), np.maximum(x + 1, 0), atol=1e-6)
    points = [np.asarray(group.get_offsets()).tolist() for group in figure.axes[0].collections]
    assert points == [[[-2, 0], [2, 0]], [[0, 1]]]
    assert "truth" not in left


class DoublingData(InMemoryDataModule):
    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        return 2 * inputs


def test_fit_is_drawn_over_untransformed_inputs(drawn: list[Figure], tmp_path: Path) -> None:
    draw_fit(NetworkModel("regression", hat()), DoublingData(CURVE, test=CURVE, task="regression"), tmp_path)
    fit = get_lines_by_label(drawn[0], 0)["fit"]
    x = 2 * np.asarray(fit.get_xdata())
    np.testing.assert_allclose(fit.get_ydata(), 2 * np.maximum(x + 1, 0) - 4 * np.maximum(x, 0) + 0.25, atol=1e-6)


def test_many_units_share_one_legend_entry(drawn: list[Figure], tmp_path: Path) -> None:
    """With many units, one legend entry states their number."""
    net = network([1.0] * 9, [0.0] * 9, [1.0] * 9, 0.0)
    draw_fit(NetworkModel("regression", net), make_data(CURVE, "regression"), tmp_path)
    assert len(drawn[0].axes[1].lines) == 9 + 1
    assert [text.get_text() for text in drawn[0].axes[1].get_legend().texts] == ["fit", "9 units"]


def test_fit_without_units_is_drawn_alone(drawn: list[Figure], tmp_path: Path) -> None:
    """A function that is not a sum of units is drawn without contributions."""
    draw_fit(NetworkModel("regression", nn.Tanh()), make_data(CURVE, "regression"), tmp_path)
    (axis,) = drawn[0].axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), np.tanh(axis.lines[0].get_xdata()), atol=1e-6)


@pytest.mark.parametrize(
    ("task", "samples"),
    [
        ("multiclass", Samples(CURVE.inputs, torch.tensor([0, 1, 2]))),
        ("regression", Samples(CURVE.inputs.repeat(1, 2), CURVE.targets)),  # two inputs
    ],
)
def test_unsuitable_data_have_no_fit(task: str, samples: Samples, drawn: list[Figure], tmp_path: Path) -> None:
    """With several classes or several inputs, no fit is drawn."""
    outputs = 3 if task == "multiclass" else 1
    model = NetworkModel(task, nn.Linear(samples.inputs.shape[1], outputs))
    draw_fit(model, make_data(samples, task), tmp_path)
    assert drawn == []


# Cost and accuracy


def test_cost_is_summed_loss() -> None:
    """The cost is the loss of all training samples together."""
    rows = [
        {"epoch": 1, "train/loss": 0.5, "train/acc": 0.25},
        {"epoch": 2, "train/loss": 0.25, "train/acc": 0.75, "val/loss": 9.0},
    ]
    assert compute_totals(rows, 20) == ([1, 2], [10, 5], [0.25, 0.75])
    assert compute_totals([{"epoch": 1, "train/loss": 0.5}], 20) == ([], [], [])


def fit_model(task: str, samples: Samples, folder: Path, net: nn.Module) -> History:
    history = History()
    callbacks = [CostAndAccuracy(), RunCheckpoint(folder / "checkpoints", None, "max", history)]
    trainer = quiet_trainer(folder, max_epochs=3, callbacks=callbacks)
    trainer.fit(NetworkModel(task, net), datamodule=make_data(samples, task))
    return history


def test_cost_and_accuracy_share_epoch_axis(drawn: list[Figure], tmp_path: Path) -> None:
    """Both are drawn in the colour of training, each with its own vertical axis."""
    history = fit_model("binary", BAND, tmp_path, hat())
    # The logits are 0.25, 2.25 and −1.75: the first is wrong.
    left, right = drawn[0].axes
    cost = np.log1p(np.exp([0.25, -2.25, -1.75])).sum()
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[epoch, cost] for epoch in (1, 2, 3)], rtol=1e-5)
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[epoch, 2 / 3] for epoch in (1, 2, 3)], rtol=1e-5)
    assert len(history.rows) == 3
    for axis in (left, right):
        assert to_hex(axis.lines[0].get_color()) == to_hex(TRAIN)
    assert [line.get_linestyle() for axis in (left, right) for line in axis.lines] == ["-", "--"]
    labels = [text.get_text() for text in drawn[0].legends[0].texts]
    assert labels == ["total training loss (left axis)", "training accuracy (right axis)"]
    assert (left.get_ylabel(), right.get_ylabel()) == ("total training loss", "training accuracy")


def test_regression_has_no_accuracy_figure(drawn: list[Figure], tmp_path: Path) -> None:
    fit_model("regression", CURVE, tmp_path, hat())
    assert drawn == []
