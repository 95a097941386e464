"""Losses of a batch from outputs (B, K) and targets (B,): the mean over the samples, or for "none" all of them, (B,).

Targets may also be shares of the classes (B, K), of mixed images, for the losses in `SMOOTHABLE`.

Outputs come from the last linear layer, without an activation: a loss that is defined on sigmoid or softmax outputs
applies that function itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[..., Tensor]


def encode_targets(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the desired outputs: one-hot rows (B, K), or the class 0 or 1 itself (B, 1); shares (B, K) as they are.

    ``smoothing`` is the fraction of a target's weight that is spread over all classes.
    """
    width = outputs.shape[1]
    if targets.ndim == 1:
        targets = targets.unsqueeze(1) if width == 1 else F.one_hot(targets, width)
    hot = targets.to(outputs.dtype)
    return hot * (1 - smoothing) + smoothing / max(width, 2) if smoothing else hot


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return the cross entropy of the softmax over K classes; with one output, of the sigmoid (logistic loss)."""
    if outputs.shape[1] == 1:
        return one_vs_rest(outputs, targets, smoothing, reduction)
    return F.cross_entropy(outputs, targets, label_smoothing=smoothing, reduction=reduction)


def one_vs_rest(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return the sum over the outputs of the logistic loss of each class against the rest."""
    desired = encode_targets(outputs, targets, smoothing)
    loss = F.binary_cross_entropy_with_logits(outputs, desired, reduction=reduction)
    if reduction == "none":
        return loss.sum(dim=1)
    return loss * outputs.shape[1] if outputs.shape[1] > 1 else loss


def quadratic(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return ½ Σ (σ(z) − y)² over the outputs z, with one-hot y (the course's first cost; Nielsen, 2015)."""
    losses = (outputs.sigmoid() - encode_targets(outputs, targets, smoothing)).square().sum(dim=1)
    return (losses.mean() if reduction == "mean" else losses) / 2


def perceptron(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return Σ (ŷ − y)·z, where ŷ is 1 if z > 0, else 0; it is zero for correct outputs.

    Its gradient with respect to the weights is (ŷ − y)·x, so a step of plain gradient descent on one
    sample is Rosenblatt's rule, w ← w + η (y − ŷ)·x (1958).
    """
    losses = (((outputs > 0).to(outputs.dtype) - encode_targets(outputs, targets, smoothing)) * outputs).sum(dim=1)
    return losses.mean() if reduction == "mean" else losses


def squared_error(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return the squared error of one output."""
    return F.mse_loss(outputs.squeeze(1), targets.to(outputs.dtype), reduction=reduction)


LOSSES: dict[str, Loss] = {
    loss.__name__: loss for loss in (cross_entropy, one_vs_rest, quadratic, perceptron, squared_error)
}
LOSSES_BY_TASK: dict[str, tuple[str, ...]] = {  # the first one of each task is its default
    "multiclass": ("cross_entropy", "one_vs_rest", "quadratic", "perceptron"),
    "binary": ("cross_entropy", "quadratic", "perceptron"),
    "regression": ("squared_error",),
}
SMOOTHABLE = ("cross_entropy", "one_vs_rest", "quadratic")


def compute_gradient(name: str, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return the derivative of each sample's loss with respect to its outputs, in closed form: (B, K)."""
    if name == "squared_error":
        return 2 * (outputs - targets.unsqueeze(1).to(outputs.dtype))
    desired = encode_targets(outputs, targets, smoothing)
    if name == "perceptron":
        return (outputs > 0).to(outputs.dtype) - desired
    if name == "cross_entropy" and outputs.shape[1] > 1:
        return outputs.softmax(dim=1).sub_(desired)
    sigmoid = outputs.sigmoid()
    return (sigmoid - desired) * sigmoid * (1 - sigmoid) if name == "quadratic" else sigmoid.sub_(desired)


def compute_penalty(weights: list[Tensor], l1: float, l2: float) -> Tensor:
    """Return l1·Σ|w| + l2·Σw² over all the weights."""
    flat = torch.cat([weight.flatten() for weight in weights])
    return l1 * flat.abs().sum() + l2 * flat.square().sum()
