"""A small convolutional network: blocks of convolution, activation and pooling, then fully connected layers."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.models.base import Settings
from src.models.images import ImageModule
from src.models.layers import ACTIVATIONS, BatchNorm, build_mlp, build_norm_act, has_bias, init_weights
from src.models.whitening import FIT_IMAGES, Whitening


def _make_block(
    in_channels: int, out_channels: int, activation: str, batch_norm: BatchNorm, convolutions: int, pool: str
) -> nn.Sequential:
    """Return a block of 3×3 convolutions, each with batch norm and activation, and one 2×2 max pooling.

    (B, in, H, W) → (B, out, H/2, W/2). The pooling comes "last", or "first": right after the first convolution.
    """
    layers: list[nn.Module] = []
    for inputs in [in_channels, *[out_channels] * (convolutions - 1)]:
        convolution = nn.Conv2d(inputs, out_channels, 3, padding=1, bias=has_bias(batch_norm))
        layers += build_norm_act(convolution, nn.BatchNorm2d(out_channels), ACTIVATIONS[activation](), batch_norm)
    layers.insert(1 if pool == "first" else len(layers), nn.MaxPool2d(2))
    return nn.Sequential(*layers)


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
        convolutions: int,
        pool: str,
        whiten: int,
        global_pool: bool,
        output_bias: bool,
        output_scale: float,
    ) -> None:
        super().__init__()
        in_channels, height, width = in_shape
        stem: list[nn.Module] = []
        if whiten > min(height, width):
            raise InputError(
                f"model.whiten={whiten}: patches of that side do not fit images of {height}×{width} pixels"
            )
        if whiten:
            whitening = Whitening(in_channels, whiten)
            stem = [whitening, ACTIVATIONS[activation]()]
            in_channels, height, width = whitening.out_channels, height - whiten + 1, width - whiten + 1
        shrink = 2 ** len(channels)
        if min(height, width) < shrink:
            origin = f" that model.whiten={whiten} leaves" if whiten else ""
            raise InputError(
                f"model.channels has {len(channels)} blocks, each halving the image: "
                f"{height}×{width} pixels{origin} allow at most {min(height, width).bit_length() - 1}"
            )
        sizes = [in_channels, *channels]
        blocks = [_make_block(a, b, activation, batch_norm, convolutions, pool) for a, b in itertools.pairwise(sizes)]
        head = [nn.AdaptiveMaxPool2d(1)] if global_pool else []
        self.features = nn.Sequential(*stem, *blocks, *head)
        flat = sizes[-1] if global_pool else sizes[-1] * (height // shrink) * (width // shrink)
        self.classifier = build_mlp(flat, hidden_size, out_features, activation, dropout, batch_norm, output_bias)
        self.output_scale = output_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (B, C, H, W) → (B, channels[-1], H/2ⁿ, W/2ⁿ), or 1×1 pixels
        x = self.classifier(x.flatten(1))  # (B, out_features)
        return x if self.output_scale == 1 else x * self.output_scale


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
        convolutions: convolutions per block, ≥ 1.
        pool: the pooling comes "last" in a block, or "first": right after its first convolution, so that the
            rest of the block has a quarter of the work.
        whiten: side in pixels of the patches that a fixed first layer decorrelates, see `Whitening`; 0: no such layer.
        global_pool: keep only the largest value of each channel after the blocks.
        output_bias: give the output layer a bias.
        output_scale: factor by which the outputs are multiplied, > 0.
        norm_scale: train the scales of the batch norms; if false, they stay at 1.
        norm_momentum: weight of each new batch in the means and variances that evaluation uses, in (0, 1].
        norm_bias_lr: learning rate of the batch norms' biases as a multiple of the others', > 0; their
            weight decay is divided by it (Page, 2019).
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
        convolutions: int = 1,
        pool: str = "last",
        whiten: int = 0,
        global_pool: bool = False,
        output_bias: bool = True,
        output_scale: float = 1.0,
        norm_scale: bool = True,
        norm_momentum: float = 0.1,
        norm_bias_lr: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.norm_bias_lr = norm_bias_lr
        self.net = CNNNet(
            self.in_shape,
            self.out_features,
            channels,
            hidden_size,
            activation,
            dropout,
            batch_norm,
            convolutions,
            pool,
            whiten,
            global_pool,
            output_bias,
            output_scale,
        )
        init_weights(self.net, init, init_std)
        for norm in self.get_batch_norms():
            norm.weight.requires_grad_(norm_scale)
            norm.momentum = norm_momentum

    def get_batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.net.modules() if isinstance(module, _BatchNorm)]  # SyncBatchNorm too

    def setup(self, stage: str) -> None:
        """Fit the whitening layer to the training images, if there is one that is not fitted yet."""
        # `setup` runs before DDP broadcasts the weights and before a checkpoint is restored.
        whitening = self.net.features[0]
        if stage != "fit" or not isinstance(whitening, Whitening) or whitening.fitted:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TensorDataModule) or data.train_set is None:
            raise InputError("model.whiten needs the training images of a TensorDataModule")
        whitening.fit(data.transform(data.train_set.inputs[:FIT_IMAGES]))

    def get_parameter_groups(self, lr: float) -> list[Settings]:
        if self.norm_bias_lr == 1:
            return super().get_parameter_groups(lr)
        assert self.optimizer_settings is not None
        shifts = [norm.bias for norm in self.get_batch_norms()]
        known = set(shifts)
        decay = self.optimizer_settings.get("weight_decay", 0.0) / self.norm_bias_lr
        return [
            {"params": [weight for weight in self.parameters() if weight not in known], "lr": lr},
            {"params": shifts, "lr": lr * self.norm_bias_lr, "weight_decay": decay},
        ]
