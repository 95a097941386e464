"""Pictures of the plane, of the inputs or of two hidden units, with weights set by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import AxLine
from torch import Tensor, nn

from src.callbacks.figures.base import COLOURS
from src.callbacks.figures.decision_regions import DecisionRegions, find_unit_boundaries, predict_grid
from src.callbacks.figures.hidden_space import (
    HiddenSpace,
    compute_hidden_values,
    get_decision_line,
    predict_hidden_grid,
    subsample,
)
from src.callbacks.figures.snapshot import eval_mode
from src.data.loading.samples import Samples
from src.models.base import SupervisedModule
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule, quiet_trainer

SQUARE = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
CORNERS = Samples(SQUARE, torch.tensor([0, 1, 1, 0]))


class NetworkModel(SupervisedModule):
    """A model around a network made by hand, for two classes unless it says otherwise."""

    net: nn.Sequential

    def __init__(self, *layers: nn.Module, classes: int = 2, shape: tuple[int, ...] = (2,), task: str = "") -> None:
        task = task or ("binary" if classes == 2 else "multiclass")
        super().__init__(shape, classes, task, optimizer=ZERO_RATE_SGD)
        self.net = nn.Sequential(*layers)


def linear(weights: list[list[float]], bias: list[float] | None) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


class CornersData(InMemoryDataModule):
    """Corners of the square, classes a and b."""

    def __init__(self, samples: Samples = CORNERS, names: tuple[str, ...] = ("a", "b"), **settings: Any) -> None:
        task = "binary" if len(names) == 2 else "multiclass"
        super().__init__(samples, test=samples, **{"task": task, "class_names": names, **settings})


def run_test(callback: Any, model: SupervisedModule, data: InMemoryDataModule, folder: Path) -> None:
    """Lightning's test with a callback."""
    quiet_trainer(folder, callbacks=[callback]).test(model, datamodule=data, verbose=False)


def get_drawn_lines(figure: Figure) -> list[Any]:
    return [line for line in figure.axes[0].lines if isinstance(line, AxLine)]


# The first layer's lines


def test_unit_boundaries_match_first_layer() -> None:
    model = NetworkModel(nn.Flatten(), linear([[1, 2], [3, -4]], [0.5, -1]), nn.Sigmoid(), linear([[1, 1]], [0]))
    assert find_unit_boundaries(model).tolist() == [[1, 2, 0.5], [3, -4, -1]]


def test_boundaries_without_bias_cross_origin() -> None:
    assert find_unit_boundaries(NetworkModel(linear([[1, 2]], None))).tolist() == [[1, 2, 0]]


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.prod(dim=1, keepdim=True)], dim=1)


@pytest.mark.parametrize(
    "layers",
    [
        [Product(), linear([[1, 1, -2]], [0])],  # of three inputs
        [Squares(), linear([[1, 1]], [0])],  # of two, but others
        [linear([[1, 1], [1, 2]], None), nn.BatchNorm1d(2), nn.ReLU(), linear([[1, 1]], [0])],
        [Squares()],
    ],
)
def test_unit_boundaries_require_linear_first_layer(layers: list[nn.Module]) -> None:
    """There are no lines unless the first layer divides the input plane itself."""
    assert find_unit_boundaries(NetworkModel(*layers)).shape == (0, 3)


def test_unit_lines_satisfy_their_equations(drawn: list[Figure], tmp_path: Path) -> None:
    """The axes keep their limits; a unit with zero weights has no line."""
    model = NetworkModel(linear([[1, 1], [2, 0], [0, 0]], [-0.5, -1, 3]), nn.Tanh(), linear([[1, 1, 1]], [0]))
    run_test(DecisionRegions(0), model, CornersData(), tmp_path)
    found = get_drawn_lines(drawn[0])
    assert [line.get_label() for line in found] == ["unit 1", "unit 2"]  # the third has no line
    for line, (w1, w2, b) in zip(found, [(1, 1, -0.5), (2, 0, -1)], strict=True):
        for x, y in (line.get_xy1(), line.get_xy2()):
            assert w1 * x + w2 * y + b == pytest.approx(0)
        assert line.get_xy1() != line.get_xy2()
    (axis,) = drawn[0].axes
    assert (*axis.get_xlim(), *axis.get_ylim()) == pytest.approx([-0.15, 1.15, -0.15, 1.15])


