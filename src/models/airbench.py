"""The CIFAR-10 network of Keller Jordan's airbench (2024, arXiv:2404.00498), made to be trained fast.

Its first layer needs no training: it decorrelates 2×2 patches of the training images. A pooling right after the first
convolution of a block leaves a quarter of the work to the second. Convolutions initially pass their inputs through.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from src.core.errors import InputError
from src.models.base import Settings
from src.models.images import ImageModule
from src.models.layers import Whitening, init_weights

PATCH_SIZE = 2  # side in pixels of the patches that the first layer decorrelates


def _make_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """Return a batch norm whose scale stays at 1; only its bias is trained."""
    norm = nn.BatchNorm2d(channels, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm


def _make_block(in_channels: int, out_channels: int, momentum: float) -> nn.Sequential:
    """Return a block of two 3×3 convolutions with batch norm and GELU: (B, in, H, W) → (B, out, H/2, W/2)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        _make_norm(out_channels, momentum),
        nn.GELU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        _make_norm(out_channels, momentum),
        nn.GELU(),
    )


class AirbenchNet(nn.Module):
    """Whitening, blocks, the largest value of each channel and a linear layer; (B, C, H, W) → (B, out_features).

    The arguments are those of `Airbench`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        widths: Sequence[int],
        scaling_factor: float,
        batch_norm_momentum: float,
    ) -> None:
        super().__init__()
        in_channels, height, width = in_shape
        side = min(height, width) - PATCH_SIZE + 1
        if side < 2 ** len(widths):
            raise InputError(
                f"model.widths has {len(widths)} blocks, each halving the image: {height}×{width} pixels allow at most "
                f"{max(side, 0).bit_length() - (side > 0)}"
            )
        whitening = Whitening(in_channels, PATCH_SIZE)
        sizes = [whitening.out_channels, *widths]
        blocks = [_make_block(a, b, batch_norm_momentum) for a, b in itertools.pairwise(sizes)]
        self.features = nn.Sequential(whitening, nn.GELU(), *blocks, nn.AdaptiveMaxPool2d(1))
        self.classifier = nn.Sequential(nn.Linear(sizes[-1], out_features, bias=False))
        self.scaling_factor = scaling_factor

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)  # (B, C, H, W) → (B, widths[-1])
        return self.classifier(x) * self.scaling_factor  # (B, out_features)


class Airbench(ImageModule):
    """The airbench network, for image sets.

    Args:
        widths: channels of each block.
        scaling_factor: factor by which the outputs are multiplied, > 0.
        batch_norm_momentum: weight of each new batch in the means and variances that evaluation uses, in (0, 1].
        bias_lr_factor: learning rate of the batch norms' biases as a multiple of the others', > 0; their weight decay
            is divided by it (Page, 2019).
        settings: those of `ImageModule`.

    Raises:
        InputError: if the images are too small for the blocks.
    """

    net: AirbenchNet

    def __init__(
        self,
        widths: list[int],
        scaling_factor: float,
        batch_norm_momentum: float,
        bias_lr_factor: float,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.bias_lr_factor = bias_lr_factor
        self.net = AirbenchNet(self.in_shape, self.out_features, widths, scaling_factor, batch_norm_momentum)
        init_weights(self.net, "dirac", std=0.0)

    def get_parameter_groups(self, lr: float) -> list[Settings]:
        assert self.optimizer_settings is not None
        norms = [module for module in self.net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        biases = [norm.bias for norm in norms]
        known, decay = set(biases), self.optimizer_settings.get("weight_decay", 0.0) / self.bias_lr_factor
        return [
            {"params": [weight for weight in self.parameters() if weight not in known], "lr": lr},
            {"params": biases, "lr": lr * self.bias_lr_factor, "weight_decay": decay},
        ]
