"""Test images with the probabilities that the model gives to their classes."""

import torch
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn.functional import pad

from src.callbacks.figures.base import (
    FigureCallback,
    data_of,
    draw_image,
    measure_pixels,
    shows_images,
    spell_share,
    to_bytes,
)
from src.callbacks.figures.samples import class_by_class
from src.core.colours import OTHER, RIGHT, WRONG

COLUMNS = 2  # of an image with its bars
TOP = 5  # classes at most beside an image
SURE = 1e-12  # a softmax is never quite 1 or 0, whatever rounding makes of it
LEGEND = {RIGHT: "true class", WRONG: "predicted, wrong", OTHER: "other class"}


class ClassProbabilities(FigureCallback):
    """Test images, as many of each class as fit, beside a bar for each of their likeliest classes.

    Drawn with the weights that are tested; for models that predict classes.

    Args:
        count: how many images, ≥ 1.
    """

    name = "class_probabilities"

    def __init__(self, count: int) -> None:
        self.count = count

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = data_of(trainer)
        if getattr(data, "test_set", None) is None or not shows_images(trainer) or not hasattr(pl_module, "predict"):
            return
        assert data.test_set is not None
        images, targets = data.test_set.take(class_by_class(data.test_set.targets, self.count))
        with torch.no_grad():
            outputs = pl_module(data.transform(images.to(pl_module.device)).to(pl_module.dtype))
        rows = -(-len(images) // COLUMNS)
        size = (COLUMNS * 3.2, rows * 1.05 + 0.8)
        self.show(trainer, size, images, targets, class_probabilities(outputs.cpu()), data.class_names)

    def draw(
        self, figure: Figure, images: Tensor, targets: Tensor, probabilities: Tensor, names: tuple[str, ...]
    ) -> None:
        rows = -(-len(images) // COLUMNS)
        axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False, width_ratios=[1.0, 1.4] * COLUMNS).reshape(-1, 2)
        for pair in axes[len(images) :].flat:
            pair.axis("off")
        pixels = to_bytes(images, *measure_pixels(images))
        for (left, right), image, true, shares in zip(axes, pixels, targets.tolist(), probabilities, strict=False):
            draw_image(left, image)
            left.set_title(names[true], fontsize=9, pad=3)
            left.axis("off")
            draw_bars(right, shares, true, names)
        handles = [Patch(color=colour, label=label) for colour, label in LEGEND.items()]
        figure.suptitle("Test images, and how likely the model takes each class to be")
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)


def class_probabilities(outputs: Tensor) -> Tensor:
    """The softmax (N, K) of outputs (N, K), in float64; one output (N, 1) is the second of two classes' against 0."""
    outputs = outputs.double()
    return (pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs).softmax(dim=1).clamp(SURE, 1 - SURE)


def likeliest(shares: Tensor, true: int, count: int) -> list[int]:
    """Up to ``count`` classes of the probabilities (K,), the likeliest first; the true one is always among them."""
    classes: list[int] = shares.argsort(descending=True, stable=True)[:count].tolist()
    return classes if true in classes else [*classes[:-1], true]


def draw_bars(axis: Axes, shares: Tensor, true: int, names: tuple[str, ...]) -> None:
    """A bar for each of the likeliest classes, of probabilities (K,), the likeliest on top."""
    classes = likeliest(shares, true, TOP)
    colours = [RIGHT if number == true else WRONG if place == 0 else OTHER for place, number in enumerate(classes)]
    values = shares[classes].tolist()
    bars = axis.barh(range(len(classes)), values, color=colours, height=0.75)
    axis.bar_label(bars, [spell_share(value, 0) for value in values], padding=2, fontsize=7)
    axis.set_yticks(range(len(classes)), [names[number] for number in classes], fontsize=8)
    axis.set(xlim=(0, 1.25), ylim=(TOP - 0.5, -0.5), xticks=[])
    axis.tick_params(length=0)
    axis.spines["bottom"].set_visible(False)
