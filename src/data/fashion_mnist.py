"""FashionMNIST: 60,000 training and 10,000 test images of clothes, 28×28 grey (Xiao et al., 2017)."""

from typing import ClassVar

import torchvision.datasets

from src.data.mnist import MNIST


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format, 10 classes. Settings: see `PublishedImages`."""

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
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
