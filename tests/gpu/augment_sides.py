"""The sides of `augment`, in turns in one process: prints images per second of each as JSON.

python -m tests.gpu.augment_sides cuda data/
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from src.data.cifar10 import CIFAR10
from tests.bench.augment_sides import CROP, CUTOUT, MEAN, STD, Cutout
from tests.bench.measuring import OURS

BATCH, ROUNDS = 1024, 5
SECONDS = 0.5  # of each measurement
KORNIA = "kornia, batch by batch"
Change = Callable[[Tensor], Tensor]  # bytes (B, 3, 32, 32) → standardised floats


def data_module(root: str, verify: bool) -> CIFAR10:
    settings = {"batch_size": BATCH, "val_size": 100, "order_seed": 0, "flip": True, "crop": CROP, "cutout": CUTOUT}
    data = CIFAR10(root=root, verify=verify, **settings)
    data.prepare_data()
    data.setup()
    return data


def transforms(*cutouts: torch.nn.Module) -> Change:
    """torchvision's, which draw once for whatever they are given."""
    steps = [v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=CROP), *cutouts]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def image_by_image(change: Change, batch: Tensor) -> Tensor:
    return torch.stack([change(image) for image in batch])


def with_kornia() -> Change:
    """kornia's, each image with draws of its own, on floats."""
    import kornia.augmentation as aug  # type: ignore[import-not-found,unused-ignore]

    area = (CUTOUT / 32) ** 2
    steps = torch.nn.Sequential(
        aug.RandomHorizontalFlip(p=0.5),
        aug.RandomCrop((32, 32), padding=CROP, cropping_mode="slice"),
        aug.RandomErasing(scale=(area, area), ratio=(1.0, 1.0), p=1.0),
        aug.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    return lambda batch: steps(batch.float() / 255)


def sides(data: CIFAR10) -> dict[str, Change]:
    """What changes a batch, by side."""
    area = (CUTOUT / 32) ** 2
    erasing = v2.RandomErasing(p=1.0, scale=(area, area), ratio=(1.0, 1.0))
    found: dict[str, Change] = {
        OURS: partial(data.transform, augment=True),
        "transforms v2, one draw for a whole batch": transforms(erasing),
        "transforms v2, image by image": partial(image_by_image, transforms(Cutout())),
    }
    return found | ({KORNIA: with_kornia()} if importlib.util.find_spec("kornia") else {})


def batches(images: Tensor) -> Iterator[Tensor]:
    """Shuffled batches, without end."""
    while True:
        for numbers in torch.randperm(len(images), device=images.device).split(BATCH):
            yield images.index_select(0, numbers)


def rate(change: Change, source: Iterator[Tensor], device: str) -> float:
    """Images per second, over about `SECONDS`."""
    began, done = now(device), 0
    while (spent := now(device) - began) < SECONDS:
        for _ in range(1 if not done or spent < 0 else 4):
            done += len(change(next(source)))
    return done / spent


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    device, root = sys.argv[1:]
    data = data_module(root, verify=device == "cuda")
    assert data.train_set is not None
    changes, source = sides(data), batches(data.train_set.inputs.to(device))
    rates: dict[str, list[float]] = {name: [] for name in changes}
    for round_ in range(ROUNDS + 1):
        for name, change in changes.items():
            found = rate(change, source, device)
            rates[name] += [found] if round_ else []  # the first is a warm-up
    print(json.dumps(rates), flush=True)
