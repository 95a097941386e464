"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28×28 grey (LeCun et al., 1998)."""

import math
import struct
from pathlib import Path

import torchvision.datasets

from src.data.base import Samples
from src.data.images import ImageDataModule


class MNIST(ImageDataModule):
    """Handwritten digits, 10 classes, images (1, 28, 28). Settings: see `ImageDataModule`."""

    in_shape = (1, 28, 28)
    class_names = tuple("0123456789")
    folder = "MNIST/raw"
    dataset: type[torchvision.datasets.MNIST] = torchvision.datasets.MNIST

    def files(self) -> list[str]:
        return [Path(name).stem for name, _ in self.dataset.resources]

    def read(self, train: bool, download: bool = False) -> Samples:
        dataset = self.dataset(str(self.root), train=train, download=download)
        return Samples(dataset.data.unsqueeze(1), dataset.targets)

    def damaged(self) -> str | None:
        for name in self.files():
            path = self.root / self.folder / name
            if complaint := idx_complaint(path):
                return f"{path}: {complaint}"
        return None


def idx_complaint(path: Path) -> str | None:
    """What is wrong with a file of LeCun's IDX format of unsigned bytes; ``None`` if it is whole.

    The header is a magic number (two zeros, the type 8, the number of dimensions), then each
    dimension as a big-endian int32.
    """
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 3:
        return "not an IDX file of bytes"
    header = 4 + 4 * content[3]
    if len(content) < header:
        return f"truncated, {len(content)} bytes"
    expected = header + math.prod(struct.unpack(f">{content[3]}i", content[4:header]))
    return None if len(content) == expected else f"{len(content)} bytes, its header says {expected}"
