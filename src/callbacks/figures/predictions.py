"""Figures of test images with predictions: class probabilities and confident errors."""

from textwrap import fill
from typing import Any

import torch
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn.functional import pad

from src.callbacks.figures.base import (
    FigureCallback,
    attach_masks,
    draw_image,
    draw_image_grid,
    find_pixel_range,
    format_percent,
    format_target,
    get_data_module,
    has_class_names,
    has_images,
    to_bytes,
)
from src.callbacks.figures.training_images import select_class_balanced
from src.core.colours import CORRECT, INCORRECT, OTHER
from src.data.base import TensorDataModule
from src.data.tasks import count_fractions

PROBABILITY_COLUMNS = 2  # of an image and its bars each
MAX_CLASSES = 5  # number of classes shown per image
MIN_PROBABILITY = 1e-12  # probabilities are clamped to [SURE, 1 - SURE]
LEGEND = {CORRECT: "true class", INCORRECT: "predicted, wrong", OTHER: "other class"}
ERROR_COLUMNS, MASK_COLUMNS = 5, 2
TITLE_WIDTH = 22  # characters per line of a title


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
        data = get_data_module(trainer)
        if getattr(data, "test_set", None) is None or not has_images(trainer) or not hasattr(pl_module, "predict"):
            return
        if not has_class_names(data):
            return
        assert data.test_set is not None
        images, targets = data.test_set.take(select_class_balanced(data.test_set.targets, self.count))
        with torch.no_grad():
            outputs = pl_module(data.transform(images.to(pl_module.device)).to(pl_module.dtype))
        rows = -(-len(images) // PROBABILITY_COLUMNS)
        size = (PROBABILITY_COLUMNS * 3.2, rows * 1.05 + 0.8)
        self.show(trainer, size, images, targets, compute_class_probabilities(outputs.cpu()), data.class_names)

    def draw(
        self, figure: Figure, images: Tensor, targets: Tensor, probabilities: Tensor, names: tuple[str, ...]
    ) -> None:
        rows = -(-len(images) // PROBABILITY_COLUMNS)
        axes = figure.subplots(
            rows, 2 * PROBABILITY_COLUMNS, squeeze=False, width_ratios=[1.0, 1.4] * PROBABILITY_COLUMNS
        ).reshape(-1, 2)
        for pair in axes[len(images) :].flat:
            pair.axis("off")
        pixels = to_bytes(images, *find_pixel_range(images))
        for (left, right), image, true, row in zip(axes, pixels, targets.tolist(), probabilities, strict=False):
            draw_image(left, image)
            left.set_title(names[true], fontsize=9, pad=3)
            left.axis("off")
            _draw_bars(right, row, true, names)
        handles = [Patch(color=colour, label=label) for colour, label in LEGEND.items()]
        figure.suptitle("Test images and predicted class probabilities")
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)


def compute_class_probabilities(outputs: Tensor) -> Tensor:
    """Compute the softmax (N, K) of outputs (N, K), in float64.

    A single output (N, 1) is the logit of class 1 of two, with that of class 0 fixed at 0: the result is (N, 2).
    Probabilities are kept within 1e-12 of 0 and 1, which a softmax reaches by rounding only.
    """
    outputs = outputs.double()
    return (
        (pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs)
        .softmax(dim=1)
        .clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    )


def find_top_classes(probabilities: Tensor, true_class: int, count: int) -> list[int]:
    """Return the indices of up to ``count`` classes, the most probable first; the true class is always among them.

    Args:
        probabilities: the probabilities, (K,).
        true_class: the true class.
        count: number of classes, ≥ 1.
    """
    classes: list[int] = probabilities.argsort(descending=True, stable=True)[:count].tolist()
    return classes if true_class in classes else [*classes[:-1], true_class]


def _draw_bars(axis: Axes, probabilities: Tensor, true_class: int, names: tuple[str, ...]) -> None:
    """Draw a bar for each of the most probable classes, the most probable on top.

    Args:
        axis: the axis to draw on.
        probabilities: the probabilities, (K,).
        true_class: the true class.
        names: the names of the K classes.
    """
    classes = find_top_classes(probabilities, true_class, MAX_CLASSES)
    colours = [
        CORRECT if number == true_class else INCORRECT if rank == 0 else OTHER for rank, number in enumerate(classes)
    ]
    values = probabilities[classes].tolist()
    bars = axis.barh(range(len(classes)), values, color=colours, height=0.75)
    axis.bar_label(bars, [format_percent(value, 0) for value in values], padding=2, fontsize=7)
    axis.set_yticks(range(len(classes)), [names[number] for number in classes], fontsize=8)
    axis.set(xlim=(0, 1.25), ylim=(MAX_CLASSES - 0.5, -0.5), xticks=[])
    axis.tick_params(length=0)
    axis.spines["bottom"].set_visible(False)


class Misclassified(FigureCallback):
    """The misclassified test images with the highest predicted probability; only if one process runs the test.

    Of images with several labels, those with the largest error of a label's probability; of images with masks, those
    with the fewest correct pixels.

    Args:
        count: maximum number of images, ≥ 1.
    """

    name = "misclassified"

    def __init__(self, count: int) -> None:
        self.count = count
        self.outputs: list[Tensor] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs.clear()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        data = get_data_module(trainer)
        if isinstance(outputs, Tensor) and trainer.world_size == 1 and has_images(trainer) and data.class_names:
            self.outputs.append(outputs.argmax(dim=1).byte() if data.task == "dense" else outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        test_set = getattr(get_data_module(trainer), "test_set", None)
        if not self.outputs or test_set is None:
            return
        data, outputs = get_data_module(trainer), torch.cat(self.outputs).cpu()
        targets = test_set.targets[: len(outputs)].cpu()
        if data.task == "dense":
            wrong, titles = _find_worst_masks(outputs, targets, self.count)
        elif data.task == "multilabel":
            wrong, titles = _find_wrong_labels(outputs.double().sigmoid(), targets, self.count, data)
        else:
            wrong, titles = _find_wrong_classes(compute_class_probabilities(outputs), targets, self.count, data)
        if not titles:
            return
        images, columns = test_set.inputs[wrong], ERROR_COLUMNS
        if data.task == "dense":
            images, columns = attach_masks(images, targets[wrong], outputs[wrong]), MASK_COLUMNS
        height = 1.55 if data.task == "dense" else 1.75
        self.show(trainer, (ERROR_COLUMNS * 1.6, -(-len(titles) // columns) * height + 0.3), images, titles, columns)

    def draw(self, figure: Figure, images: Tensor, titles: list[str], columns: int = ERROR_COLUMNS) -> None:
        kind = "Test images with the fewest correct pixels: image, true and predicted mask"
        figure.suptitle(kind if columns == MASK_COLUMNS else "Misclassified test images, most confident first")
        draw_image_grid(figure, images, titles, columns)


Errors = tuple[Tensor, list[str]]  # the indices of images, and their titles


def _find_wrong_classes(probabilities: Tensor, targets: Tensor, count: int, data: TensorDataModule) -> Errors:
    """Return up to ``count`` misclassified images, the highest probability first."""
    names, wrong = data.class_names, find_confident_errors(probabilities, targets, count)
    confidence, predicted = probabilities[wrong].max(dim=1)
    return wrong, [
        fill(f"{names[true]}, predicted {names[guess]} ({format_percent(probability, 1)})", TITLE_WIDTH)
        for guess, probability, true in zip(predicted, confidence.tolist(), targets[wrong], strict=True)
    ]


def _find_wrong_labels(probabilities: Tensor, targets: Tensor, count: int, data: TensorDataModule) -> Errors:
    """Return up to ``count`` images with a wrong label, the largest error of a probability first."""
    error, predicted = (probabilities - targets).abs().amax(dim=1), (probabilities > 0.5).long()
    wrong = (predicted != targets).any(dim=1).nonzero().flatten()
    wrong = wrong[error[wrong].argsort(descending=True, stable=True)][:count]
    pairs = zip(targets[wrong], predicted[wrong], strict=True)
    texts = [f"{format_target(data, true)}, predicted {format_target(data, guess)}" for true, guess in pairs]
    return wrong, [fill(text, TITLE_WIDTH) for text in texts]


def _find_worst_masks(predicted: Tensor, targets: Tensor, count: int) -> Errors:
    """Return up to ``count`` images whose masks (N, H, W) have the fewest correct pixels."""
    fractions = torch.stack([count_fractions(*pair) for pair in zip(predicted[:, None], targets[:, None], strict=True)])
    worst = fractions.argsort(stable=True)[:count]
    return worst, [f"{format_percent(value, 1)} correct" for value in fractions[worst].tolist()]


def find_confident_errors(probabilities: Tensor, targets: Tensor, count: int) -> Tensor:
    """Return the indices of up to ``count`` mistakes, the highest probability first.

    Args:
        probabilities: the predicted probabilities, (N, K).
        targets: the true classes, (N,).
        count: maximum number of mistakes.
    """
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != targets).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
