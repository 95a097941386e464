"""Toy data sets in one or two dimensions: drawn from a rule, or a table of a few points.

Each demonstrates one thing: what a straight line can and cannot separate (gates, XOR, linear), what
a hidden layer adds (pulse, parabola), how a curve is composed of pieces (cubic), and overfitting
(ten points).
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.preprocessing import VALUES, Preprocessing


class SyntheticDataModule(TensorDataModule):
    """Points drawn from a rule, independently for training, validation and test.

    A subclass defines ``draw``.

    Args:
        train_size, val_size, test_size: the number of points to draw; fractions have no meaning here.
        settings: those of `TensorDataModule`.
    """

    def __init__(self, train_size: int, val_size: int, test_size: int, **settings: Any) -> None:
        super().__init__(train_size=train_size, val_size=val_size, **settings)
        self.sizes = (train_size, val_size, test_size)
        for name, size in zip(("train_size", "val_size", "test_size"), self.sizes, strict=True):
            if not isinstance(size, int):
                kind = type(self).__name__
                raise InputError(f"data.{name}={size}: {kind}'s points are drawn, not taken from a set; give a count")

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is None:
            self.train_set, self.val_set, self.test_set = [
                self.draw(size, torch.Generator().manual_seed(3 * self.split_seed + part))
                for part, size in enumerate(self.sizes)
            ]

    def describe_preprocessing(self) -> Preprocessing:
        """Return that a network takes the points as they are."""
        return Preprocessing(VALUES)

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """Draw ``count`` points."""
        raise AttributeError(f"{type(self).__name__} must define draw()")


class XOR(SyntheticDataModule):
    """The corners of the unit square with a little noise; class 1 where exactly one coordinate is 1.

    No straight line separates the two classes (Minsky & Papert, 1969): the smallest problem that
    needs a hidden layer. Points (2,), equally many at each corner.

    Args:
        noise: standard deviation of the normal noise added to each coordinate, ≥ 0.
        settings: those of `SyntheticDataModule`.
    """

    task = "binary"
    in_shape = (2,)
    class_names = ("0", "1")

    def __init__(self, noise: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.noise = noise

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        corner = torch.arange(count) % 4
        corners = torch.stack([corner // 2, corner % 2], dim=1)  # (N, 2): (0,0), (0,1), (1,0), (1,1), …
        inputs = corners + self.noise * torch.randn(count, 2, generator=generator)
        return Samples(inputs, corners.sum(dim=1) % 2)


class Pulse(SyntheticDataModule):
    """A square pulse: x ~ U(−3, 3), class 1 inside the band −1 ≤ x ≤ 1.

    One sigmoid can rise or fall but not both; the difference of two makes a band-pass.
    """

    task = "binary"
    in_shape = (1,)
    class_names = ("0", "1")

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        inputs = draw_uniform(-3, 3, count, generator).unsqueeze(1)  # (N, 1)
        return Samples(inputs, self.truth(inputs).long())

    def truth(self, inputs: Tensor) -> Tensor:
        """Return the true class at inputs (N, 1), as a float: (N,)."""
        return (inputs.squeeze(1).abs() <= 1).to(inputs.dtype)


class Cubic(SyntheticDataModule):
    """The curve y = x³ + 0.1x² − x + 0.1 at x ~ U(−1.5, 1.5), without noise: regression."""

    task = "regression"
    in_shape = (1,)

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        inputs = draw_uniform(-1.5, 1.5, count, generator).unsqueeze(1)  # (N, 1)
        return Samples(inputs, self.truth(inputs))

    def truth(self, inputs: Tensor) -> Tensor:
        """Return the noise-free curve at inputs (N, 1): (N,)."""
        x = inputs.squeeze(1)
        return x**3 + 0.1 * x**2 - x + 0.1


class PlaneDataModule(SyntheticDataModule):
    """Points (2,) distributed uniformly over a rectangle; class 1 on and above a boundary.

    A subclass declares ``low`` and ``high``, two opposite corners of the rectangle, and defines ``boundary``.
    """

    task = "binary"
    in_shape = (2,)
    class_names = ("0", "1")
    low: ClassVar[tuple[float, float]]
    high: ClassVar[tuple[float, float]]

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        columns = [draw_uniform(*ends, count, generator) for ends in zip(self.low, self.high, strict=True)]
        return Samples(torch.stack(columns, dim=1), (columns[1] >= self.boundary(columns[0])).long())

    def boundary(self, x1: Tensor) -> Tensor:
        """Return the smallest x2 of class 1 at each x1: (N,) → (N,)."""
        raise AttributeError(f"{type(self).__name__} must define boundary()")


class Linear(PlaneDataModule):
    """Class 1 where 0.8·x1 + x2 − 3 ≥ 0, on [0, 8] × [−4, 3]: a line separates the classes."""

    low, high = (0.0, -4.0), (8.0, 3.0)

    def boundary(self, x1: Tensor) -> Tensor:
        return 3 - 0.8 * x1


class Parabola(PlaneDataModule):
    """Class 1 where −0.5·(x1 − 1)² + 2·x2 + 5 ≥ 0, on [−5, 5] × [−4, 4]: two lines and a hidden layer suffice."""

    low, high = (-5.0, -4.0), (5.0, 4.0)

    def boundary(self, x1: Tensor) -> Tensor:
        return 0.25 * (x1 - 1) ** 2 - 2.5


class TableDataModule(TensorDataModule):
    """A few fixed points, the same for training, validation and test.

    A subclass defines ``get_points``.

    Args:
        settings: those of `TensorDataModule`, except the sizes.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(val_size=0, **settings)

    @property
    def note(self) -> str:
        count = self.get_points().size
        return f"trains, validates and tests on the same {count} points: the metrics only show what was memorised"

    def setup(self, stage: str | None = None) -> None:
        self.train_set = self.val_set = self.test_set = self.get_points()

    def describe_preprocessing(self) -> Preprocessing:
        """Return that a network takes the points as they are."""
        return Preprocessing(VALUES)

    def get_points(self) -> Samples:
        """Return all points."""
        raise AttributeError(f"{type(self).__name__} must define get_points()")


