"""Figure of the calibration on the test set: is a network right as often as it claims?"""

from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, format_percent, set_percent_ticks
from src.callbacks.figures.predictions import compute_class_probabilities
from src.core.colours import INCORRECT, OTHER, TRAIN

BINS = 15  # of equal width, as of Guo et al. (2017)
CLASS_TASKS = ("multiclass", "binary")


class ReliabilityDiagram(FigureCallback):
    """The test set's accuracy by confidence, and the expected calibration error; for models that predict one class.

    The confidence is the probability of the predicted class. Below are the fractions of the samples in each bin.
    """

    name = "reliability"
    needs_samples = False

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if getattr(pl_module, "task", None) in CLASS_TASKS and isinstance(outputs, Tensor) and outputs.ndim == 2:
            self.bins += count_by_confidence(outputs.cpu(), batch[1].cpu())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.bins = trainer.strategy.reduce(self.bins.to(pl_module.device), reduce_op="sum").cpu()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bins[0].sum() > 0:
            self.show(trainer, (5.2, 5.4), self.bins.numpy())

    def draw(self, figure: Figure, bins: np.ndarray) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        counts, confidences, rights = bins
        filled = counts > 0
        edges = np.linspace(0, 1, BINS + 1)[:-1][filled]
        accuracy, confidence = (rights / np.maximum(counts, 1))[filled], (confidences / np.maximum(counts, 1))[filled]
        style: Any = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        upper.bar(edges, accuracy, color=TRAIN, label="accuracy", **style)
        gap: Any = {"color": INCORRECT, "alpha": 0.35, "hatch": "////", "label": "gap to the mean confidence"}
        upper.bar(edges, confidence - accuracy, bottom=accuracy, **style | gap)
        upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfect calibration")
        upper.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1))
        upper.set_title(f"Test set: expected calibration error {format_percent(compute_error(bins), 2)}")
        lower.bar(edges, counts[filled] / counts.sum(), color=OTHER, **style)
        lower.set(xlabel="confidence: probability of the predicted class", ylabel="samples")
        total = counts.sum()
        for mean, name, line in (
            (rights.sum() / total, "accuracy", "-"),
            (confidences.sum() / total, "confidence", ":"),
        ):
            label = f"mean {name} {format_percent(mean, 1)}"
            lower.axvline(mean, color="black", linestyle=line, linewidth=1, label=label)
        for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
            set_percent_ticks(axis, 3 if axis is lower.yaxis else 6)
        upper.legend(loc="upper left", fontsize=9)
        lower.legend(loc="upper left", fontsize=9)


def count_by_confidence(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the number of samples in each of 15 bins of confidence, the sum of confidences, and the number correct.

    Args:
        outputs: the network's, (N, K), or (N, 1) for two classes.
        targets: the true classes, (N,) or (N, 1).

    Returns:
        The three rows, (3, 15) float64.
    """
    confidence, predicted = compute_class_probabilities(outputs).max(dim=1)
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = torch.stack([torch.ones_like(confidence), confidence, (predicted == targets.flatten()).double()])
    return torch.zeros(3, BINS, dtype=torch.float64).index_add(1, index, rows)


def compute_error(bins: np.ndarray) -> float:
    """Return the expected calibration error: the mean of a bin's gap between accuracy and confidence, by its samples.

    Args:
        bins: the result of `count_by_confidence`.
    """
    counts, confidences, rights = bins
    return float(np.abs(confidences - rights).sum() / counts.sum())
