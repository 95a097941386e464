"""The sides of `image_folder`: a plain loop with a small network over pictures in FOLDER/pictures, scaled to SIDE.

python -m tests.bench.image_folder_sides ours decoded FOLDER SIDE      # without a cache; prints what it found as JSON
python -m tests.bench.image_folder_sides ours streamed FOLDER SIDE     # decoded before, read from disk
python -m tests.bench.image_folder_sides ours in_memory FOLDER SIDE    # decoded before, in memory
python -m tests.bench.image_folder_sides theirs FOLDER SIDE            # torchvision's ImageFolder with workers
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from src.data.cifar10 import CIFAR10
from src.data.image_folder import ImageFolder

BATCH, WORKERS = 64, 2
ROOT = os.environ.get("DATA_DIR", "data")
Batch = tuple[Tensor, Tensor]


def write_pictures(folder: Path, count: int, size: tuple[int, int], suffix: str) -> None:
    """Write the first of CIFAR-10's training images as files, scaled to (width, height), in a folder per class."""
    data = CIFAR10(root=ROOT, batch_size=1, val_size=0, order_seed=0)
    data.prepare_data()
    images, labels = data.load()[0].take(slice(0, count))

    def write(index: int) -> None:
        path = folder / data.class_names[labels[index]] / f"{index:05}.{suffix}"
        image = Image.fromarray(images[index].permute(1, 2, 0).numpy())
        (image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)).save(path)

    for name in data.class_names:
        (folder / name).mkdir(parents=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(write, range(count)))


def ours(kind: str, folder: str, side: str) -> Iterator[Batch]:
    """A run's training batches: decoded, flipped and standardised; nearly all pictures are trained on."""
    cache = Path(folder) / "cache"
    if kind == "decoded":
        shutil.rmtree(cache, ignore_errors=True)
    data = ImageFolder(
        str(Path(folder) / "pictures"),
        str(cache),
        int(side),
        channels=3,
        stream=kind != "in_memory",
        val_size=0,
        test_size=1,
        batch_size=BATCH,
        order_seed=0,
        flip=True,
    )
    data.setup()
    for batch in data.train_dataloader():
        yield data.transform(batch.inputs, augment=True), batch.targets


def theirs(folder: str, side: str) -> Iterator[Batch]:
    """The same with torchvision's parts, as its documentation shows."""
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.Resize(int(side)),
            v2.CenterCrop(int(side)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
        ]
    )
    images = datasets.ImageFolder(str(Path(folder) / "pictures"), steps)
    yield from DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS)


def train(batches: Iterable[Batch], began: float) -> dict[str, float]:
    """Take a step on each batch; return the seconds to the first one, and the images per second of the others."""
    network = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    network.append(nn.Linear(128, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    first, count = 0.0, 0
    for inputs, targets in batches:
        loss = nn.functional.cross_entropy(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += len(targets)
        if not first:
            first, count = time.perf_counter() - began, 0
    return {"first": first, "rate": count / (time.perf_counter() - began - first)}


def measure_peak() -> float:
    """Return the most memory that this process has had, in MB; ``ru_maxrss`` would count what its parent had, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, *arguments = sys.argv[1:]
    before = measure_peak()
    sides: dict[str, Callable[..., Iterator[Batch]]] = {"ours": ours, "theirs": theirs}
    found = train(sides[name](*arguments), time.perf_counter())
    print(json.dumps({**found, "before": before, "peak": measure_peak()}), flush=True)
