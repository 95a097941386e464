"""Figure of test images with the class probabilities that the model predicts."""

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

COLUMNS = 2  # of an image and its bars each
TOP = 5  # number of classes shown per image
SURE = 1e-12  # probabilities are clamped to [SURE, 1 - SURE]
LEGEND = {RIGHT: "true class", WRONG: "predicted, wrong", OTHER: "other class"}


class ClassProbabilities(FigureCallback):
    """Test images, each next to a bar chart of its most probable classes.

    Drawn with the weights that are tested; for models that predict classes.

    Args:
        count: number of images, ≥ 1; as equally divided among the classes as possible.
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
        for (left, right), image, true, row in zip(axes, pixels, targets.tolist(), probabilities, strict=False):
            draw_image(left, image)
            left.set_title(names[true], fontsize=9, pad=3)
            left.axis("off")
            draw_bars(right, row, true, names)
        handles = [Patch(color=colour, label=label) for colour, label in LEGEND.items()]
        figure.suptitle("Test images, and how likely the model takes each class to be")
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)


def class_probabilities(outputs: Tensor) -> Tensor:
    """Compute the softmax (N, K) of outputs (N, K), in float64.

    A single output (N, 1) is the logit of class 1 of two, with that of class 0 fixed at 0: the result is (N, 2).
    Probabilities are kept within 1e-12 of 0 and 1, which a softmax reaches by rounding only.
    """
    outputs = outputs.double()
    return (pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs).softmax(dim=1).clamp(SURE, 1 - SURE)


def likeliest(shares: Tensor, true: int, count: int) -> list[int]:
    """Return the indices of up to ``count`` classes, the most probable first; the true class is always among them.

    Args:
        shares: the probabilities, (K,).
        true: the true class.
        count: number of classes, ≥ 1.
    """
    classes: list[int] = shares.argsort(descending=True, stable=True)[:count].tolist()
    return classes if true in classes else [*classes[:-1], true]


def draw_bars(axis: Axes, shares: Tensor, true: int, names: tuple[str, ...]) -> None:
    """Draw a bar for each of the most probable classes, the most probable on top.

    Args:
        axis: the axis to draw on.
        shares: the probabilities, (K,).
        true: the true class.
        names: the names of the K classes.
    """
    classes = likeliest(shares, true, TOP)
    colours = [RIGHT if number == true else WRONG if rank == 0 else OTHER for rank, number in enumerate(classes)]
    values = shares[classes].tolist()
    bars = axis.barh(range(len(classes)), values, color=colours, height=0.75)
    axis.bar_label(bars, [spell_share(value, 0) for value in values], padding=2, fontsize=7)
    axis.set_yticks(range(len(classes)), [names[number] for number in classes], fontsize=8)
    axis.set(xlim=(0, 1.25), ylim=(TOP - 0.5, -0.5), xticks=[])
    axis.tick_params(length=0)
    axis.spines["bottom"].set_visible(False)
