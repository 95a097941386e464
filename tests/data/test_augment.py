from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.data.augment import crop_images, cut_out_squares, flip_images


def noise(count: int, side: int = 12, channels: int = 3) -> Tensor:
    return torch.randint(1, 256, (count, channels, side, side), dtype=torch.uint8)


def alike(count: int) -> Tensor:
    """The same image many times."""
    return noise(1).expand(count, -1, -1, -1)


def shift_of(image: Tensor, crop: Tensor, padding: int) -> tuple[int, int]:
    """Where in the padded image (C, H, W) the crop was taken."""
    padded = pad(image, (padding,) * 4)
    height, width = image.shape[1:]
    places = [(top, left) for top in range(2 * padding + 1) for left in range(2 * padding + 1)]
    found = [
        (top, left) for top, left in places if torch.equal(padded[:, top : top + height, left : left + width], crop)
    ]
    assert len(found) == 1
    return found[0]


def test_a_flip_gives_each_image_itself_or_its_mirror_image() -> None:
    images = noise(200)
    flipped = flip_images(images)
    same = (flipped == images).all(dim=(1, 2, 3))
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    assert (same ^ mirrored).all()


def test_a_flip_mirrors_half_of_the_images() -> None:
    images = noise(1).expand(10_000, -1, -1, -1)
    mirrored = int((flip_images(images) != images).any(dim=(1, 2, 3)).sum())
    assert abs(mirrored - 5000) < 200  # four standard deviations


def test_a_crop_gives_each_image_a_window_of_its_own() -> None:
    images = noise(50)
    shifts = [shift_of(image, crop, 2) for image, crop in zip(images, crop_images(images, 2), strict=True)]
    assert len(set(shifts)) > 10


def test_a_crop_takes_each_window_equally_often() -> None:
    images = alike(1800)
    shifts = [shift_of(images[0], crop, 1) for crop in crop_images(images, 1)]
    counts = [shifts.count((top, left)) for top in range(3) for left in range(3)]
    assert sum(counts) == 1800
    assert all(abs(count - 200) < 4 * 13.4 for count in counts)  # four standard deviations


def test_what_a_crop_shifts_in_is_black() -> None:
    crops = crop_images(torch.full((100, 1, 4, 4), 255, dtype=torch.uint8), 4)
    assert set(crops.unique().tolist()) == {0, 255}
    assert crops.float().mean() < 200


def test_what_a_crop_shifts_in_can_be_the_inside_mirrored() -> None:
    image = noise(1, side=5)
    mirrored = pad(image.float(), (3,) * 4, mode="reflect").byte()[0]
    windows = [mirrored[:, top : top + 5, left : left + 5] for top in range(7) for left in range(7)]
    crops = crop_images(image.expand(300, -1, -1, -1), 3, "reflect")
    found = [[torch.equal(crop, window) for window in windows].index(True) for crop in crops]
    assert set(found) == set(range(49))


def test_cutout_blacks_out_a_square_around_a_centre_that_is_uniform_over_the_image() -> None:
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


def test_cutout_takes_the_same_square_from_all_channels_and_leaves_the_rest() -> None:
    images = noise(100)
    holed = cut_out_squares(images, 6)
    hole = holed == 0
    assert torch.equal(hole, hole[:, :1].expand_as(hole))
    assert torch.equal(holed[~hole], images[~hole])


def test_bytes_stay_bytes_and_the_images_given_stay_as_they_are() -> None:
    images = noise(20)
    before = images.clone()
    for augmented in (flip_images(images), crop_images(images, 2), cut_out_squares(images, 4)):
        assert augmented.dtype == torch.uint8
        assert augmented.shape == images.shape
        assert not torch.equal(augmented, images)
    assert torch.equal(images, before)


def test_images_of_any_type_and_those_that_are_not_square_are_augmented_alike() -> None:
    images = noise(50)[..., :9].contiguous()
    for kind in (torch.float32, torch.bfloat16):
        for augment in (flip_images, partial(crop_images, padding=2), partial(cut_out_squares, size=4)):
            torch.manual_seed(0)
            bytes_changed = augment(images)
            torch.manual_seed(0)
            changed = augment(images.to(kind))
            assert changed.dtype == kind
            assert torch.equal(changed, bytes_changed.to(kind))
