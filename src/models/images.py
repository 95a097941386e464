"""The base class of models for images."""

from typing import Any

import torch
from torch import Tensor

from src.data.loading.samples import flatten_targets
from src.models.base import SupervisedModule


class ImageModule(SupervisedModule):
    """A network that takes images (C, H, W).

    Args:
        flip_test: also test with the mean of the outputs for an image and for its mirror image, logged as
            "test/acc_flip"; "test/acc" uses the image only. For classification.
        settings: those of `SupervisedModule`.
    """

    images_only = True

    def __init__(self, flip_test: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.flip_test = flip_test and self.kind.has_classes
        self.flip_sums = torch.zeros(2)  # number correct, n

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.flip_sums = torch.zeros(2, device=self.device)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        outputs = self.evaluate_batch(batch, batch_idx)
        inputs, targets = batch[0], flatten_targets(batch[1])
        if self.flip_test and len(targets):
            mirrored = self(inputs.flip(-1)).float()
            mirrored = mirrored.flip(-1) if mirrored.ndim == 4 else mirrored  # a class per pixel
            correct = self.kind.count_correct(self.predict((outputs + mirrored) / 2), targets)
            self.flip_sums += torch.stack([correct, correct.new_tensor(len(targets))])
        return outputs

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.flip_test:
            correct, count = self.all_reduce(self.flip_sums).tolist()
            self.log("test/acc_flip", correct / count, sync_dist=True)
