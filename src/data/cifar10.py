"""CIFAR-10: 50,000 training and 10,000 test photographs, 32×32 in colour (Krizhevsky, 2009)."""

import torch
import torchvision.datasets
from torchvision.datasets.utils import check_integrity

from src.data.base import Samples
from src.data.images import ImageDataModule


class CIFAR10(ImageDataModule):
    """Photographs of animals and vehicles, 10 classes, images (3, 32, 32). Settings: see `ImageDataModule`."""

    in_shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    folder = torchvision.datasets.CIFAR10.base_folder

    def checksums(self) -> dict[str, str]:
        """The MD5 sum of each file, as torchvision knows it."""
        dataset = torchvision.datasets.CIFAR10
        return {**dict(dataset.train_list), **dict(dataset.test_list), dataset.meta["filename"]: dataset.meta["md5"]}

    def files(self) -> list[str]:
        return list(self.checksums())

    def read(self, train: bool, download: bool = False) -> Samples:
        dataset = torchvision.datasets.CIFAR10(str(self.root), train=train, download=download)
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
        return Samples(images, torch.tensor(dataset.targets))

    def damaged(self) -> str | None:
        for name, md5 in self.checksums().items():
            path = self.root / self.folder / name
            if not check_integrity(str(path), md5):
                return f"{path}: truncated or corrupted, its MD5 is not {md5}"
        return None
