"""Figure of the calibration on the test set: is a network right as often as it claims?"""

from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, format_percent, set_percent_ticks
from src.callbacks.figures.predictions import compute_class_probabilities
from src.core.colours import COLOURS, INCORRECT, OTHER, TRAIN

BINS = 15  # of equal width, as of Guo et al. (2017)
PALE = COLOURS[5]
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
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        filled = bins[:, bins[0] > 0]
        starts, counts = (np.arange(BINS) / BINS)[bins[0] > 0], filled[0]
        confidence, accuracy = filled[1:] / counts
        style: Any = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        upper.bar(starts, accuracy, color=TRAIN, label="accuracy", **style)
        for gap, colour, label in (
            (confidence - accuracy, INCORRECT, "too sure: the confidence is higher"),
            (accuracy - confidence, PALE, "not sure enough: it is lower"),
        ):
            height = gap.clip(min=0)
            bottom = np.maximum(accuracy, confidence) - height
            upper.bar(starts, height, bottom=bottom, color=colour, hatch="///", label=label, **style)
        upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="accuracy = confidence")
        upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        upper.legend(loc="upper left", fontsize=9, frameon=True, framealpha=0.9, edgecolor="none")  # over bars, too
        lower.bar(starts, counts / counts.sum(), color=OTHER, **style)
        lower.set(xlabel="confidence: probability of the predicted class", ylabel="samples")
        for axis, ticks in ((upper.yaxis, 6), (lower.yaxis, 3), (lower.xaxis, 6)):
            set_percent_ticks(axis, ticks)
        claimed, correct = [format_percent(total / counts.sum(), 1) for total in filled[1:].sum(axis=1)]
        error = format_percent(compute_error(bins), 2)
        figure.suptitle(
            f"Test set: {correct} correct, mean confidence {claimed}\nexpected calibration error {error} (15 bins)"
        )


def count_by_confidence(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the number of samples in each of 15 bins of confidence, the sum of confidences, and the number correct.

    Args:
        outputs: the network's, (N, K), or (N, 1) for two classes.
        targets: the true classes, (N,) or (N, 1).

    Returns:
        The three rows, (3, 15) float64.
    """
    confidence, predicted = compute_class_probabilities(outputs).max(dim=1)
    index = (confidence * BINS).long().clamp(0, BINS - 1)
    rows = torch.stack([torch.ones_like(confidence), confidence, (predicted == targets.flatten()).double()])
    return torch.zeros(3, BINS, dtype=torch.float64).index_add(1, index, rows)


def compute_error(bins: np.ndarray) -> float:
    """Return the expected calibration error: the mean of a bin's gap between accuracy and confidence, by its samples.

    Args:
        bins: the result of `count_by_confidence`.
    """
    counts, confidences, rights = bins
    return float(np.abs(confidences - rights).sum() / counts.sum())
