"""The multi-layer perceptron: fully connected layers, for inputs of any shape."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from src.models.base import SupervisedModule
from src.models.layers import BatchNorm, PairwiseProducts, build_mlp, init_weights


class MLPNet(nn.Module):
    """Fully connected layers on flattened inputs; (B, *in_shape) → (B, out_features)."""

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        hidden_size: int | Sequence[int],
        activation: str,
        dropout: float,
        batch_norm: BatchNorm,
        output_bias: bool = True,
        products: bool = False,
    ) -> None:
        super().__init__()
        width = math.prod(in_shape)
        self.products = PairwiseProducts(width) if products else None
        width = self.products.out_features if self.products else width
        self.layers = build_mlp(width, hidden_size, out_features, activation, dropout, batch_norm, output_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (B, *in_shape) → (B, D)
        if self.products is not None:
            x = self.products(x)  # (B, D + D(D−1)/2)
        return self.layers(x)  # (B, out_features)


class MLP(SupervisedModule):
    """A multi-layer perceptron, for any data set.

    Args:
        hidden_size: width of the one hidden layer, or a list of widths; ``[]`` is none, which gives
            a logistic (or linear) regression, or with ``loss="perceptron"`` Rosenblatt's perceptron.
        activation: a name in `src.models.layers.ACTIVATIONS`.
        dropout: probability of dropping a hidden unit's output in training, in [0, 1).
        batch_norm: normalise each hidden layer (Ioffe & Szegedy, 2015): "before" or "after" its
            activation; ``True`` is before.
        output_bias: give the output layer a bias.
        products: add all products of two inputs to the inputs (a fixed feature map).
        init: how the weights are initialised, see `src.models.layers.init_weights`.
        init_std: standard deviation of ``init="normal"``, > 0.
        settings: those of `SupervisedModule`.
    """

    def __init__(
        self,
        hidden_size: int | list[int],
        activation: str,
        dropout: float,
        batch_norm: BatchNorm,
        output_bias: bool = True,
        products: bool = False,
        init: str = "default",
        init_std: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = MLPNet(
            self.in_shape, self.out_features, hidden_size, activation, dropout, batch_norm, output_bias, products
        )
        init_weights(self.net, init, init_std)
