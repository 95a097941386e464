"""Decode pictures of any size and mode to the pixels that a network was trained on."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from src.core.errors import InputError
from src.storage.files import open_regular_file

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow has more, and some of them start programs
MAX_PIXELS = 100_000_000  # of a picture; a small file can claim any number
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # larger ones are refused below


def read_image(path: Path, in_shape: Sequence[int]) -> Tensor:
    """Read a picture as uint8 (C, H, W), in the shape of a network's inputs.

    Raises:
        InputError: if the file is missing, damaged, too large or no picture.
    """
    try:
        with open_regular_file(path) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path} has more than {MAX_PIXELS:,} pixels")
            image.draft(_choose_mode(in_shape), (2 * in_shape[2], 2 * in_shape[1]))  # JPEG: decode no more than needed
            return fit_image(ImageOps.exif_transpose(image), in_shape)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        reason = getattr(error, "strerror", None) or "damaged, or no picture"
        raise InputError(f"{path} cannot be read ({reason})") from error


def fit_image(image: Image.Image, in_shape: Sequence[int]) -> Tensor:
    """Return a picture as uint8 (C, H, W): in grey (C = 1) or in colour (C = 3), scaled to cover H×W and cut out there.

    The middle is cut out. A picture of H×W pixels keeps its pixels.
    """
    channels, height, width = in_shape
    image = convert_mode(image, _choose_mode(in_shape))
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return torch.from_numpy(pixels.reshape(height, width, channels).transpose(2, 0, 1).copy())


def _choose_mode(in_shape: Sequence[int]) -> str:
    """Return Pillow's name for pictures of one channel (grey) or three (colour).

    Raises:
        ValueError: if there are none of so many channels.
    """
    if in_shape[0] not in (1, 3):
        raise ValueError(f"this network takes {in_shape[0]} channels")
    return "L" if in_shape[0] == 1 else "RGB"


def convert_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return a picture in a mode, "L" or "RGB"; sixteen bits become eight, and transparent parts white.

    Raises:
        ValueError: if the range of its numbers is unknown.
    """
    if image.mode.startswith("I"):  # 16 bits; some files have them in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
