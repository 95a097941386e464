"""Masks of images: files whose pixel values are the numbers of classes, decoded as their images are."""

import io
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from src.core.checks import format_value
from src.core.errors import InputError
from src.data.own.decoding import FORMATS, open_image
from src.data.own.image_cache import MAX_FILE_BYTES, ImageCache
from src.data.own.labels import IGNORED
from src.data.own.listing import ImageFile, Problems, describe_problems
from src.storage.files import read_bytes

LOSSLESS = sorted(set(FORMATS) - {"JPEG", "WEBP"})  # the others change pixels, and so classes


class MaskCache(ImageCache):
    """The decoded masks of some images, uint8 (N, 1, size, size).

    Args:
        root: the folder with the files.
        files: the images, each with its mask.
        size: height and width of the decoded masks.
        folder: where they are kept.
    """

    kind = "masks-"

    def __init__(self, root: Path, files: Sequence[ImageFile], size: int, folder: Path) -> None:
        self.images = [file.name for file in files]
        super().__init__(root, [file.mask for file in files], size, 1, folder)

    def decode(self, index: int, content: bytes) -> NDArray[np.uint8]:
        image = read_bytes(self.root / self.images[index], MAX_FILE_BYTES)
        return decode_mask(content, self.shape[1], _read_size(image))


def _read_size(content: bytes) -> tuple[int, int] | None:
    """Return the width and height of an image, turned as its EXIF data say; ``None`` if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except Exception:  # a damaged file may raise anything; reported as for an image
        return None


def decode_mask(content: bytes, size: int, image_size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return a mask as bytes (1, size, size): its pixel values or palette numbers, scaled and cropped as images are.

    Args:
        content: the file's content.
        size: height and width in pixels.
        image_size: width and height of its image; ``None``: unknown.

    Raises:
        ValueError: naming the reason why it is no mask that can be used.
    """
    with open_image(content, "masks") as image:
        if image.format not in LOSSLESS:
            raise ValueError("masks must be PNG or another format that keeps each pixel")
        turned = ImageOps.exif_transpose(image)
        if image_size is not None and turned.size != image_size:
            raise ValueError("masks have another size than their images")
        values = np.asarray(turned)
        if values.ndim != 2 or values.dtype.kind not in "bui" or values.min() < 0 or values.max() > 255:
            raise ValueError("masks must have one number from 0 to 255 for each pixel: grey, or a palette")
        square = ImageOps.fit(Image.fromarray(values.astype(np.uint8)), (size, size), Image.Resampling.NEAREST)
        return np.asarray(square)[None]


class Masks(NamedTuple):
    """The masks of some images.

    Attributes:
        files: the images whose masks are usable; the label of each is a hash of its mask.
        pixels: the masks in their order, uint8 (N, size, size): classes from 0, or `IGNORED`.
        names: the classes.
        is_white: the files are black and white, and white (255) is class 1.
    """

    files: list[ImageFile]
    pixels: Tensor
    names: tuple[str, ...]
    is_white: bool


def load_masks(cache: MaskCache, files: Sequence[ImageFile], names: Sequence[str] | None, problems: Problems) -> Masks:
    """Return the masks of images.

    Args:
        cache: the masks.
        files: the images, in the cache's order.
        names: the classes; ``None``: as many numbers as the masks have.
        problems: receives the names of masks that are left out, by the reason.

    Raises:
        InputError: if there are fewer than two classes, or a pixel has a number that is none of them.
    """
    decoded = cache.load(stream=False)
    for reason, indices in decoded.failures.items():
        problems.setdefault(reason, []).extend(files[index].mask for index in indices)
    known = [file._replace(label=digest) for file, digest in zip(files, decoded.digests, strict=True) if digest]
    if not known:
        raise InputError(f"data.masks: no mask can be used: {'; '.join(describe_problems(problems))}")
    pixels = decoded.images[:, 0]
    counts = torch.stack([mask.flatten().bincount(minlength=256) for mask in pixels])  # (N, 256)
    if is_white := counts.sum(dim=0).nonzero().flatten().tolist() == [0, IGNORED]:
        return Masks(known, pixels.clamp(max=1), _name_classes(2, names), is_white)
    has_class = counts[:, :IGNORED].any(dim=1)
    without = [file.mask for file, each in zip(known, has_class.tolist(), strict=True) if not each]
    if without:
        problems.setdefault("masks have no class in any pixel", []).extend(without)
    files = list(compress(known, has_class.tolist()))
    used = counts[:, :IGNORED].any(dim=0).nonzero().flatten().tolist() or [0]
    return Masks(files, pixels[has_class], _name_classes(used[-1] + 1, names), is_white)


def _name_classes(used: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes of masks whose pixels have numbers below ``used``."""
    given = f"data.classes={format_value(names)}: "
    if names is not None and used > len(names):
        raise InputError(
            f"{given}the masks have the class {used - 1}, and this names 0 to {len(names) - 1} ({IGNORED} is no class)"
        )
    if len(names or range(used)) < 2:
        raise InputError(f"{given if names else 'data.masks: '}there is one class, and it takes two to tell apart")
    return tuple(map(str, names or range(used)))
