"""Weights of the classes in the training loss: how much each sample counts, by its class."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.core.checks import format_value
from src.core.errors import InputError
from src.data.loading.samples import flatten_targets
from src.data.tasks import get_task

BALANCED = "balanced"


def check_class_weights(setting: str | Sequence[float] | None, task: str, num_classes: int) -> None:
    """Refuse weights for a task that has not one class for each sample, or for another number of classes.

    Raises:
        InputError: naming the setting.
    """
    if setting is None:
        return
    given = f"model.class_weights={format_value(setting)}"
    if not get_task(task).has_one_class:
        raise InputError(f"{given} has no meaning for {task} targets: it needs one class for each sample")
    if setting != BALANCED and len(setting) != num_classes:
        raise InputError(f"{given}: these are {len(setting)} weights, and the data have {num_classes} classes")


def make_class_weights(setting: str | Sequence[float], trainer: Any, num_classes: int) -> Tensor:
    """Return the weights of the K classes, (K,): those given, or n/(K·n_k) for n training samples, n_k in the class.

    Raises:
        InputError: if they are to be balanced, and a class has no training samples, or the data module does not have
            them in memory.
    """
    if setting != BALANCED:
        return torch.tensor(setting, dtype=torch.float32)
    data: Any = getattr(trainer, "datamodule", None)
    samples = getattr(data, "train_set", None)
    if samples is None:
        raise InputError("model.class_weights=balanced counts the classes of a TensorDataModule: give a list instead")
    counts = torch.bincount(flatten_targets(samples.targets), minlength=num_classes)
    if not counts.all():
        missing = data.class_names[int(counts.argmin())]
        raise InputError(f"model.class_weights=balanced: no training sample has the class {missing}; give a list")
    return counts.sum() / (num_classes * counts)


def weigh_samples(targets: Tensor, weights: Tensor) -> Tensor:
    """Return each sample's weight (B,): its class's, or the mean of its classes' for targets that are shares (B, K)."""
    return weights[targets] if targets.ndim == 1 else targets.to(weights.dtype) @ weights


def compute_weighted_loss(
    loss: Callable[..., Tensor], outputs: Tensor, targets: Tensor, smoothing: float, weights: Tensor
) -> Tensor:
    """Return Σ w·loss / Σ w over a batch, () as of `torch.nn.CrossEntropyLoss`, where w is the weight of a sample.

    Args:
        loss: one of `src.models.supervision.losses.LOSSES`.
        outputs: (B, out_features).
        targets: classes (B,), or shares of classes (B, K).
        smoothing: the fraction of a target's weight that is spread over all classes.
        weights: of the classes, (K,).
    """
    weights = weights.to(outputs.dtype)
    each = weigh_samples(targets, weights)
    if loss.__name__ == "cross_entropy" and outputs.shape[1] > 1:  # torch weighs each class of a smoothed target itself
        total = F.cross_entropy(outputs, targets, weights, label_smoothing=smoothing, reduction="sum")
    else:
        total = (loss(outputs, targets, smoothing, reduction="none") * each).sum()
    return total / each.sum()
