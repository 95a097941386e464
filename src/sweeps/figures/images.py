"""Read the figures of runs safely: a file of that name may hold anything."""

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from src.core.errors import InputError
from src.storage.files import read_bytes

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6


def read_png(path: Path) -> Image.Image:
    """Return a PNG's pixels as RGB.

    Raises:
        InputError: if the path is not a regular file, or the file is not a PNG, damaged or too large.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(path, MAX_BYTES)), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels are more than allowed")
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise InputError(f"{path} cannot be shown: it is not a PNG file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be shown: {' '.join(str(error).split())}") from error