def test_unit_lines_have_distinct_colours(drawn: list[Figure], tmp_path: Path) -> None:
    """None of them is the colour of a class."""
    model = NetworkModel(linear([[1.0, n] for n in range(8)], [0.0] * 8), nn.Tanh(), linear([[1.0] * 8], [0]))
    run_test(DecisionRegions(0), model, CornersData(), tmp_path)
    colours = {to_hex(line.get_color()).upper() for line in get_drawn_lines(drawn[0])}
    assert len(colours) == 8
    assert not colours & set(COLOURS)


def test_more_than_eight_units_are_omitted(drawn: list[Figure], tmp_path: Path) -> None:
    model = NetworkModel(linear([[1.0, n] for n in range(9)], [0.0] * 9), nn.Tanh(), linear([[1.0] * 9], [0]))
    run_test(DecisionRegions(0), model, CornersData(), tmp_path)
    assert get_drawn_lines(drawn[0]) == []


def test_single_layer_line_separates_regions() -> None:
    model = NetworkModel(linear([[1, -2]], [0.25]))
    ((w1, w2, b),) = find_unit_boundaries(model).tolist()
    xs, ys, classes = predict_grid(model, SQUARE)
    assert torch.equal(classes, (w1 * xs + w2 * ys[:, None] + b > 0).long())


# What else the plane's picture asks for


class CornersWithBoundary(CornersData):
    def boundary(self, x1: Tensor) -> Tensor:
        return x1.square()


def test_true_boundary_is_dashed(drawn: list[Figure], tmp_path: Path) -> None:
    """It is drawn only if the data set defines one."""
    for data in (CornersWithBoundary(), CornersData()):
        run_test(DecisionRegions(0), NetworkModel(linear([[1, 1]], [0])), data, tmp_path)
    with_truth, without = [{line.get_label(): line for line in figure.axes[0].lines} for figure in drawn]
    truth = with_truth["truth"]
    np.testing.assert_allclose(truth.get_ydata(), np.square(truth.get_xdata()))
    assert truth.get_linestyle() == "--"
    assert set(without) == {"learned line"}


class NearestCornerModel(SupervisedModule):
    """Says the class of the nearest corner; there is nothing to learn."""

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, SQUARE.to(x)).argmin(dim=1)
        return CORNERS.targets[nearest].to(x.dtype)[:, None] - 0.5


def test_model_without_parameters_is_drawn(drawn: list[Figure], tmp_path: Path) -> None:
    run_test(DecisionRegions(0), NearestCornerModel((2,), 2, "binary"), CornersData(), tmp_path)
    plane = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert [plane[0, 0], plane[-1, 0], plane[0, -1], plane[-1, -1]] == [0, 1, 1, 0]


class ScaledCorners(CornersData):
    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        return (inputs - 0.5) * 10


def test_plane_shows_untransformed_inputs(drawn: list[Figure], tmp_path: Path) -> None:
    """The model still gets the transformed inputs."""
    run_test(
        DecisionRegions(0), NetworkModel(linear([[1, 0]], [0])), ScaledCorners(), tmp_path
    )  # class 1 where x1 > 0.5
    plane = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert plane[:, :100].max() == 0 and plane[:, 100:].min() == 1
    assert get_drawn_lines(drawn[0]) == []  # the layer's line is not one of these coordinates


