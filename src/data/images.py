"""Image sets that torchvision downloads, verified and kept as one uint8 tensor.

A set of its own (mnist.py, cifar10.py …) says which torchvision class downloads it, the digests of its files, and how
they are decoded. SHA-256 of all files takes 0.05 s for MNIST and 0.15 s for CIFAR-10, so nothing is remembered.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.augment import TORCH, RandomNumbers, cutout, random_crop, random_flip
from src.data.base import Samples, TensorDataModule
from src.data.download import download_once
from src.data.files import is_there, read_file

T = TypeVar("T")


class ImageDataModule(TensorDataModule):
    """Images as uint8 (N, C, H, W) and classes (N,); normalised and augmented on the device.

    Pixels are standardised per channel with the mean and standard deviation of the training
    split alone, or else divided by 255.

    A subclass declares ``folder``, where torchvision keeps the files below the root, ``sha256``, the
    digest of each file that is read, ``dataset``, torchvision's class that downloads them, and ``read``.

    Args:
        root: the folder that holds all data sets, laid out as torchvision does.
        verify: refuse files that are not the published ones; if not, files of one's own are read,
            as long as they are sound, and nothing is downloaded.
        flip: mirror training images left to right, each with probability one half.
        crop: shift training images by up to so many pixels, ≥ 0.
        crop_padding: what a shift brings in: "zeros", which is black, or "reflect", what lies inside, mirrored.
        cutout: black out a square of so many pixels in training images, ≥ 0.
        standardize: subtract each channel's mean and divide by its standard deviation; if not, pixels
            lie in [0, 1].
        settings: those of `TensorDataModule`.
    """

    task = "multiclass"
    folder: str
    sha256: ClassVar[dict[str, str]]
    dataset: type[Any]

    def __init__(
        self,
        root: str,
        verify: bool = True,
        flip: bool = False,
        crop: int = 0,
        crop_padding: str = "zeros",
        cutout: int = 0,
        standardize: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root, self.verify = Path(root), verify
        self.flip, self.crop, self.cutout, self.standardize = flip, crop, cutout, standardize
        self.crop_padding = crop_padding
        if crop_padding == "reflect" and crop >= min(self.in_shape[1:]):
            height, width = self.in_shape[1:]
            raise InputError(f"data.crop={crop}: images of {height}×{width} pixels cannot be mirrored so far")
        self.mean = self.std = torch.empty(0)

    def read(self, train: bool) -> Samples:
        """Read the training or the test samples, each file by `read_file`."""
        raise AttributeError(f"{type(self).__name__} must define read()")

    @property
    def note(self) -> str:
        if self.verify:
            return super().note
        name = type(self).__name__
        return f"the files in {self.root / self.folder} were not verified to be {name} (data.verify=false)"

    def missing(self) -> list[str]:
        """Return the names of the files that are not there."""
        return [name for name in self.sha256 if not is_there(self.root / self.folder / name)]

    def prepare_data(self) -> None:
        """Download what is missing; of several processes that start at once, one does it."""
        if self.verify:
            download_once(self.root, self.folder.split("/")[0], self.missing, self.download)

    def download(self) -> None:
        """Let torchvision download the files, unless someone's own are there, which it would overwrite."""
        missing = self.missing()
        for name in self.sha256:
            if name not in missing:
                self.read_file(name, len)
        try:
            self.dataset(str(self.root), download=True)
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
            why = "" if self.verify else ": with data.verify=false nothing is downloaded"
            raise InputError(f"{self.root / self.folder} lacks {', '.join(missing)}{why}")
        return self.read(train=True), self.read(train=False)

    def read_file(self, name: str, decode: Callable[[bytes], T]) -> T:
        """Read a file, verify it and decode it.

        Raises:
            InputError: if it is not the published file, or ``decode`` raises a ValueError.
        """
        path = self.root / self.folder / name
        content = read_file(path)
        digest = hashlib.sha256(content).hexdigest() if self.verify else None
        if digest and digest != self.sha256[name]:
            raise InputError(
                f"{path} is damaged or not {type(self).__name__}'s (its SHA-256 is {digest[:12]}…, not "
                f"{self.sha256[name][:12]}…); delete it and start again to download it anew, or set data.verify=false "
                "to use files of your own"
            )
        try:
            return decode(content)
        except ValueError as error:
            raise InputError(f"{path}: {error}; files of your own must be in {type(self).__name__}'s format") from error

    def samples(self, images: Tensor, labels: list[int]) -> Samples:
        """Return uint8 images (N, C, H, W) and their labels as samples.

        Raises:
            ValueError: if there are none, their numbers differ, or a label is none of the classes.
        """
        if not len(images) or len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
        if wrong := [label for label in labels if not 0 <= label < self.num_classes]:
            raise ValueError(f"label {wrong[0]} is none of the {self.num_classes} classes")
        return Samples(images, torch.tensor(labels, dtype=torch.int64))

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
        return self.standardized(self.augmented(inputs) if augment else inputs)

    def augmented(self, images: Tensor, numbers: RandomNumbers = TORCH) -> Tensor:
        """Change each of the uint8 images (B, C, H, W) at random, as the settings have it."""
        if self.flip:
            images = random_flip(images, numbers)
        if self.crop:
            images = random_crop(images, self.crop, self.crop_padding, numbers)
        return cutout(images, self.cutout, numbers) if self.cutout else images

    def standardized(self, images: Tensor) -> Tensor:
        """Standardise uint8 images (B, C, H, W) to float32 ones."""
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return images.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)


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
