"""Small data sets in the real ones' own file formats, easy to learn; read with data.verify=false."""

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def cycle_labels(count: int) -> np.ndarray:
    """Classes 0 to 9 in turn, as bytes (N,)."""
    return (np.arange(count) % 10).astype(np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes in LeCun's IDX format: magic number, each dimension as a big-endian int32, content."""
    header = struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def draw_blocks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey images (N, 28, 28): dark noise, and a bright block at a place of the class's own."""
    images = rng.integers(0, 60, (len(labels), 28, 28))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 5)
        image[4 + 12 * row : 12 + 12 * row, 2 + 5 * column : 6 + 5 * column] += 190
    return images.astype(np.uint8)


def write_mnist(root: Path, folder: str = "MNIST", train: int = 200, test: int = 100, seed: int = 0) -> None:
    """Write MNIST's or FashionMNIST's four files below ``root/folder/raw``."""
    rng = np.random.default_rng(seed)
    raw = root / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = rng.permutation(cycle_labels(count))
        write_idx(raw / f"{part}-images-idx3-ubyte", draw_blocks(labels, rng))
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)


def draw_colours(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour images (N, 3·32·32), channel by channel: a colour of the class's own under noise."""
    levels = np.stack([labels % 3, labels // 3 % 3, labels // 9 * 2], axis=1) * 90  # (N, 3)
    images = levels[:, :, None] + rng.integers(0, 60, (len(labels), 3, 32 * 32))
    return images.reshape(len(labels), -1).astype(np.uint8)


def write_cifar10(root: Path, train: int = 200, test: int = 100) -> None:
    """Write the six files of CIFAR-10's images below ``root/cifar-10-batches-py``."""
    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.array_split(rng.permutation(cycle_labels(train)), 5)
    parts = {f"data_batch_{number}": part for number, part in enumerate(labels, start=1)}
    parts["test_batch"] = rng.permutation(cycle_labels(test))
    for name, part in parts.items():
        (folder / name).write_bytes(pickle.dumps({"data": draw_colours(part, rng), "labels": part.tolist()}))


def write_image(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (24, 30)) -> None:
    """Write an image of one colour under a little noise; the seed makes it different from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 30, (*size, 3))
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(path)


COLOURS = {"blue": (20, 20, 220), "green": (20, 220, 20), "red": (220, 20, 20)}


def write_colour_folders(root: Path, each: int = 20, first_seed: int = 0) -> None:
    """Write a folder of ``each`` images, of different sizes and formats, for each of the three `COLOURS`."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for index in range(each):
            seed = first_seed + 100 * number + index
            suffix = ("png", "jpg", "webp", "bmp")[index % 4]
            write_image(root / name / f"{index:02}.{suffix}", colour, seed, (20 + index, 40 - index))
