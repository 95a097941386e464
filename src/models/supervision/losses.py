"""Losses of a batch from outputs (B, K) and targets (B,): the mean over the samples, or for "none" all of them, (B,).

Several labels or values of a sample are targets (B, K). A class for each pixel is targets (B, H, W) and outputs
(B, K, H, W).
Targets may also be shares of the classes (B, K), of mixed images, for the losses in `SMOOTHABLE`.

Outputs come from the last linear layer, without an activation: a loss that is defined on sigmoid or softmax outputs
applies that function itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from src.core.errors import InputError
from src.data.own.labels import IGNORED

Loss = Callable[..., Tensor]


def encode_targets(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the desired outputs: one-hot rows (B, K), the class 0 or 1 itself (B, 1), or labels (B, K) as they are.

    So are shares of classes (B, K), which are floats.

    ``smoothing`` is the fraction of a target's weight that is spread over all classes.
    """
    width = outputs.shape[1]
    if targets.ndim == 1 and width > 1:
        hot, classes = F.one_hot(targets, width).to(outputs.dtype), width
    else:  # each output separates two classes, unless they are shares
        hot = _match_shape(targets, outputs).to(outputs.dtype)
        classes = width if targets.is_floating_point() and width > 1 else 2
    return hot * (1 - smoothing) + smoothing / classes if smoothing else hot


def _match_shape(targets: Tensor, outputs: Tensor) -> Tensor:
    """Return targets (B,) or (B, K) in the shape of outputs (B, 1) or (B, K).

    Raises:
        InputError: if there is not one target for each output, which torch would repeat where it can.
    """
    if targets.numel() != outputs.numel() or len(targets) != len(outputs):
        raise InputError(f"the network's outputs {tuple(outputs.shape)} do not fit the targets {tuple(targets.shape)}")
    return targets.view_as(outputs)


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return the cross entropy of the softmax over K classes; with one output, of the sigmoid (logistic loss)."""
    if outputs.shape[1] == 1:
        return one_vs_rest(outputs, targets, smoothing, reduction)
    ignored = IGNORED if outputs.ndim > 2 else -100  # of pixels; of other classes none
    return F.cross_entropy(outputs, targets, ignore_index=ignored, label_smoothing=smoothing, reduction=reduction)


def one_vs_rest(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return the sum over the outputs of the logistic loss of each class against the rest."""
    desired = encode_targets(outputs, targets, smoothing)
    loss = F.binary_cross_entropy_with_logits(outputs, desired, reduction=reduction)
    if reduction == "none":
        return loss.sum(dim=1)
    return loss * outputs.shape[1] if outputs.shape[1] > 1 else loss


def binary_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Return the mean over the outputs of the logistic loss of each label."""
    desired = encode_targets(outputs, targets, smoothing)
    loss = F.binary_cross_entropy_with_logits(outputs, desired, reduction=reduction)
    return loss.mean(dim=1) if reduction == "none" else loss


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
    """Return the squared error, the mean over the outputs."""
    loss = F.mse_loss(outputs, _match_shape(targets, outputs).to(outputs.dtype), reduction=reduction)
    return loss.mean(dim=1) if reduction == "none" else loss


LOSSES: dict[str, Loss] = {
    loss.__name__: loss
    for loss in (cross_entropy, one_vs_rest, quadratic, perceptron, squared_error, binary_cross_entropy)
}
SMOOTHABLE = ("cross_entropy", "one_vs_rest", "binary_cross_entropy", "quadratic")


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
