"""The tasks: what a network predicts, and what follows from it for targets, losses, metrics and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.own.labels import IGNORED


def _choose_largest(outputs: Tensor) -> Tensor:
    return outputs.argmax(dim=1)


def _choose_by_sign(outputs: Tensor) -> Tensor:
    return (outputs.squeeze(1) > 0).long()


def _take_values(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1)


def _count_samples(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions == targets).sum()


def _count_whole_samples(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions == targets).flatten(1).all(dim=1).sum()


def count_fractions(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over samples of the fraction of pixels that are correct, of those that have a class: ()."""
    right, known = (predictions == targets).flatten(1).sum(dim=1), (targets != IGNORED).flatten(1).sum(dim=1)
    return (right / known.clamp(min=1)).sum()


def _count_classes(targets: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    cells = (targets * num_classes + predictions).flatten()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def _count_pixels(targets: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    known = targets != IGNORED
    return _count_classes(targets[known], predictions[known], num_classes)


def _count_labels(targets: Tensor, predictions: Tensor, num_labels: int) -> Tensor:
    cells = (4 * torch.arange(num_labels, device=targets.device) + 2 * targets + predictions).flatten()
    return torch.bincount(cells, minlength=4 * num_labels).view(num_labels, 2, 2)


def _compute_mean_iou(confusion: Tensor) -> Tensor:
    """Return the mean over the classes that occur of intersection over union, from counts (K, K): ()."""
    both = confusion.diagonal()
    either = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    return (both[either > 0] / either[either > 0]).mean()


def rate_classes(confusion: Tensor) -> Tensor:
    """Return the fraction that is correct of each class's samples (K, K), or of all for labels (K, 2, 2): (K,)."""
    if confusion.ndim == 3:
        return confusion.diagonal(dim1=1, dim2=2).sum(dim=1) / confusion.sum(dim=(1, 2))
    return confusion.diagonal() / confusion.sum(dim=1)


@dataclass(frozen=True)
class Task:
    """A row of the table of tasks.

    Attributes:
        losses: the names in `src.models.supervision.losses.LOSSES` that suit it; the first is its default.
        predict: returns the predictions for outputs: (B, out_features, …) → (B, …).
        has_classes: predictions are classes, right or wrong, so that there is an accuracy; otherwise values.
        has_one_class: each sample has exactly one class, so that a split can keep the classes' fractions, and figures
            can show samples by class.
        has_output_per_class: the network has an output for each class; otherwise one, or one for each value.
        target_shape: the shape of N samples' targets; K is the number of classes or, for a regression, of its values.
        count_correct: returns the number of correct samples from predictions and targets (B, …): ().
        count_confusion: returns counts of true × predicted class (K, K), or of each label (K, 2, 2), from targets,
            predictions and K.
        confusion_metrics: further metrics of an evaluation by name, functions of these counts.
    """

    losses: tuple[str, ...]
    predict: Callable[[Tensor], Tensor]
    has_classes: bool = True
    has_one_class: bool = True
    has_output_per_class: bool = True
    target_shape: tuple[str, ...] = ("N",)
    count_correct: Callable[[Tensor, Tensor], Tensor] = _count_samples
    count_confusion: Callable[[Tensor, Tensor, int], Tensor] = _count_classes
    confusion_metrics: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that selects the best epoch, and its direction ("min" or "max")."""
        return ("val/acc", "max") if self.has_classes else ("val/loss", "min")

    @property
    def output_dims(self) -> int:
        """The number of dimensions of a network's outputs."""
        return 4 if len(self.target_shape) == 3 else 2

    def count_outputs(self, num_classes: int, num_values: int = 1) -> int:
        """Return the number of a network's outputs, for a number of classes, or of values of a regression."""
        return num_classes if self.has_output_per_class else num_values


TASKS: dict[str, Task] = {
    "multiclass": Task(
        losses=("cross_entropy", "one_vs_rest", "quadratic", "perceptron"),
        predict=_choose_largest,
    ),
    "binary": Task(
        losses=("cross_entropy", "quadratic", "perceptron"),
        predict=_choose_by_sign,
        has_output_per_class=False,
    ),
    "multilabel": Task(  # any number of classes, the labels, for each sample: targets (N, K) of 0 and 1
        losses=("binary_cross_entropy", "one_vs_rest", "quadratic", "perceptron"),
        predict=_choose_by_sign,
        has_one_class=False,
        target_shape=("N", "K"),
        count_correct=_count_whole_samples,
        count_confusion=_count_labels,
    ),
    "dense": Task(  # a class for each pixel: targets (N, H, W), `IGNORED` where there is none, outputs (B, K, H, W)
        losses=("cross_entropy",),
        predict=_choose_largest,
        has_one_class=False,
        target_shape=("N", "H", "W"),
        count_correct=count_fractions,
        count_confusion=_count_pixels,
        confusion_metrics={"iou": _compute_mean_iou},
    ),
    "regression": Task(  # targets (N,), or (N, K) for several values
        losses=("squared_error",),
        predict=_take_values,
        has_classes=False,
        has_one_class=False,
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


def check_targets(targets: Tensor, name: str, num_classes: int, num_values: int) -> None:
    """Check the targets of a data set against its task.

    Args:
        targets: the targets, (N, …).
        name: the task's name.
        num_classes: the number of classes; 0 for regression.
        num_values: the number of values of a regression.

    Raises:
        InputError: if they have another shape or type, or a class that is none.
    """
    task = get_task(name)
    shape = ("N", "K") if num_values > 1 else task.target_shape
    width = num_classes or num_values
    fits = targets.ndim == len(shape) and ("K" not in shape or targets.shape[1] == width)
    if not fits or (task.has_classes and targets.is_floating_point()):
        found = f"{str(targets.dtype).removeprefix('torch.')} {tuple(targets.shape)}"
        needed = f"{'int64' if task.has_classes else 'float32'} ({', '.join(shape).replace('K', str(width))})"
        raise InputError(f"the task {name} needs targets {needed}, and these are {found}")
    if name == "dense":
        targets = targets[targets != IGNORED]
    if num_classes and targets.numel():
        low, high = (int(end) for end in targets.aminmax())
        most = 1 if name == "multilabel" else num_classes - 1
        if low < 0 or high > most:
            wrong = low if low < 0 else high
            raise InputError(f"the task {name} needs targets from 0 to {most}, and one of these is {wrong}")
