"""The multi-layer perceptron: fully connected layers on anything with a shape."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from src.models.base import SupervisedModule
from src.models.layers import classifier


class MLPNet(nn.Module):
    """Flattens its input and sends it through fully connected layers; (B, *in_shape) → (B, out_features)."""

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        hidden_size: int | Sequence[int],
        activation: str,
        dropout: float,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.layers = classifier(math.prod(in_shape), hidden_size, out_features, activation, dropout, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (B, *in_shape) → (B, D)
        return self.layers(x)  # (B, out_features)


class MLP(SupervisedModule):
    """A multi-layer perceptron, for any data set.

    Args:
        hidden_size: width of the one hidden layer, or a list of widths; ``[]`` is none, which makes
            it a logistic (or linear) regression.
        activation: a name in `src.models.layers.ACTIVATIONS`.
        dropout: probability of dropping a hidden unit's output in training, in [0, 1).
        batch_norm: normalise each hidden layer before its activation (Ioffe & Szegedy, 2015).
        settings: those of `SupervisedModule`.
    """

    def __init__(
        self, hidden_size: int | list[int], activation: str, dropout: float, batch_norm: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = MLPNet(self.in_shape, self.out_features, hidden_size, activation, dropout, batch_norm)
