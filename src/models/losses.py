"""Costs of a batch: outputs (B, K) and targets (B,) in, out their mean over the samples, or "none": each one's, (B,).

Outputs are what the last linear layer gives, without an activation: a cost that is written for
sigmoid or softmax outputs applies it itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[..., Tensor]


def expected(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """What each output should be: one-hot rows (B, K), or the class 0 or 1 itself (B, 1).

    ``smoothing`` is the share of a target's weight that is spread over all classes.
    """
    width = outputs.shape[1]
    hot = (targets.unsqueeze(1) if width == 1 else F.one_hot(targets, width)).to(outputs.dtype)
    return hot * (1 - smoothing) + smoothing / max(width, 2) if smoothing else hot


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Of the softmax over K classes; with one output, of the sigmoid (logistic loss)."""
    if outputs.shape[1] == 1:
        return one_vs_rest(outputs, targets, smoothing, reduction)
    return F.cross_entropy(outputs, targets, label_smoothing=smoothing, reduction=reduction)


def one_vs_rest(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """The logistic losses of each class against the rest, summed over the outputs."""
    wanted = expected(outputs, targets, smoothing)
    found = F.binary_cross_entropy_with_logits(outputs, wanted, reduction=reduction)
    if reduction == "none":
        return found.sum(dim=1)
    return found * outputs.shape[1] if outputs.shape[1] > 1 else found


def quadratic(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """½ Σ (σ(z) − y)² over the outputs z, with one-hot y (the course's first cost; Nielsen, 2015)."""
    each = (outputs.sigmoid() - expected(outputs, targets, smoothing)).square().sum(dim=1)
    return (each.mean() if reduction == "mean" else each) / 2


def perceptron(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Σ (ŷ − y)·z, where ŷ is 1 if z > 0, else 0: zero for what is right.

    Its gradient in the weights is (ŷ − y)·x, so that a step of plain gradient descent on one
    sample is Rosenblatt's rule, w ← w + η (y − ŷ)·x (1958).
    """
    each = (((outputs > 0).to(outputs.dtype) - expected(outputs, targets, smoothing)) * outputs).sum(dim=1)
    return each.mean() if reduction == "mean" else each


def squared_error(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Squared error of one output."""
    return F.mse_loss(outputs.squeeze(1), targets.to(outputs.dtype), reduction=reduction)


LOSSES: dict[str, Loss] = {
    loss.__name__: loss for loss in (cross_entropy, one_vs_rest, quadratic, perceptron, squared_error)
}
BY_TASK: dict[str, tuple[str, ...]] = {  # the first of each is the default
    "multiclass": ("cross_entropy", "one_vs_rest", "quadratic", "perceptron"),
    "binary": ("cross_entropy", "quadratic", "perceptron"),
    "regression": ("squared_error",),
}
SMOOTHABLE = ("cross_entropy", "one_vs_rest", "quadratic")


def gradient(name: str, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The derivative of each sample's loss in its outputs, written out: (B, K)."""
    if name == "squared_error":
        return 2 * (outputs - targets.unsqueeze(1).to(outputs.dtype))
    wanted = expected(outputs, targets, smoothing)
    if name == "perceptron":
        return (outputs > 0).to(outputs.dtype) - wanted
    if name == "cross_entropy" and outputs.shape[1] > 1:
        return outputs.softmax(dim=1).sub_(wanted)
    found = outputs.sigmoid()
    return (found - wanted) * found * (1 - found) if name == "quadratic" else found.sub_(wanted)


def penalty(weights: list[Tensor], l1: float, l2: float) -> Tensor:
    """l1·Σ|w| + l2·Σw² over all the weights."""
    flat = torch.cat([weight.flatten() for weight in weights])
    return l1 * flat.abs().sum() + l2 * flat.square().sum()