class Gate(TableDataModule):
    """The truth table of a logic gate of two inputs: points (2,), classes 0 and 1.

    Args:
        gate: "and", "or", "nand" or "xor".
        settings: those of `TableDataModule`.
    """

    task = "binary"
    in_shape = (2,)
    class_names = ("0", "1")
    TABLES: ClassVar[dict[str, list[int]]] = {  # outputs for the inputs 00, 01, 10, 11
        "and": [0, 0, 0, 1],
        "or": [0, 1, 1, 1],
        "nand": [1, 1, 1, 0],
        "xor": [0, 1, 1, 0],
    }

    def __init__(self, gate: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.gate = gate

    def get_points(self) -> Samples:
        inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        return Samples(inputs, torch.tensor(self.TABLES[self.gate]))


class TenPoints(TableDataModule):
    """The ten points of the course's overfitting example: x from −4.5 to 4.5, regression.

    Args:
        held_out: the number of points to validate on and not to train on, from 0 (train and validate
            on all ten) to 8; they are spaced evenly among the inner points. The test is on all ten.
        settings: those of `TableDataModule`.
    """

    task = "regression"
    in_shape = (1,)
    TARGETS = (0.9819, 0.7973, 1.9737, 0.1838, 1.3180, -0.8361, -0.6591, -2.4701, -2.8122, -6.2512)

    def __init__(self, held_out: int, **settings: Any) -> None:
        super().__init__(**settings)
        if held_out > 8:
            raise InputError(f"data.held_out={held_out}: at most 8 of the ten points can be held out, not the two ends")
        self.held_out = held_out

    @property
    def note(self) -> str:
        if not self.held_out:
            return super().note
        return f"trains on {10 - self.held_out} of ten points, validates on the other {self.held_out}, tests on all ten"

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.held_out:
            held_out = torch.zeros(10, dtype=torch.bool)
            held_out[torch.linspace(0, 9, self.held_out + 2)[1:-1].round().long()] = True
            self.train_set, self.val_set = self.get_points().take(~held_out), self.get_points().take(held_out)

    def get_points(self) -> Samples:
        return Samples(torch.linspace(-4.5, 4.5, 10).unsqueeze(1), torch.tensor(self.TARGETS))


def draw_uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
