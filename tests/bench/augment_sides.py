"""The sides of `augment`: images per second of augmented, standardised CIFAR-10 training batches.

python -m tests.bench.augment_sides ours           # prints rates as JSON; the first, a warm-up, is left out
python -m tests.bench.augment_sides per_image 2    # torchvision's transforms, 2 workers
python -m tests.bench.augment_sides by_shift       # whole epochs at once, as fast CIFAR-10 programs do
python -m tests.bench.augment_sides with_kornia
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.data.cifar10 import CIFAR10

BATCH, CROP, CUTOUT = 128, 4, 8
IMAGES = {"ours": 40_000, "per_image": 8_000, "by_shift": 45_000, "with_kornia": 20_000}  # for each rate
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ROOT = os.environ.get("DATA_DIR", "data")


def data_module() -> CIFAR10:
    data = CIFAR10(root=ROOT, batch_size=BATCH, val_size=5000, order_seed=0, flip=True, crop=CROP, cutout=CUTOUT)
    data.prepare_data()
    data.setup()
    return data


def ours() -> Iterator[Tensor]:
    """What a run's training steps get: the loader's batches through ``transform``."""
    data = data_module()
    while True:
        for batch in data.train_dataloader():
            yield data.transform(batch.inputs, augment=True)


class Cutout(torch.nn.Module):
    """A black square around a point of an image (C, H, W)."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        row, column = (int(torch.randint(length, ())) - CUTOUT // 2 for length in (height, width))
        image[:, max(row, 0) : row + CUTOUT, max(column, 0) : column + CUTOUT] = 0
        return image


def per_image(workers: str) -> Iterator[Tensor]:
    """Each image by itself, as torchvision's documentation shows, in a DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(32, padding=CROP),
            Cutout(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    images = datasets.CIFAR10(ROOT, train=True, transform=steps)
    count = int(workers)
    while True:
        loader = DataLoader(images, BATCH, shuffle=True, num_workers=count, persistent_workers=count > 0)
        yield from (batch for batch, _ in loader)


def by_shift() -> Iterator[Tensor]:
    """A whole epoch of bytes at once: the images that share a shift are copied together; floats batch by batch."""
    data = data_module()
    assert data.train_set is not None
    images = data.train_set.inputs
    padded = pad(images, (CROP,) * 4)
    while True:
        flipped = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, padded.flip(-1), padded)
        epoch = torch.empty_like(images)
        top, left = torch.randint(2 * CROP + 1, (2, len(images)))
        for row, column in itertools.product(range(2 * CROP + 1), repeat=2):
            chosen = ((top == row) & (left == column)).nonzero().squeeze(1)
            epoch[chosen] = flipped[chosen, :, row : row + 32, column : column + 32]
        rows, columns = (torch.arange(32) - torch.randint(32, (len(images), 1)) + CUTOUT // 2 for _ in range(2))
        rows, columns = ((place >= 0) & (place < CUTOUT) for place in (rows, columns))
        epoch.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0)
        order = torch.randperm(len(images))
        for start in range(0, len(images), BATCH):
            yield data.transform(epoch.index_select(0, order[start : start + BATCH]))


def with_kornia() -> Iterator[Tensor]:
    """kornia's augmentations on batches of floats, each image with draws of its own."""
    import kornia.augmentation as aug  # type: ignore[import-not-found,unused-ignore]

    data, area = data_module(), (CUTOUT / 32) ** 2
    assert data.train_set is not None
    images = data.transform(data.train_set.inputs)
    steps = torch.nn.Sequential(
        aug.RandomHorizontalFlip(p=0.5),
        aug.RandomCrop((32, 32), padding=CROP, cropping_mode="slice"),
        aug.RandomErasing(scale=(area, area), ratio=(1.0, 1.0), p=1.0),  # the square lies within the image
    )
    while True:
        order = torch.randperm(len(images))
        for start in range(0, len(images), BATCH):
            yield steps(images.index_select(0, order[start : start + BATCH]))


def rates(batches: Iterable[Tensor], images: int, count: int = 4) -> list[float]:
    """Images per second, measured ``count`` times on so many images; the first is not counted."""
    found, batches = [], iter(batches)
    for _ in range(count):
        began, done = time.perf_counter(), 0
        while done < images:
            done += len(next(batches))
        found.append(done / (time.perf_counter() - began))
    return found[1:]


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    sides: dict[str, Callable[..., Any]] = {each.__name__: each for each in (ours, per_image, by_shift, with_kornia)}
    print(json.dumps(rates(sides[name](*arguments), IMAGES[name])), flush=True)
