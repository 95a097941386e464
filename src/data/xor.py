"""XOR: the four corners of the unit square with a little noise, class 1 where just one coordinate is 1.

No straight line parts the two classes (Minsky & Papert, 1969): the smallest problem that needs a
hidden layer.
"""

from typing import Any

import torch

from src.data.base import Samples, TensorDataModule
from src.errors import InputError


class XOR(TensorDataModule):
    """Points (2,) near the corners, as many at each, classes 0 and 1.

    Validation and test points are fresh draws with seeds of their own, never a part of the
    training points.

    Args:
        train_size, val_size, test_size: how many points to draw; there is nothing to take a share of.
        noise: standard deviation of the normal noise added to each coordinate, ≥ 0.
        settings: those of `TensorDataModule`.
    """

    task = "binary"
    in_shape = (2,)
    class_names = ("0", "1")

    def __init__(self, train_size: int, val_size: int, test_size: int, noise: float, **settings: Any) -> None:
        super().__init__(train_size=train_size, val_size=val_size, **settings)
        self.sizes, self.noise = (train_size, val_size, test_size), noise
        for name, size in zip(("train_size", "val_size", "test_size"), self.sizes, strict=True):
            if not isinstance(size, int):
                raise InputError(f"data.{name}={size}: XOR's points are drawn, not taken from a set; give a count")

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            self.train_set, self.val_set, self.test_set = [
                self.draw(size, seed=3 * self.split_seed + part) for part, size in enumerate(self.sizes)
            ]

    def draw(self, count: int, seed: int) -> Samples:
        """Draw ``count`` points, spread evenly over the corners (0,0), (0,1), (1,0), (1,1)."""
        generator = torch.Generator().manual_seed(seed)
        corner = torch.arange(count) % 4
        corners = torch.stack([corner // 2, corner % 2], dim=1)  # (N, 2)
        inputs = corners + self.noise * torch.randn(count, 2, generator=generator)
        return Samples(inputs, corners.sum(dim=1) % 2)
