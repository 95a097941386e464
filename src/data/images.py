"""Image sets that torchvision downloads and verifies, kept as one uint8 tensor.

A set of its own (mnist.py, cifar10.py …) says which torchvision class it is, which files that
class reads, and how a damaged one is found.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.data.augment import cutout, random_crop, random_flip
from src.data.base import Samples, TensorDataModule
from src.data.download import download_once
from src.errors import InputError


class ImageDataModule(TensorDataModule):
    """Images as uint8 (N, C, H, W) and classes (N,); normalised and augmented on the device.

    Pixels are standardised per channel with the mean and standard deviation of the training
    split alone, or else divided by 255.

    Args:
        root: the folder that holds all data sets, laid out as torchvision does.
        flip: mirror training images left to right, each with probability one half.
        crop: shift training images by up to so many pixels, ≥ 0.
        crop_padding: what a shift brings in: "zeros", which is black, or "reflect", what lies inside, mirrored.
        cutout: black out a square of so many pixels in training images, ≥ 0.
        standardize: subtract each channel's mean and divide by its standard deviation; if not, pixels
            lie in [0, 1].
        settings: those of `TensorDataModule`.
    """

    task = "multiclass"
    folder: str  # below the root: where torchvision keeps the files

    def __init__(
        self,
        root: str,
        flip: bool = False,
        crop: int = 0,
        crop_padding: str = "zeros",
        cutout: int = 0,
        standardize: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root = Path(root)
        self.flip, self.crop, self.cutout, self.standardize = flip, crop, cutout, standardize
        self.crop_padding = crop_padding
        if crop_padding == "reflect" and crop >= min(self.in_shape[1:]):
            height, width = self.in_shape[1:]
            raise InputError(f"data.crop={crop}: images of {height}×{width} pixels cannot be mirrored so far")
        self.mean = self.std = torch.empty(0)

    def files(self) -> list[str]:
        """The names of the files below ``root/folder`` that torchvision reads."""
        raise AttributeError(f"{type(self).__name__} must define files()")

    def read(self, train: bool, download: bool = False) -> Samples:
        """Read the training or the test samples through torchvision."""
        raise AttributeError(f"{type(self).__name__} must define read()")

    def damaged(self) -> str | None:
        """Name the first file that is not whole and what is wrong with it; ``None`` if all are."""
        raise AttributeError(f"{type(self).__name__} must define damaged()")

    def missing(self) -> list[str]:
        return [name for name in self.files() if not (self.root / self.folder / name).is_file()]

    def prepare_data(self) -> None:
        """Download what is missing; of several processes that start at once, one does it."""
        download_once(self.root, self.folder.split("/")[0], self.missing, self.download)

    def download(self) -> None:
        try:
            self.read(train=True, download=True)
            self.read(train=False, download=True)
        except PermissionError:
            raise
        except (RuntimeError, OSError, EOFError) as error:
            reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
            raise InputError(
                f"{type(self).__name__} is not in {self.root} and cannot be downloaded ({reason}): put "
                f"{', '.join(self.missing()) or 'its files'} into {self.root / self.folder}, or set "
                "paths.data=FOLDER (or DATA_DIR) to where they are"
            ) from error

    def load(self) -> tuple[Samples, Samples]:
        if missing := self.missing():
            raise InputError(f"{self.root / self.folder} lacks {', '.join(missing)}")
        try:
            train, test = self.read(train=True), self.read(train=False)
        except Exception as error:
            raise InputError(self.complaint(str(error) or type(error).__name__)) from error
        for samples in (train, test):
            if len(samples.inputs) != samples.size or int(samples.targets.max()) >= self.num_classes:
                raise InputError(self.complaint("labels do not fit the images"))
        return train, test

    def complaint(self, reason: str) -> str:
        """One line on files that cannot be read, with the damaged one's name where it can be told."""
        what = self.damaged() or f"{self.root / self.folder}: {reason.splitlines()[0]}"
        return f"{what}; delete it and start again to download it anew"

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            super().setup(stage)
            assert self.train_set is not None
            if self.standardize:
                self.mean, self.std = channel_statistics(self.train_set.inputs)
            else:
                self.mean, self.std = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 255.0)

    @property
    def augments(self) -> bool:
        """Whether training images are changed at random."""
        return bool(self.flip or self.crop or self.cutout)

    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Augment and standardise uint8 images (B, C, H, W); gives float32 of the same shape."""
        if augment and self.flip:
            inputs = random_flip(inputs)
        if augment and self.crop:
            inputs = random_crop(inputs, self.crop, self.crop_padding)
        if augment and self.cutout:
            inputs = cutout(inputs, self.cutout)
        if self.mean.device != inputs.device:
            self.mean, self.std = self.mean.to(inputs.device), self.std.to(inputs.device)
        return inputs.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), as (C, 1, 1) float32.

    From the histogram of byte values: exact, and two (colour) to ten times (grey) faster than a pass in floats.
    """
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    weights = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    mean = weights @ values
    variance = weights @ values.square() - mean.square()
    std = variance.clamp(min=1e-12).sqrt()
    return mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)
