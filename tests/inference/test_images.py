"""Pictures of any mode become the pixels that a network takes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.core.errors import InputError
from src.inference.images import MAX_PIXELS, read_image

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY).convert("RGB"), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (Image.fromarray(GREY > 100), (GREY > 100) * 255),
        (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (3, 2), 0)]), np.full((2, 3), 255)),
    ],
    ids=["grey", "colour", "sixteen bits", "one bit", "transparent"],
)
def test_modes_become_bytes(image: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", (1, 2, 3))[0].tolist() == expected.tolist()
    assert read_image(tmp_path / "a.png", (3, 2, 3)).tolist() == [expected.tolist()] * 3


def test_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half a circle
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", (1, 2, 3))[0].tolist() == GREY[::-1, ::-1].tolist()


def test_huge_picture_is_refused(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="more than 100,000,000 pixels"):
        read_image(tmp_path / "a.png", (1, 2, 3))
