"""Figures of the test set by class: the confusion matrix and the accuracy of each class."""

import math

import numpy as np
from lightning import LightningModule, Trainer
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, format_percent, get_data_module, set_percent_ticks
from src.core.colours import CORRECT, INCORRECT, OTHER, choose_contrast_colour
from src.data.tasks import rate_classes

MANY = 100_000  # too long for a cell
ERRORS = LinearSegmentedColormap.from_list("errors", ["white", INCORRECT, "#7A2A5A"])


class ConfusionMatrix(FigureCallback):
    """The test set's confusion matrix; for models that count one (``confusion``, (K, K)).

    Each cell shows its count, or if there are many, as of pixels, its fraction of the true class. Mistakes are coloured
    by that fraction, on a scale that ends at the largest of them; the diagonal is grey.
    """

    name = "confusion_matrix"
    needs_samples = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts, names = getattr(pl_module, "confusion", None), getattr(get_data_module(trainer), "class_names", ())
        if counts is not None and counts.ndim == 2 and len(names) > 1:
            side = 2.4 + 0.27 * len(names)
            self.show(trainer, (side + 0.9, side * 0.92), counts.cpu(), names)

    def draw(self, figure: Figure, counts: Tensor, names: tuple[str, ...]) -> None:
        fractions = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()  # of the true class
        accuracy = float(counts.diagonal().sum() / counts.sum().clamp(min=1))
        axis, right = figure.subplots(), np.eye(len(names), dtype=bool)
        errors = np.ma.array(fractions, mask=right)
        image = axis.imshow(errors, cmap=ERRORS, vmin=0, vmax=errors.max() or 1)
        axis.imshow(np.ma.array(fractions, mask=~right), cmap=ListedColormap([OTHER]))
        size = 7 if len(names) > 4 else 10
        for row, column in np.ndindex(fractions.shape):
            count = int(counts[row, column])
            if count or row == column:
                colour = (
                    "black"
                    if row == column
                    else choose_contrast_colour(*image.cmap(image.norm(fractions[row, column]))[:3])
                )
                text = str(count) if counts.max() < MANY else format_percent(float(fractions[row, column]), 0)
                axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        long = max(map(len, names)) > 2
        axis.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
        axis.set_yticks(range(len(names)), names)
        title = f"Test set: {format_percent(accuracy, 2)} correct"
        axis.set(xlabel="predicted class", ylabel="true class", title=title)
        axis.spines[:].set_visible(False)
        if errors.max():
            bar = figure.colorbar(image, ax=axis, label="mistakes (fraction of class)", shrink=0.8)
            set_percent_ticks(bar.ax.yaxis, 5)
            bar.outline.set_visible(False)


class ClassAccuracy(FigureCallback):
    """The test set's accuracy by class, the best on top; for models with a ``confusion``, of labels (K, 2, 2)."""

    name = "class_accuracy"
    needs_samples = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts, names = getattr(pl_module, "confusion", None), getattr(get_data_module(trainer), "class_names", ())
        if counts is not None and len(names) > 1 and counts.sum() > 0:
            size, accuracies = (6.4, 1.0 + 0.26 * len(names)), compute_class_accuracies(counts.cpu(), names)
            self.show(trainer, size, accuracies, counts.ndim == 3)

    def draw(self, figure: Figure, accuracies: list[tuple[str, float]], are_labels: bool = False) -> None:
        names, values = zip(*accuracies, strict=True)
        mean, what = sum(values) / len(values), "labels" if are_labels else "classes"
        axis, rows = figure.subplots(), range(len(names))
        axis.barh(rows, values, color=CORRECT, height=0.7)
        for row, value in enumerate(values):  # right of 100%, clear of the bars and the line
            axis.text(1.02, row, format_percent(value, 1), va="center", fontsize=9)
        axis.axvline(mean, color="black", linestyle="--", label=f"mean of the {what} {format_percent(mean, 1)}")
        axis.set_yticks(rows, names)
        axis.set(xlim=(0, 1.12), ylim=(len(names) - 0.5, -0.5))
        if are_labels:
            axis.set(xlabel="fraction of the samples predicted correctly", title="Test accuracy by label")
        else:
            axis.set(xlabel="fraction of the class predicted correctly", title="Test accuracy by class")
        set_percent_ticks(axis.xaxis)
        axis.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower center")


def compute_class_accuracies(counts: Tensor, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Return each class's name and accuracy, the best first.

    Args:
        counts: number of samples by true × predicted class, (K, K), or for each label, (K, 2, 2).
        names: the names of the K classes. Those without samples are left out.
    """
    rates = zip(names, rate_classes(counts).tolist(), strict=True)
    return sorted([(name, rate) for name, rate in rates if not math.isnan(rate)], key=lambda item: -item[1])
