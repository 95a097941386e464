"""A learning rate schedule with a linear warm-up and a cosine decay."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    """A linear warm-up to the learning rate, then a decay along half a cosine (Loshchilov & Hutter, 2017).

    It equals PyTorch's ``SequentialLR`` of ``LinearLR`` and ``CosineAnnealingLR``, in closed form.

    Args:
        optimizer: the optimiser whose learning rates change.
        total_steps: the number of times that the schedule is stepped, ≥ 1.
        warmup: fraction of the steps in the warm-up, in [0, 1).
        start_factor: the first learning rate as a fraction of the full one, in (0, 1].
        eta_min: the last learning rate, ≥ 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.1,
        start_factor: float = 0.01,
        eta_min: float = 0.0,
    ) -> None:
        self.total_steps, self.rising = total_steps, round(warmup * total_steps)
        self.start_factor, self.eta_min = start_factor, eta_min
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch < self.rising:
            factor = self.start_factor + (1 - self.start_factor) * self.last_epoch / self.rising
            return [factor * base for base in self.base_lrs]
        done = min(1.0, (self.last_epoch - self.rising) / max(1, self.total_steps - self.rising))
        height = (1 + math.cos(math.pi * done)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]
