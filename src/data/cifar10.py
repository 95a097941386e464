"""CIFAR-10: 50,000 training and 10,000 test photographs, 32×32 in colour (Krizhevsky, 2009)."""

import math
from typing import ClassVar

import torch
import torchvision.datasets

from src.data.images import PublishedImages
from src.data.loading.samples import Samples
from src.data.published.pickles import PickledArray, unpickle


class CIFAR10(PublishedImages):
    """Photographs of animals and vehicles, 10 classes, images (3, 32, 32). Settings: see `PublishedImages`."""

    in_shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    folder = "cifar-10-batches-py"
    dataset = torchvision.datasets.CIFAR10
    sha256: ClassVar[dict[str, str]] = {
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    }

    def read(self, train: bool) -> Samples:
        names = [name for name in self.sha256 if name.startswith("data_batch_") == train]
        parts = [self.read_file(name, self.decode) for name in names]
        return Samples(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))

    def decode(self, content: bytes) -> Samples:
        """Decode a batch file: a pickled dictionary with ``data``, uint8 (N, 3072), and ``labels``, a list of integers.

        Raises:
            ValueError: if the content is anything else.
        """
        batch = unpickle(content)
        data, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
        images = data.to_tensor() if isinstance(data, PickledArray) else torch.empty(0)
        if images.dim() != 2 or images.shape[1] != math.prod(self.in_shape):
            raise ValueError("its data are not an array of images (N, 3072)")
        if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
            raise ValueError("its labels are not a list of integers")
        return self.make_samples(images.reshape(-1, *self.in_shape), labels)
