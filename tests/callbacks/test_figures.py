"""What the pictures show: the numbers drawn, not that a file is there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.callbacks.confusion_matrix import ConfusionMatrix
from src.callbacks.curves import Curves
from src.callbacks.decision_regions import DecisionRegions, Plane, regions
from src.callbacks.figure import image_grid
from src.callbacks.misclassified import surest_mistakes
from src.callbacks.samples import class_by_class
from src.data.base import Samples
from src.models.mlp import MLP
from tests.training import FIXED, Given, points, quiet_trainer


def linear(weight: list[float], bias: float) -> MLP:
    """A logistic regression of two inputs with the weights given."""
    model = MLP(
        hidden_size=[],
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        in_shape=[2],
        num_classes=2,
        task="binary",
        optimizer=FIXED,
    )
    with torch.no_grad():
        layer = model.net.layers[-1]  # type: ignore[index]
        layer.weight.copy_(torch.tensor([weight]))
        layer.bias.fill_(bias)
    return model


def test_curves_show_each_epochs_metrics_and_which_is_kept() -> None:
    rows = [
        {"epoch": 1, "train/loss": 2.0, "val/loss": 1.5, "train/acc": 0.1, "val/acc": 0.3},
        {"epoch": 2, "train/loss": 1.0, "val/loss": 1.2, "train/acc": 0.6, "val/acc": 0.5},
    ]
    figure = Figure()
    Curves().draw(figure, rows, 2)
    drawn = [
        {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}
        for axis in figure.axes
    ]
    assert drawn[0]["train"] == ([1, 2], [2.0, 1.0])
    assert drawn[0]["val"] == ([1, 2], [1.5, 1.2])
    assert drawn[1]["train"] == ([1, 2], [0.1, 0.6])
    assert drawn[1]["val"] == ([1, 2], [0.3, 0.5])
    assert drawn[0]["kept"][0] == [2, 2]


def test_an_epoch_that_diverged_does_not_squeeze_the_others() -> None:
    rows = [{"epoch": epoch, "train/loss": loss} for epoch, loss in enumerate([2.0, 1.5, 1e30, 1.0], start=1)]
    figure = Figure()
    Curves().draw(figure, rows, None)
    (axis,) = figure.axes
    assert axis.get_ylim() == pytest.approx((0.96, 2.09), abs=0.02)
    assert axis.get_xlabel() == "epoch\n(1 curve far above)"


def test_curves_of_a_regression_show_the_loss_alone() -> None:
    figure = Figure()
    Curves().draw(figure, [{"epoch": 1, "train/loss": 2.0}], None)
    assert [axis.get_title() for axis in figure.axes] == ["loss"]


def test_regions_are_what_the_model_says_with_x_to_the_right_and_y_upwards() -> None:
    inputs = torch.tensor([[0.0, 0.0], [4.0, 2.0]])
    xs, ys, classes = regions(linear([1.0, 0.0], -1.0), inputs)  # class 1 where x > 1
    expected = (xs > 1).long().expand(len(ys), -1)
    assert torch.equal(classes, expected)
    assert float(xs[0]) < 0.0 < 4.0 < float(xs[-1])

    xs, ys, classes = regions(linear([0.0, -1.0], 0.5), inputs)  # class 1 where y < 0.5
    assert torch.equal(classes, (ys < 0.5).long()[:, None].expand(-1, len(xs)))


def test_regions_leave_the_model_in_training_as_it_was() -> None:
    model = linear([1.0, 0.0], 0.0).train()
    regions(model, torch.randn(5, 2))
    assert model.training


def test_the_drawn_plane_has_its_origin_below_left() -> None:
    plane = Plane(torch.linspace(0, 4, 5), torch.linspace(-1, 1, 3), torch.zeros(3, 5, dtype=torch.long))
    figure = Figure()
    DecisionRegions(0).draw(figure, plane, Samples(torch.zeros(2, 2), torch.tensor([0, 1])), ("a", "b"), "t")
    image = figure.axes[0].images[0]
    assert image.get_extent() == [0, 4, -1, 1]
    assert image.origin == "lower"
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["class a", "class b"]


def test_the_confusion_matrix_has_the_true_classes_in_rows() -> None:
    figure = Figure()
    ConfusionMatrix().draw(figure, torch.tensor([[3, 1], [0, 4]]), ("cat", "dog"))
    axis = figure.axes[0]
    cells = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axis.texts}
    assert cells == {(0, 0): "3", (0, 1): "1", (1, 1): "4"}
    assert axis.get_ylabel() == "true class"
    assert axis.get_title() == "Test set: 87.50% correct"
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.75, 0.25], [0.0, 1.0]])


def test_the_surest_mistakes_come_first() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.05, 0.95]])
    targets = torch.tensor([0, 1, 0, 0])  # the first is right
    assert surest_mistakes(probabilities, targets, 2).tolist() == [3, 2]
    assert surest_mistakes(probabilities, targets, 9).tolist() == [3, 2, 1]


def test_samples_take_the_classes_in_turn() -> None:
    targets = torch.tensor([2, 2, 0, 1, 0, 2])
    assert class_by_class(targets, 6).tolist() == [2, 3, 0, 4, 1, 5]
    assert class_by_class(targets, 2).tolist() == [2, 3]


def test_an_image_grid_shows_each_image_under_its_title() -> None:
    images = torch.arange(3 * 3 * 4 * 4, dtype=torch.uint8).view(3, 3, 4, 4)
    figure = Figure()
    image_grid(figure, images, ["a", "b", "c"], columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]
    for axis, image in zip(figure.axes, images, strict=False):
        np.testing.assert_array_equal(axis.images[0].get_array(), image.permute(1, 2, 0))


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """A folder in which a run of three epochs has drawn its decision regions at each."""
    model: LightningModule = linear([1.0, 1.0], 0.0)
    callback: Any = DecisionRegions(every_n_epochs=1)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = quiet_trainer(tmp_path, callbacks=[callback], logger=logger, max_epochs=3, log_every_n_steps=1)
    data = Given(points(8, classes=2), task="binary", class_names=("a", "b"), batch_size=4)
    trainer.fit(model, datamodule=data)
    return tmp_path


def test_a_picture_drawn_while_training_stays_small_for_each_epoch(shown: Path) -> None:
    files = {path.name: path for path in (shown / "figures" / "decision_regions").iterdir()}
    assert sorted(files) == ["1.png", "2.png", "3.png"]
    with Image.open(files["1.png"]) as picture:
        assert max(picture.size) == 480


def test_pictures_go_to_tensorboard_with_their_steps_and_to_a_file(shown: Path) -> None:
    events = EventAccumulator(str(shown)).Reload()
    images = events.Images("figures/decision_regions")
    assert [image.step for image in images] == [2, 4, 6]
    with Image.open(shown / "figures" / "decision_regions.png") as picture:
        assert picture.size == (images[-1].width, images[-1].height)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 4  # something is drawn
