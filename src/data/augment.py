"""Augment whole batches of images, with independent random numbers for each image.

Plain tensor operations that run on any device and directly on uint8 images. Whole rows and images are copied, which on
two CPU threads is twice as fast as indexing and masking single pixels. ``python -m tests.bench augment`` compares these
functions with torchvision's transforms and kornia's.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad


class RandomNumbers(Protocol):
    """A source of random numbers for a batch of images."""

    def draw_uniform(self, count: int, device: torch.device) -> Tensor:
        """Draw numbers in [0, 1), (count,)."""

    def draw_integers(self, high: int, rows: int, count: int, device: torch.device) -> Tensor:
        """Draw integers from 0 to ``high`` − 1, (rows, count)."""


class TorchRandomNumbers:
    """Random numbers from torch's default generator."""

    def draw_uniform(self, count: int, device: torch.device) -> Tensor:
        """Draw numbers in [0, 1), (count,)."""
        return torch.rand(count, device=device)

    def draw_integers(self, high: int, rows: int, count: int, device: torch.device) -> Tensor:
        """Draw integers from 0 to ``high`` − 1, (rows, count)."""
        return torch.randint(high, (rows, count), device=device)


DEFAULT_NUMBERS = TorchRandomNumbers()


def flip_images(images: Tensor, random_numbers: RandomNumbers = DEFAULT_NUMBERS) -> Tensor:
    """Mirror each of the images (B, C, H, W) left to right with probability one half."""
    count = len(images)
    # A flipped image lies ``count`` rows behind its original.
    flipped = random_numbers.draw_uniform(count, images.device) < 0.5
    both = torch.cat([images, images.flip(-1)])  # (2B, C, H, W)
    return both.index_select(0, torch.arange(count, device=images.device) + count * flipped)


def _pad_images(images: Tensor, padding: int, mode: str) -> Tensor:
    """Return images (B, C, H, W) with ``padding`` more pixels on each side.

    The new pixels are black for ``mode`` "zeros"; for "reflect" they mirror the image's inside.
    """
    if mode == "zeros":
        return pad(images, (padding,) * 4)
    # Mirror by index: torch's own reflection padding does not support uint8 on every device.
    for dim in (-2, -1):
        last = images.shape[dim] - 1
        at = torch.arange(-padding, last + padding + 1, device=images.device).abs()
        images = images.index_select(dim, last - (last - at).abs())
    return images


def crop_images(
    images: Tensor, padding: int, mode: str = "zeros", random_numbers: RandomNumbers = DEFAULT_NUMBERS
) -> Tensor:
    """Shift each image of (B, C, H, W) by up to ``padding`` pixels in each direction; ``mode``: see `_pad_images`."""
    count, _, height, width = images.shape
    padded = _pad_images(images, padding, mode)
    top, left = random_numbers.draw_integers(2 * padding + 1, 2, count, images.device)
    # Find where each row of the crops starts in the flat padded images, then copy ``width`` pixels from there.
    first = torch.arange(0, padded.numel(), padded.shape[-1], device=images.device)  # flat index of each row's start
    corner = top * padded.shape[-1] + left  # (B,) offset of the crop's corner
    rows = first.view(padded.shape[:3])[:, :, :height] + corner.view(-1, 1, 1)  # (B, C, H)
    return padded.flatten().unfold(0, width, 1).index_select(0, rows.flatten()).view(images.shape)


def cut_out_squares(images: Tensor, size: int, random_numbers: RandomNumbers = DEFAULT_NUMBERS) -> Tensor:
    """Black out a square of ``size`` pixels at a random position in each of the images (B, C, H, W).

    The square's centre is uniform over the image, so part of the square may lie outside it
    (DeVries & Taylor, 2017, arXiv:1708.04552).
    """
    count, _, height, width = images.shape
    rows, columns = [
        torch.arange(length, device=images.device)
        - random_numbers.draw_integers(length, 1, count, images.device).view(-1, 1)
        + size // 2
        for length in (height, width)
    ]  # (B, H) and (B, W): from 0 to size−1 inside the square
    rows, columns = [((offset < 0) | (offset >= size)).byte() for offset in (rows, columns)]
    kept = rows[:, None, :, None] | columns[:, None, None, :]  # (B, 1, H, W): 0 inside the square, 1 outside
    return images * kept


def make_mixer(mixup: float, cutmix: float, num_classes: int) -> Callable[..., Any]:
    """Return torchvision's transform that mixes each image of a batch with the one before it.

    With both kinds, each batch gets one of them at random. Random numbers are those of torch's default generator on the
    CPU, also for images on a GPU.

    Args:
        mixup, cutmix: parameter of the Beta(α, α) distribution of an image's share, ≥ 0, of mixup (Zhang et al., 2018,
            arXiv:1710.09412) and of CutMix (Yun et al., 2019, arXiv:1905.04899); 0: not this kind.
        num_classes: the number of classes K.

    Returns:
        A function of float images (B, C, H, W) and classes (B,) that returns images and shares of classes (B, K).
    """
    from torchvision.transforms import v2  # importing it takes a moment

    kinds = {v2.MixUp: mixup, v2.CutMix: cutmix}
    mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds.items() if alpha]
    return v2.RandomChoice(mixers) if len(mixers) > 1 else mixers[0]
