"""Image data sets, stored as one uint8 tensor: what all share, and those that torchvision downloads and we verify.

Each of the latter (mnist.py, cifar10.py …) names the torchvision class that downloads it and the digests of its files,
and decodes them. SHA-256 of all files takes 0.05 s for MNIST and 0.15 s for CIFAR-10, so the result is not cached.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.augment import DEFAULT_NUMBERS, RandomNumbers, crop_images, cut_out_squares, flip_images, make_mixer
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.own.labels import IGNORED
from src.data.own.streaming import StreamedImages
from src.data.preprocessing import IMAGE, Preprocessing, flatten_numbers
from src.data.published.download import download_once
from src.data.published.files import is_present, read_file

T = TypeVar("T")


class ImageDataModule(TensorDataModule):
    """Images as uint8 (N, C, H, W) and classes (N,); normalised and augmented on the device.

    Pixels are standardised per channel with the mean and standard deviation of the training
    split only, or else divided by 255.

    Args:
        flip: mirror training images left to right, each with probability one half.
        crop: the largest shift of training images in pixels, ≥ 0.
        crop_padding: the pixels that a shift brings in: "zeros" (black), or "reflect" (the image mirrored).
        cutout: side in pixels of a square to black out in training images; 0: none.
        mixup, cutmix: parameters of the mixing of training images within a batch, see `make_mixer`; 0: none.
        standardize: subtract each channel's mean and divide by its standard deviation; if false, pixels
            are scaled to [0, 1].
        settings: those of `TensorDataModule`.
    """

    task = "multiclass"

    def __init__(
        self,
        flip: bool = False,
        crop: int = 0,
        crop_padding: str = "zeros",
        cutout: int = 0,
        standardize: bool = True,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.flip, self.crop, self.cutout, self.standardize = flip, crop, cutout, standardize
        self.crop_padding, self.mixup, self.cutmix = crop_padding, mixup, cutmix
        self.mixer: Callable[..., Any] | None = None  # made for the first batch
        if crop_padding == "reflect" and crop >= min(self.in_shape[1:]):
            height, width = self.in_shape[1:]
            raise InputError(f"data.crop={crop}: images of {height}×{width} pixels cannot be mirrored so far")
        if self.task == "dense" and cutout:
            raise InputError(f"data.cutout={cutout} hides pixels whose classes masks still have: leave it out")
        self.mean = self.std = torch.empty(0)

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            super().setup(stage)
            assert self.train_set is not None
            if self.standardize:
                self.mean, self.std = compute_channel_statistics(self.train_set.inputs)
            else:
                self.mean, self.std = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 255.0)

    @property
    def has_augmentation(self) -> bool:
        """Return True if training images are augmented."""
        return bool(self.flip or self.crop or self.cutout)

    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Return uint8 images (B, C, H, W) standardised to float32, after augmentation if asked for."""
        return self.standardize_images(self.augment_images(inputs) if augment else inputs)

    def transform_batch(self, samples: Samples, augment: bool = False) -> Samples:
        """Return a batch of images as `transform` does; masks are flipped and shifted with them."""
        if self.task != "dense":
            return super().transform_batch(samples, augment)
        images, masks = samples
        if augment and self.has_augmentation:
            # As one more channel of its image. A shift brings in 0, which is no class of an inverted mask.
            both = self.augment_images(torch.cat([images, IGNORED - masks[:, None].to(torch.uint8)], dim=1))
            images, masks = both[:, :-1], IGNORED - both[:, -1]
        return Samples(self.transform(images), masks.long())

    @property
    def is_mixing(self) -> bool:  # type: ignore[override]
        """Return True if training images are mixed, with shares of classes as targets."""
        return bool(self.mixup or self.cutmix)

    def mix(self, samples: Samples) -> Samples:
        """Return a batch in which each image is mixed with the one before it; targets (B,) become shares (B, K)."""
        if not self.is_mixing:
            return samples
        self.mixer = self.mixer or make_mixer(self.mixup, self.cutmix, self.num_classes)
        return Samples(*self.mixer(*samples))

    def describe_preprocessing(self) -> Preprocessing | None:
        """Return how an image becomes a network's input; ``None`` if a subclass transforms it in its own way."""
        if type(self).transform is not ImageDataModule.transform:
            return None
        return Preprocessing(IMAGE, flatten_numbers(self.mean), flatten_numbers(self.std))

    def augment_images(self, images: Tensor, random_numbers: RandomNumbers = DEFAULT_NUMBERS) -> Tensor:
        """Augment uint8 images (B, C, H, W) as the settings ask for."""
        if self.flip:
            images = flip_images(images, random_numbers)
        if self.crop:
            images = crop_images(images, self.crop, self.crop_padding, random_numbers)
        return cut_out_squares(images, self.cutout, random_numbers) if self.cutout else images

    def standardize_images(self, images: Tensor) -> Tensor:
        """Standardise uint8 images (B, C, H, W) to float32 ones."""
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return images.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)


