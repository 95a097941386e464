"""What the pictures show: the numbers drawn, not that a file is there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.callbacks.figures.base import draw_image_grid, format_percent, set_percent_ticks
from src.callbacks.figures.decision_regions import DecisionRegions, Plane, predict_grid
from src.callbacks.figures.learning_curves import Curves
from src.callbacks.figures.per_class import ERRORS, ConfusionMatrix
from src.callbacks.figures.predictions import find_confident_errors
from src.callbacks.figures.training_images import select_class_balanced
from src.core.colours import CLASSES, CORRECT, INCORRECT, MODEL, OTHER, TRAIN, TRUTH, VALIDATION
from src.data.loading.samples import Samples
from src.models.mlp import MLP
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule, make_samples, quiet_trainer


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
        optimizer=ZERO_RATE_SGD,
    )
    with torch.no_grad():
        layer = model.net.layers[-1]  # type: ignore[index]
        layer.weight.copy_(torch.tensor([weight]))
        layer.bias.fill_(bias)
    return model


def test_curves_plot_metrics_and_selected_epoch() -> None:
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
    assert drawn[0]["training"] == ([1, 2], [2.0, 1.0])
    assert drawn[0]["validation"] == ([1, 2], [1.5, 1.2])
    assert drawn[1]["training"] == ([1, 2], [0.1, 0.6])
    assert drawn[1]["validation"] == ([1, 2], [0.3, 0.5])
    assert drawn[0]["selected epoch"][0] == [2, 2]


def test_diverged_epoch_does_not_compress_axis() -> None:
    """The curve that leaves the axis is counted below it."""
    rows = [{"epoch": epoch, "train/loss": loss} for epoch, loss in enumerate([2.0, 1.5, 1e30, 1.0], start=1)]
    figure = Figure()
    Curves().draw(figure, rows, None)
    (axis,) = figure.axes
    assert axis.get_ylim() == pytest.approx((0.96, 2.09), abs=0.02)
    assert axis.get_xlabel() == "epoch\n(1 curve far above)"


def test_wide_loss_range_uses_log_axis() -> None:
    """A loss that falls by several orders of magnitude is shown completely."""
    losses = [0.7, 0.5, 0.1, *[0.002] * 40]
    figure = Figure()
    rows = [
        {"epoch": epoch, "train/loss": 1.2 * loss, "val/loss": loss, "train/acc": 0.5}
        for epoch, loss in enumerate(losses, start=1)
    ]
    Curves().draw(figure, rows, None)
    figure.draw_without_rendering()
    loss, accuracy = figure.axes
    assert loss.get_yscale() == "log" and loss.get_ylim()[0] < 0.002 and loss.get_ylim()[1] > 0.84
    assert loss.get_xlabel() == "epoch"
    assert {"0.01", "0.1"} <= {text.get_text() for text in loss.get_yticklabels()}
    assert "50%" in {text.get_text() for text in accuracy.get_yticklabels()}


def test_single_epoch_has_integer_tick() -> None:
    figure = Figure()
    Curves().draw(figure, [{"epoch": 1, "train/loss": 2.0}], None)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.9996, 1, ">99.9%"),
        (0.9994, 1, "99.9%"),
        (1.0, 1, "100.0%"),
        (0.9999, 0, ">99%"),
        (0.001, 0, "<1%"),
        (0.0, 0, "0%"),
        (0.99999, 2, ">99.99%"),
        (0.5, 0, "50%"),
    ],
)
def test_percentages_reach_bounds_only_exactly(share: float, digits: int, text: str) -> None:
    """Only exactly 0 and 1 are shown as 0% and 100%; values close to them as <1% and >99%."""
    assert format_percent(share, digits) == text


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.77, 0.985, ["80%", "85%", "90%", "95%"]),
        (0.945, 1.055, ["96%", "98%", "100%"]),
        (-0.04, 1.04, ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (0.97, 0.9905, ["97%", "97.5%", "98%", "98.5%", "99%"]),
        (0.99982, 1.00001, ["99.985%", "99.99%", "99.995%", "100%"]),
    ],
)
def test_percent_ticks_match_positions(low: float, high: float, texts: list[str]) -> None:
    """Each label states the exact position of its tick, and no tick lies above 100%."""
    axis = Figure().subplots()
    axis.set_ylim(low, high)
    set_percent_ticks(axis.yaxis)
    axis.figure.draw_without_rendering()
    inside = [tick for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert [tick.label1.get_text() for tick in inside] == texts
    assert all(
        tick.get_loc() == pytest.approx(float(text[:-1]) / 100) for tick, text in zip(inside, texts, strict=True)
    )


def test_a_colour_means_one_thing() -> None:
    meanings = [TRAIN, VALIDATION, MODEL, INCORRECT, TRUTH, CORRECT, OTHER, *CLASSES]
    assert len({to_hex(colour) for colour in meanings}) == len(meanings) == 17


def test_regression_curves_show_only_loss() -> None:
    figure = Figure()
    Curves().draw(figure, [{"epoch": 1, "train/loss": 2.0}], None)
    assert [axis.get_title() for axis in figure.axes] == ["loss"]


def test_prediction_grid_matches_model() -> None:
    """Columns follow x to the right and rows follow y upwards."""
    inputs = torch.tensor([[0.0, 0.0], [4.0, 2.0]])
    xs, ys, classes = predict_grid(linear([1.0, 0.0], -1.0), inputs)  # class 1 where x > 1
    expected = (xs > 1).long().expand(len(ys), -1)
    assert torch.equal(classes, expected)
    assert float(xs[0]) < 0.0 < 4.0 < float(xs[-1])

    xs, ys, classes = predict_grid(linear([0.0, -1.0], 0.5), inputs)  # class 1 where y < 0.5
    assert torch.equal(classes, (ys < 0.5).long()[:, None].expand(-1, len(xs)))


def test_prediction_grid_preserves_training_mode() -> None:
    model = linear([1.0, 0.0], 0.0).train()
    predict_grid(model, torch.randn(5, 2))
    assert model.training


def test_decision_regions_origin_is_lower_left() -> None:
    plane = Plane(torch.linspace(0, 4, 5), torch.linspace(-1, 1, 3), torch.zeros(3, 5, dtype=torch.long))
    figure = Figure()
    DecisionRegions(0).draw(figure, plane, Samples(torch.zeros(2, 2), torch.tensor([0, 1])), ("a", "b"), "t")
    image = figure.axes[0].images[0]
    assert image.get_extent() == [0, 4, -1, 1]
    assert image.origin == "lower"
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["class a", "class b"]


def test_confusion_matrix_rows_are_true_classes() -> None:
    figure = Figure()
    ConfusionMatrix().draw(figure, torch.tensor([[3, 1], [0, 4]]), ("cat", "dog"))
    axis = figure.axes[0]
    cells = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axis.texts}
    assert cells == {(0, 0): "3", (0, 1): "1", (1, 1): "4"}
    assert axis.get_ylabel() == "true class"
    assert axis.get_title() == "Test set: 87.50% correct"
    errors, right = [image.get_array() for image in axis.images]
    np.testing.assert_allclose(errors.filled(-1), [[-1, 0.25], [0.0, -1]])  # the diagonal apart
    np.testing.assert_allclose(right.filled(-1), [[0.75, -1], [-1, 1.0]])
    assert axis.images[0].get_clim() == (0, 0.25)  # the scale ends at the largest mistake
    assert figure.axes[1].get_ylabel() == "mistakes (fraction of class)"


def test_confusion_matrix_highlights_rare_errors() -> None:
    """A few errors in a thousand are clearly visible; without errors there is no colour bar."""
    counts = torch.diag(torch.full((10,), 1000))
    figure = Figure()
    ConfusionMatrix().draw(figure, counts, tuple("0123456789"))
    assert len(figure.axes) == 1
    counts[3, 5] = 4
    figure = Figure()
    ConfusionMatrix().draw(figure, counts, tuple("0123456789"))
    axis, bar = figure.axes
    assert axis.get_title() == "Test set: 99.96% correct"
    image = axis.images[0]
    assert to_hex(image.cmap(image.norm(4 / 1004))) == to_hex(ERRORS(1.0))  # as dark as can be
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0%", "0.1%", "0.2%", "0.3%", "0.4%"]


def test_most_confident_errors_come_first() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.05, 0.95]])
    targets = torch.tensor([0, 1, 0, 0])  # the first is right
    assert find_confident_errors(probabilities, targets, 2).tolist() == [3, 2]
    assert find_confident_errors(probabilities, targets, 9).tolist() == [3, 2, 1]


def test_samples_alternate_between_classes() -> None:
    targets = torch.tensor([2, 2, 0, 1, 0, 2])
    assert select_class_balanced(targets, 6).tolist() == [2, 3, 0, 4, 1, 5]
    assert select_class_balanced(targets, 2).tolist() == [2, 3]


def get_grid_pixels(images: torch.Tensor) -> list[list[list[int]]]:
    """The pixels that a grid draws of each image, their channels one after the other."""
    figure = Figure()
    draw_image_grid(figure, images, [""] * len(images), columns=2)
    drawn = [np.atleast_3d(np.asarray(axis.images[0].get_array())) for axis in figure.axes[: len(images)]]
    assert all(axis.images[0].get_clim() == (0, 255) for axis in figure.axes[: len(images)])
    return [image.transpose(2, 0, 1).reshape(image.shape[2], -1).tolist() for image in drawn]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (torch.tensor([0.0, 0.5, 1.0]), [0, 128, 255]),
        (torch.tensor([0.0, 0.2, 0.4]), [0, 51, 102]),  # dark ones stay dark
        (torch.tensor([0.0, 100.0, 200.0]), [0, 100, 200]),
        (torch.tensor([-0.5, 0.0, 2.0]), [0, 51, 255]),
        (torch.tensor([-1.0, torch.nan, 1.0]), [0, 0, 255]),
        (torch.tensor([0.0, 0.25, 1.0], dtype=torch.float16), [0, 64, 255]),
        (torch.tensor([0, 7, 255]), [0, 7, 255]),
        (torch.tensor([False, True, True]), [0, 255, 255]),
        (torch.tensor([3.0, 3.0, 3.0]), [0, 0, 0]),
    ],
)
def test_grey_images_are_scaled_to_bytes(pixels: torch.Tensor, expected: list[int]) -> None:
    """Grey images of any type and range are drawn between black and white."""
    assert get_grid_pixels(pixels.view(1, 1, 1, 3)) == [[expected]]


def test_standardised_colours_are_scaled_per_channel() -> None:
    """Each channel is scaled by its range over all images."""
    first = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [-2.0, 2.0]])
    images = torch.stack([first, 3 * first]).view(2, 3, 1, 2)
    low, high = get_grid_pixels(images)
    assert low == [[170, 255], [0, 85], [85, 170]]
    assert high == [[0, 255], [0, 255], [0, 255]]


def test_image_grid_shows_titled_images() -> None:
    images = torch.arange(3 * 3 * 4 * 4, dtype=torch.uint8).view(3, 3, 4, 4)
    figure = Figure()
    draw_image_grid(figure, images, ["a", "b", "c"], columns=2)
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
    data = InMemoryDataModule(make_samples(8, classes=2), task="binary", class_names=("a", "b"), batch_size=4)
    trainer.fit(model, datamodule=data)
    return tmp_path


def test_epoch_figures_are_saved_as_thumbnails(shown: Path) -> None:
    """A figure that is drawn during training is kept for each epoch, at a small size."""
    files = {path.name: path for path in (shown / "figures" / "decision_regions").iterdir()}
    assert sorted(files) == ["1.png", "2.png", "3.png"]
    with Image.open(files["1.png"]) as picture:
        assert max(picture.size) == 480


def test_figures_go_to_tensorboard_and_file(shown: Path) -> None:
    """TensorBoard gets each figure with its step; the file holds the last one."""
    events = EventAccumulator(str(shown)).Reload()
    images = events.Images("visuals/decision_regions")
    assert [image.step for image in images] == [2, 4, 6]
    with Image.open(shown / "figures" / "decision_regions.png") as picture:
        assert picture.size == (images[-1].width, images[-1].height)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 4  # something is drawn
