"""Optimisers of k networks at once: torch's formulas on all their parameters (k, P), each job with its own numbers."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

Numbers = dict[str, Tensor]  # float64, by name, (T, k): of each of T steps, or (1, k) where they stay the same


class Update(Protocol):
    """Changes parameters (k, P) in place by their gradients."""

    state: dict[str, Tensor]  # what it keeps from step to step, by torch's name, each (k, P)

    def steps(self, numbers: Numbers, done: int, count: int) -> Iterator[Any]:
        """What each of ``count`` steps needs, after ``done`` others; calculated at once."""

    def __call__(self, gradient: Tensor, step: Any) -> None:
        """Take a step with gradients (k, P)."""


class SGD:
    """`torch.optim.SGD`, also with momentum, Nesterov's or not, and weight decay.

    Args:
        theta: the parameters (k, P).
        used: of ``momentum`` and ``weight_decay`` whether any job has one.
        settings: ``nesterov``, one for all.
    """

    def __init__(self, theta: Tensor, used: dict[str, bool], settings: dict[str, Any]) -> None:
        self.theta, self.nesterov = theta, settings["nesterov"]
        self.decays, self.moves = used["weight_decay"], used["momentum"]
        self.state = {"momentum_buffer": torch.zeros_like(theta)} if self.moves else {}

    def steps(self, numbers: Numbers, done: int, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        parts = [numbers[name] for name in ("lr", "momentum", "weight_decay")]
        return zip(*(each_step(part, count, self.theta) for part in parts), strict=True)

    def __call__(self, gradient: Tensor, step: tuple[Tensor, Tensor, Tensor]) -> None:
        lr, momentum, decay = step  # each (k, 1)
        if self.decays:
            gradient = torch.addcmul(gradient, self.theta, decay)
        if self.moves:
            speed = self.state["momentum_buffer"].mul_(momentum).add_(gradient)
            gradient = torch.addcmul(gradient, speed, momentum) if self.nesterov else speed
        self.theta.addcmul_(gradient, lr, value=-1)


class Adam:
    """`torch.optim.Adam`, or ``AdamW`` where the decay is decoupled.

    Args:
        theta: the parameters (k, P).
        used: of ``weight_decay`` whether any job has one.
        settings: ``decoupled_weight_decay``, one for all.
    """

    def __init__(self, theta: Tensor, used: dict[str, bool], settings: dict[str, Any]) -> None:
        self.theta, self.decoupled = theta, settings["decoupled_weight_decay"]
        self.decays = used["weight_decay"]
        self.state = {"exp_avg": torch.zeros_like(theta), "exp_avg_sq": torch.zeros_like(theta)}
        self.room = torch.empty_like(theta)  # for what is calculated on the way

    def steps(self, numbers: Numbers, done: int, count: int) -> Iterator[tuple[Tensor, ...]]:
        lr, beta1, beta2, decay = (numbers[name] for name in ("lr", "beta1", "beta2", "weight_decay"))
        number = torch.arange(done + 1, done + count + 1).unsqueeze(1)  # (T, 1), from 1 on
        root = (1 - beta2**number).sqrt()
        size, floor = lr * root / (1 - beta1**number), numbers["eps"] * root
        shrunk = 1 - lr * decay if self.decoupled else decay
        parts = (size, 1 - beta1, 1 - beta2, floor, shrunk)
        return zip(*(each_step(part, count, self.theta) for part in parts), strict=True)

    def __call__(self, gradient: Tensor, step: tuple[Tensor, ...]) -> None:
        size, new, new2, floor, decay = step  # each (k, 1)
        if self.decays and self.decoupled:
            self.theta.mul_(decay)
        elif self.decays:
            gradient = torch.addcmul(gradient, self.theta, decay)
        mean = self.state["exp_avg"].lerp_(gradient, new)
        square = self.state["exp_avg_sq"].lerp_(torch.mul(gradient, gradient, out=self.room), new2)
        change = torch.div(mean, torch.sqrt(square, out=self.room).add_(floor), out=self.room)
        self.theta.addcmul_(change, size, value=-1)


def each_step(numbers: Tensor, count: int, theta: Tensor) -> tuple[Tensor, ...]:
    """Numbers (T, k), or (1, k) for all steps, as ``count`` columns (k, 1) of the parameters' type."""
    return numbers.to(theta).expand(count, -1).unsqueeze(2).unbind(0)
