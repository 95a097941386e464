"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28×28 grey (LeCun et al., 1998)."""

import math
import struct
from typing import ClassVar

import numpy as np
import torch
import torchvision.datasets
from torch import Tensor

from src.data.images import PublishedImages
from src.data.loading.samples import Samples


class MNIST(PublishedImages):
    """Handwritten digits, 10 classes, images (1, 28, 28). Settings: see `PublishedImages`."""

    in_shape = (1, 28, 28)
    class_names = tuple("0123456789")
    folder = "MNIST/raw"
    dataset = torchvision.datasets.MNIST
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

    def read(self, train: bool) -> Samples:
        part = "train" if train else "t10k"
        images = self.read_file(f"{part}-images-idx3-ubyte", lambda content: _decode_idx(content, self.in_shape[1:]))
        return self.read_file(
            f"{part}-labels-idx1-ubyte",
            lambda content: self.make_samples(images.unsqueeze(1), _decode_idx(content, ()).tolist()),
        )


def _decode_idx(content: bytes, shape: tuple[int, ...]) -> Tensor:
    """Decode LeCun's IDX format of unsigned bytes.

    The header is a magic number (two zeros, the type 8, the number of dimensions), then each
    dimension as a big-endian uint32.

    Args:
        content: the content of a file.
        shape: the shape that each of its N items must have.

    Returns:
        uint8 (N, *shape).

    Raises:
        ValueError: if the content has another format or shape, or is cut short.
    """
    header = 4 + 4 * (1 + len(shape))
    if len(content) < header or content[:4] != bytes([0, 0, 8, 1 + len(shape)]):
        raise ValueError(f"not a {1 + len(shape)}-dimensional IDX file of bytes")
    count, *found = struct.unpack(f">{1 + len(shape)}I", content[4:header])
    if tuple(found) != shape:
        raise ValueError(f"{'×'.join(map(str, found))} pixels, not {'×'.join(map(str, shape))}")
    expected = header + count * math.prod(shape)
    if len(content) != expected:
        raise ValueError(f"{len(content)} bytes, its header says {expected}")
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8, offset=header)).view(count, *shape)
