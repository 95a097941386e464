"""The tasks: what a network predicts for an input, and what follows from it for losses, metrics and figures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from src.core.errors import InputError


@dataclass(frozen=True)
class Task:
    """A row of the table of tasks.

    Attributes:
        losses: the names in `src.models.losses.LOSSES` that suit it; the first is its default.
        predict: returns the predictions for outputs: (B, out_features) → (B,).
        has_classes: predictions are classes, right or wrong, so that there is an accuracy; otherwise values.
        has_output_per_class: the network has an output for each class, otherwise one.
    """

    losses: tuple[str, ...]
    predict: Callable[[Tensor], Tensor]
    has_classes: bool
    has_output_per_class: bool

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that selects the best epoch, and its direction ("min" or "max")."""
        return ("val/acc", "max") if self.has_classes else ("val/loss", "min")

    def count_outputs(self, num_classes: int) -> int:
        """Return the number of a network's outputs for this number of classes."""
        return num_classes if self.has_output_per_class else 1

    def count_correct(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the number of correct predictions, (); 0 for values."""
        return (predictions == targets).sum() if self.has_classes else predictions.new_zeros(())

    def count_confusion(self, predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
        """Return the counts of true class × predicted class, (K, K)."""
        cells = targets * num_classes + predictions
        return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def _choose_largest(outputs: Tensor) -> Tensor:
    return outputs.argmax(dim=1)


def _choose_by_sign(outputs: Tensor) -> Tensor:
    return (outputs.squeeze(1) > 0).long()


def _take_values(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1)


TASKS: dict[str, Task] = {
    "multiclass": Task(
        losses=("cross_entropy", "one_vs_rest", "quadratic", "perceptron"),
        predict=_choose_largest,
        has_classes=True,
        has_output_per_class=True,
    ),
    "binary": Task(
        losses=("cross_entropy", "quadratic", "perceptron"),
        predict=_choose_by_sign,
        has_classes=True,
        has_output_per_class=False,
    ),
    "regression": Task(
        losses=("squared_error",),
        predict=_take_values,
        has_classes=False,
        has_output_per_class=False,
    ),
}


def get_task(name: str) -> Task:
    """Return a task by its name.

    Raises:
        InputError: if there is none of this name.
    """
    if name not in TASKS:
        raise InputError(f"the task {name} is none of {', '.join(TASKS)}")
    return TASKS[name]
