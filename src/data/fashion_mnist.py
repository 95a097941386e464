"""FashionMNIST: 60,000 training and 10,000 test images of clothes, 28×28 grey (Xiao et al., 2017)."""

import torchvision.datasets

from src.data.mnist import MNIST


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format, 10 classes. Settings: see `ImageDataModule`."""

    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    folder = "FashionMNIST/raw"
    dataset = torchvision.datasets.FashionMNIST
