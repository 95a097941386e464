from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.data.augment import crop_images, cut_out_squares, flip_images


def noise(count: int, side: int = 12, channels: int = 3) -> Tensor:
    return torch.randint(1, 256, (count, channels, side, side), dtype=torch.uint8)


def repeat_image(count: int) -> Tensor:
    """The same image many times."""
    return noise(1).expand(count, -1, -1, -1)


def find_shift(image: Tensor, crop: Tensor, padding: int) -> tuple[int, int]:
    """Where in the padded image (C, H, W) the crop was taken."""
    padded = pad(image, (padding,) * 4)
    height, width = image.shape[1:]
    places = [(top, left) for top in range(2 * padding + 1) for left in range(2 * padding + 1)]
    found = [
        (top, left) for top, left in places if torch.equal(padded[:, top : top + height, left : left + width], crop)
    ]
    assert len(found) == 1
    return found[0]


def test_flip_returns_image_or_mirror_image() -> None:
    images = noise(200)
    flipped = flip_images(images)
    same = (flipped == images).all(dim=(1, 2, 3))
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    assert (same ^ mirrored).all()


def test_flip_mirrors_half_of_images() -> None:
    images = noise(1).expand(10_000, -1, -1, -1)
    mirrored = int((flip_images(images) != images).any(dim=(1, 2, 3)).sum())
    assert abs(mirrored - 5000) < 200  # four standard deviations


def test_crop_windows_differ_between_images() -> None:
    images = noise(50)
    shifts = [find_shift(image, crop, 2) for image, crop in zip(images, crop_images(images, 2), strict=True)]
    assert len(set(shifts)) > 10


def test_crop_windows_are_uniform() -> None:
    images = repeat_image(1800)
    shifts = [find_shift(images[0], crop, 1) for crop in crop_images(images, 1)]
    counts = [shifts.count((top, left)) for top in range(3) for left in range(3)]
    assert sum(counts) == 1800
    assert all(abs(count - 200) < 4 * 13.4 for count in counts)  # four standard deviations


def test_crop_pads_with_black() -> None:
    crops = crop_images(torch.full((100, 1, 4, 4), 255, dtype=torch.uint8), 4)
    assert set(crops.unique().tolist()) == {0, 255}
    assert crops.float().mean() < 200


def test_crop_can_pad_by_reflection() -> None:
    image = noise(1, side=5)
    mirrored = pad(image.float(), (3,) * 4, mode="reflect").byte()[0]
    windows = [mirrored[:, top : top + 5, left : left + 5] for top in range(7) for left in range(7)]
    crops = crop_images(image.expand(300, -1, -1, -1), 3, "reflect")
    found = [[torch.equal(crop, window) for window in windows].index(True) for crop in crops]
    assert set(found) == set(range(49))


def test_cutout_centres_are_uniform() -> None:
    """The centre of the black square is uniform over the image."""
    for size in (3, 4):
        holes = (cut_out_squares(torch.ones(4000, 1, 6, 6), size) == 0)[:, 0]
        expected = {}
        for row in range(6):
            for column in range(6):
                hole = torch.zeros(6, 6, dtype=torch.bool)
                top, left = row - size // 2, column - size // 2
                hole[max(top, 0) : top + size, max(left, 0) : left + size] = True
                expected[tuple(hole.flatten().tolist())] = (row, column)
        drawn = [expected[tuple(hole.flatten().tolist())] for hole in holes]  # KeyError: no such square
        counts = [drawn.count(centre) for centre in expected.values()]
        assert len(counts) == 36
        assert all(abs(count - 111) < 5 * 10.4 for count in counts)


def test_cutout_covers_all_channels() -> None:
    """All channels lose the same square; the rest of the image is unchanged."""
    images = noise(100)
    holed = cut_out_squares(images, 6)
    hole = holed == 0
    assert torch.equal(hole, hole[:, :1].expand_as(hole))
    assert torch.equal(holed[~hole], images[~hole])


def test_augmentation_preserves_type_and_input() -> None:
    """Bytes stay bytes, and the original images are unchanged."""
    images = noise(20)
    before = images.clone()
    for augmented in (flip_images(images), crop_images(images, 2), cut_out_squares(images, 4)):
        assert augmented.dtype == torch.uint8
        assert augmented.shape == images.shape
        assert not torch.equal(augmented, images)
    assert torch.equal(images, before)


def test_augmentation_is_independent_of_type() -> None:
    """Images of any type, square or not, are augmented in the same way."""
    images = noise(50)[..., :9].contiguous()
    for kind in (torch.float32, torch.bfloat16):
        for augment in (flip_images, partial(crop_images, padding=2), partial(cut_out_squares, size=4)):
            torch.manual_seed(0)
            bytes_changed = augment(images)
            torch.manual_seed(0)
            changed = augment(images.to(kind))
            assert changed.dtype == kind
            assert torch.equal(changed, bytes_changed.to(kind))
