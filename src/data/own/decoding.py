"""Decode one image file of any size and mode into bytes of a given shape."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Image.init()  # registers all formats, before threads need them
FORMATS = sorted({"BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"} & set(Image.ID))  # others may start programs
MAX_PIXELS = 100_000_000  # of one image, before it is resized
BACKGROUND = "white"  # what transparent pixels become

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter limit


def decode_image(content: bytes, size: int, channels: int) -> NDArray[np.uint8]:
    """Return an image as bytes (C, H, W): turned as its EXIF data say, scaled, and cropped to the square in its centre.

    Of a film the first picture is taken; transparent pixels become white; 16 bits are cut to the upper 8.

    Args:
        content: the file's content.
        size: height and width in pixels.
        channels: 3 for colours, 1 for grey.

    Raises:
        ValueError: naming the reason why it is no image that can be used.
    """
    with open_image(content) as image:
        image.draft("RGB" if channels == 3 else "L", (2 * size, 2 * size))  # JPEG: decode no more than needed
        return fit_image(ImageOps.exif_transpose(image), size, channels)


@contextmanager
def open_image(content: bytes, kind: str = "images") -> Iterator[Image.Image]:
    """Open an image file's content, of a known format and limited size.

    Raises:
        ValueError: naming the reason why it is no image of this kind that can be used; so do errors in the block.
    """
    if not content:
        raise ValueError("empty files")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{kind} have more than {MAX_PIXELS:,} pixels")
            yield image
    except Image.UnidentifiedImageError as error:
        raise ValueError("files are no images") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{kind} have more than {MAX_PIXELS:,} pixels") from error
    except ValueError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"{kind} are damaged") from error


def fit_image(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """Return an image as bytes (C, size, size), as `decode_image` does.

    Raises:
        ValueError: if its numbers have no known range.
    """
    square = ImageOps.fit(_convert(image, channels), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Return an image of any mode in colours or in grey, 8 bits each.

    Raises:
        ValueError: if its numbers have no known range.
    """
    mode = "RGB" if channels == 3 else "L"
    if image.mode.startswith("I"):  # 16 bits; some files have them in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("images have more than 16 bits per channel")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("images have floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image if image.mode == mode else image.convert(mode)
