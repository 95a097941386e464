"""A small convolutional network: blocks of convolution, activation and pooling, then fully connected layers."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from src.core.errors import InputError
from src.models.images import ImageModule
from src.models.layers import ACTIVATIONS, BatchNorm, build_mlp, build_norm_act, has_bias, init_weights


def _make_block(in_channels: int, out_channels: int, activation: str, batch_norm: BatchNorm) -> nn.Sequential:
    """Return a 3×3 convolution, batch norm, activation and 2×2 max pooling: (B, in, H, W) → (B, out, H/2, W/2)."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=has_bias(batch_norm))
    layers = build_norm_act(convolution, nn.BatchNorm2d(out_channels), ACTIVATIONS[activation](), batch_norm)
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class CNNNet(nn.Module):
    """Blocks of convolution and pooling, then fully connected layers; (B, C, H, W) → (B, out_features).

    The arguments are those of `CNN`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        channels: Sequence[int],
        hidden_size: int | Sequence[int],
        activation: str,
        dropout: float,
        batch_norm: BatchNorm,
    ) -> None:
        super().__init__()
        in_channels, height, width = in_shape
        shrink = 2 ** len(channels)
        if min(height, width) < shrink:
            raise InputError(
                f"model.channels has {len(channels)} blocks, each halving the image: "
                f"{height}×{width} pixels allow at most {min(height, width).bit_length() - 1}"
            )
        sizes = [in_channels, *channels]
        blocks = [_make_block(a, b, activation, batch_norm) for a, b in itertools.pairwise(sizes)]
        self.features = nn.Sequential(*blocks)
        flat = sizes[-1] * (height // shrink) * (width // shrink)
        self.classifier = build_mlp(flat, hidden_size, out_features, activation, dropout, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (B, C, H, W) → (B, channels[-1], H/2ⁿ, W/2ⁿ)
        return self.classifier(x.flatten(1))  # (B, out_features)


class CNN(ImageModule):
    """A convolutional network, for image sets.

    Args:
        channels: output channels of each block of convolution and pooling.
        hidden_size: width of the one hidden fully connected layer after the blocks, or a list of
            widths; ``[]`` is none.
        activation: a name in `src.models.layers.ACTIVATIONS`.
        dropout: probability of dropping a fully connected hidden unit's output in training, in [0, 1).
        batch_norm: normalise each hidden layer, convolutions too, "before" or "after" its activation;
            ``True`` is before.
        init: how the weights are initialised, see `src.models.layers.init_weights`.
        init_std: standard deviation of ``init="normal"``, > 0.
        settings: those of `ImageModule`.
    """

    net: CNNNet

    def __init__(
        self,
        channels: list[int],
        hidden_size: int | list[int],
        activation: str,
        dropout: float,
        batch_norm: BatchNorm,
        init: str = "default",
        init_std: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = CNNNet(self.in_shape, self.out_features, channels, hidden_size, activation, dropout, batch_norm)
        init_weights(self.net, init, init_std)
