"""A small U-Net: a class for each pixel, from what lies around it at several scales."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import InputError
from src.models.images import ImageModule


def _make_block(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Return two 3×3 convolutions with batch norm and ReLU: (B, in, H, W) → (B, out, H, W)."""
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels):
        convolution = nn.Conv2d(width, out_channels, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Dropout2d(dropout)] if dropout else []))


class UNetNet(nn.Module):
    """A path down to small maps with much context, and one up that adds the details: (B, C, H, W) → (B, K, H, W).

    As of Ronneberger et al. (2015), arXiv:1505.04597, but with padding, so that no border is lost, and batch norm.

    Args:
        in_shape: (C, H, W).
        out_features: the number of classes K.
        widths: channels at each scale, the finest first; each scale has half the height and width of the one before.
        dropout: probability of dropping a channel of the coarsest scale in training, in [0, 1).
    """

    def __init__(self, in_shape: Sequence[int], out_features: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        channels, height, width = in_shape
        shrink = 2 ** (len(widths) - 1)
        if height % shrink or width % shrink:
            raise InputError(
                f"model.widths has {len(widths)} scales, each half of the one before: {height}×{width} pixels are no "
                f"multiple of {shrink}; choose another size of images, such as {-(-height // shrink) * shrink}"
            )
        sizes = list(itertools.pairwise([channels, *widths]))
        drops = [0.0] * (len(widths) - 1) + [dropout]
        self.down = nn.ModuleList(_make_block(a, b, drop) for (a, b), drop in zip(sizes, drops, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(sizes[1:]))
        self.merge = nn.ModuleList(_make_block(2 * a, a, 0) for a, _ in reversed(sizes[1:]))
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Conv2d(widths[0], out_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for scale, block in enumerate(self.down):
            x = block(self.pool(x) if scale else x)
            kept.append(x)
        for up, merge, skipped in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
            x = merge(torch.cat([skipped, up(x)], dim=1))
        return self.output(x)  # (B, K, H, W)


class UNet(ImageModule):
    """A U-Net, for images with a mask each.

    Args:
        widths, dropout: see `UNetNet`.
        settings: those of `ImageModule`.
    """

    suited_tasks = ("dense",)

    def __init__(self, widths: list[int], dropout: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.net = UNetNet(self.in_shape, self.out_features, widths, dropout)