class PublishedImages(ImageDataModule):
    """Images that torchvision downloads.

    A subclass declares ``folder`` (where torchvision stores the files below the root), ``sha256`` (the
    digest of each file) and ``dataset`` (torchvision's class that downloads them), and implements ``read``.

    Args:
        root: the folder that holds all data sets, laid out as torchvision does.
        verify: accept the published files only; if false, custom files in the same format are read
            and nothing is downloaded.
        settings: those of `ImageDataModule`.
    """

    folder: str
    sha256: ClassVar[dict[str, str]]
    dataset: type[Any]

    def __init__(self, root: str, verify: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.root, self.verify = Path(root), verify

    def read(self, train: bool) -> Samples:
        """Read the training or the test samples, each file with `read_file`."""
        raise AttributeError(f"{type(self).__name__} must define read()")

    @property
    def note(self) -> str:
        if self.verify:
            return super().note
        name = type(self).__name__
        return f"the files in {self.root / self.folder} were not verified to be {name} (data.verify=false)"

    def find_missing_files(self) -> list[str]:
        """Return the names of the missing files."""
        return [name for name in self.sha256 if not is_present(self.root / self.folder / name)]

    def prepare_data(self) -> None:
        """Download missing files; if several processes start at once, only one downloads."""
        if self.verify:
            download_once(self.root, self.folder.split("/")[0], self.find_missing_files, self.download)

    def download(self) -> None:
        """Download the files with torchvision.

        Raises:
            InputError: if the download fails, or if an existing file is not the published one.
        """
        missing = self.find_missing_files()
        # Verify existing files first: torchvision would overwrite custom ones.
        for name in self.sha256:
            if name not in missing:
                self.read_file(name, len)
        try:
            self.dataset(str(self.root), download=True)
        except PermissionError:  # reported by download_once
            raise
        except (RuntimeError, OSError, EOFError) as error:
            reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
            raise InputError(
                f"{type(self).__name__} is not in {self.root} and cannot be downloaded ({reason}): put "
                f"{', '.join(self.find_missing_files()) or 'its files'} into {self.root / self.folder}, or set "
                "paths.data=FOLDER (or DATA_DIR) to where they are"
            ) from error

    def load(self) -> tuple[Samples, Samples]:
        if missing := self.find_missing_files():
            reason = "" if self.verify else ": with data.verify=false nothing is downloaded"
            raise InputError(f"{self.root / self.folder} lacks {', '.join(missing)}{reason}")
        return self.read(train=True), self.read(train=False)

    def read_file(self, name: str, decode: Callable[[bytes], T]) -> T:
        """Return a file's decoded content, after verifying it.

        Raises:
            InputError: if it is not the published file, or ``decode`` raises a ValueError.
        """
        path = self.root / self.folder / name
        content = read_file(path)
        digest = hashlib.sha256(content).hexdigest() if self.verify else None
        if digest and digest != self.sha256[name]:
            raise InputError(
                f"{path} is damaged or not {type(self).__name__}'s (its SHA-256 is {digest[:12]}…, not "
                f"{self.sha256[name][:12]}…); delete it and run again to download it, or set data.verify=false "
                "to use files of your own"
            )
        try:
            return decode(content)
        except ValueError as error:
            raise InputError(f"{path}: {error}; files of your own must be in {type(self).__name__}'s format") from error

    def make_samples(self, images: Tensor, labels: list[int]) -> Samples:
        """Return uint8 images (N, C, H, W) and their labels as samples.

        Raises:
            ValueError: if there are no images, not one label per image, or a label outside the classes.
        """
        if not len(images) or len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} images")
        if wrong := [label for label in labels if not 0 <= label < self.num_classes]:
            raise ValueError(f"label {wrong[0]} is none of the {self.num_classes} classes")
        return Samples(images, torch.tensor(labels, dtype=torch.int64))


def compute_channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of uint8 images (N, C, H, W), as (C, 1, 1) float32.

    They are computed from the histogram of byte values, which is exact, and two (colour) to ten times (grey) faster
    than a pass in floats.
    """
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for block in images.sort().split(images.block_size) if isinstance(images, StreamedImages) else [images]:
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in block.unbind(1)])
    weights = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    mean = weights @ values
    variance = weights @ values.square() - mean.square()
    std = variance.clamp(min=1e-12).sqrt()
    return mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)