def test_eval_mode_restores_each_module() -> None:
    model = NetworkModel(linear([[1, 1]], [0]), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    model.net[1].eval()
    modes = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


# The space of two hidden units


def make_two_hidden_model(*output: nn.Module, classes: int = 2) -> NetworkModel:
    """Hidden units x1 + x2 and x1 + x2 − 1, rectified: XOR's classes are parted by a line there."""
    output = output or (linear([[1, -2]], [-0.5]),)
    return NetworkModel(linear([[1, 1], [1, 1]], [0, -1]), nn.ReLU(), *output, classes=classes)


def test_hidden_values_follow_activation() -> None:
    """The hidden values are the outputs of the activation function."""
    found = compute_hidden_values(make_two_hidden_model(), SQUARE)
    assert found is not None
    assert found[1].tolist() == [[0, 0], [1, 0], [1, 0], [2, 1]]


def test_hidden_space_line_separates_classes(drawn: list[Figure], tmp_path: Path) -> None:
    """The line is that of the output unit."""
    run_test(HiddenSpace(0), make_two_hidden_model(), CornersData(), tmp_path)
    (axis,) = drawn[0].axes
    assert [np.asarray(group.get_offsets()).tolist() for group in axis.collections] == [[[0, 0], [2, 1]], [[1, 0]] * 2]
    (line,) = get_drawn_lines(drawn[0])
    for z1, z2 in (line.get_xy1(), line.get_xy2()):
        assert z1 - 2 * z2 - 0.5 == pytest.approx(0)


def test_hidden_regions_match_decision_line() -> None:
    model = make_two_hidden_model()
    layer = model.net[-1]
    assert isinstance(layer, nn.Linear)
    w1, w2, b = get_decision_line(layer)[0].tolist()
    xs, ys, classes = predict_hidden_grid(model, layer, SQUARE)
    assert (w1, w2, b) == (1, -2, -0.5)
    assert torch.equal(classes, (w1 * xs + w2 * ys[:, None] + b > 0).long())


def test_multiclass_hidden_space_has_no_line(drawn: list[Figure], tmp_path: Path) -> None:
    """The plane is coloured by class instead."""
    model = make_two_hidden_model(linear([[-1, 0], [1, -2], [0, 2]], [0.5, 0, -1.5]), classes=3)
    data = CornersData(Samples(SQUARE, torch.tensor([0, 1, 1, 2])), ("a", "b", "c"))
    run_test(HiddenSpace(0), model, data, tmp_path)
    (axis,) = drawn[0].axes
    assert get_drawn_lines(drawn[0]) == []
    assert set(np.unique(np.asarray(axis.images[0].get_array()))) == {0, 1, 2}
    assert [text.get_text() for text in axis.get_legend().texts] == ["class a", "class b", "class c"]


@pytest.mark.parametrize(
    "layers",
    [
        [linear([[1, 1]], [0])],  # no hidden layer
        [linear([[1, 1]] * 3, [0, 0, 0]), nn.ReLU(), linear([[1, 1, 1]], [0])],  # three units
        [linear([[1, 1]] * 2, [0, 0]), nn.ReLU(), linear([[1, 1]], [0]), nn.Tanh()],  # something after the output
        [Squares(), nn.Flatten(), nn.AvgPool1d(2)],  # nothing linear
    ],
)
def test_hidden_space_requires_two_units(layers: list[nn.Module], drawn: list[Figure], tmp_path: Path) -> None:
    run_test(HiddenSpace(0), NetworkModel(*layers), CornersData(), tmp_path)
    assert drawn == []


def test_hidden_space_accepts_any_input_shape(drawn: list[Figure], tmp_path: Path) -> None:
    images = Samples(SQUARE.view(4, 1, 2, 1), CORNERS.targets)
    hidden = linear([[1, 1], [1, 1]], [0, -1])
    model = NetworkModel(nn.Flatten(), hidden, nn.ReLU(), linear([[1, -2]], [-0.5]), shape=(1, 2, 1))
    run_test(HiddenSpace(0), model, CornersData(images), tmp_path)
    assert np.asarray(drawn[0].axes[0].collections[1].get_offsets()).tolist() == [[1, 0]] * 2


def test_subsample_is_fixed_and_balanced() -> None:
    """Of many samples the same ones are always shown, from all classes; few are shown completely."""
    many = Samples(torch.arange(8000.0), torch.arange(8000) % 4)
    chosen = subsample(many)
    assert chosen.size == 2000 and torch.equal(chosen.inputs, subsample(many).inputs)
    assert len(chosen.inputs.unique()) == 2000
    assert torch.bincount(chosen.targets).min() > 400
    assert subsample(CORNERS) is CORNERS


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (2, [1, 3])])
def test_hidden_space_is_drawn_periodically(every: int, epochs: list[int], drawn: list[Figure], tmp_path: Path) -> None:
    """The figure is drawn every n epochs, and at the end with the selected weights."""
    model, data, callback = make_two_hidden_model(), CornersData(), HiddenSpace(every)
    quiet_trainer(tmp_path, max_epochs=3, callbacks=[callback]).fit(model, datamodule=data)
    run_test(callback, model, data, tmp_path)
    titles = [f"Hidden space, epoch {epoch}" for epoch in epochs]
    assert [figure.axes[0].get_title() for figure in drawn] == [*titles, "Hidden space, selected weights"]
