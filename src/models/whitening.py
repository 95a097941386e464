"""A first layer that needs no training: it decorrelates the pixels of small image patches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VARIANCE_FLOOR = 5e-4  # added to the variances, so that components of nearly no variance are not amplified
CHUNK_SIZE = 100  # images whose patches are in memory at the same time


class Whitening(nn.Conv2d):
    """Convolution with the principal components of the images' patches, each divided by its standard deviation.

    (B, C, H, W) → (B, 2·C·s², H−s+1, W−s+1). Every component occurs with both signs, so that an activation
    such as ReLU loses neither half of it. The filters are fixed after fitting, the bias is trained (Jordan,
    2024, arXiv:2404.00498).

    Args:
        in_channels: C.
        size: side s of the patches in pixels, ≥ 1.
    """

    fitted: Tensor

    def __init__(self, in_channels: int, size: int) -> None:
        super().__init__(in_channels, 2 * in_channels * size**2, size)
        self.weight.requires_grad_(False)
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Fit the filters to the network's input images (N, C, H, W); each channel's mean must be about 0."""
        size = self.kernel_size[0]
        variances, components = torch.linalg.eigh(compute_covariance(images, size))
        filters = (components / (variances + VARIANCE_FLOOR).sqrt()).T.view(-1, self.in_channels, size, size)
        self.weight.copy_(torch.cat([filters, -filters]))
        self.fitted.fill_(True)


def compute_covariance(images: Tensor, size: int) -> Tensor:
    """Return the second moments of all size×size patches of images (N, C, H, W), in float64: (C·s², C·s²)."""
    width, count = images.shape[1] * size**2, 0
    total = images.new_zeros(width, width, dtype=torch.float64)
    for part in images.split(CHUNK_SIZE):
        patches = F.unfold(part, size).transpose(1, 2).flatten(0, 1).double()  # (n·L, C·s²)
        total += patches.T @ patches
        count += len(patches)
    return total / count
