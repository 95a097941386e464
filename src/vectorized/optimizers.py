"""Optimisers for k networks at once.

They apply torch's formulas to all parameters (k, P), with separate hyperparameters for each job.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

CACHED = 2**16  # parameters that are updated at once: all that a step reads and writes then stays in a core's cache
# Hyperparameters in float64: name → (T, k) for T steps, or (1, k) if they are the same in each step.
Hyperparameters = dict[str, Tensor]


class StackedOptimizer(Protocol):
    """An optimiser that changes parameters (k, P) in place."""

    state: dict[str, Tensor]  # optimiser state: torch's name → (k, P)

    def prepare_steps(self, hyperparameters: Hyperparameters, done: int, count: int) -> Iterator[Any]:
        """Precompute the values that each of the next ``count`` steps needs, after ``done`` earlier ones."""

    def __call__(self, gradient: Tensor, step: Any) -> None:
        """Take a step with gradients (k, P)."""


class StackedSGD:
    """`torch.optim.SGD` for k jobs, with optional momentum, Nesterov momentum and weight decay.

    Args:
        theta: the parameters (k, P).
        used: for ``momentum`` and ``weight_decay``, True if any job uses it.
        settings: ``nesterov``, the same for all jobs.
    """

    def __init__(self, theta: Tensor, used: dict[str, bool], settings: dict[str, Any]) -> None:
        self.theta, self.nesterov = theta, settings["nesterov"]
        self.has_weight_decay, self.has_momentum = used["weight_decay"], used["momentum"]
        self.state = {"momentum_buffer": torch.zeros_like(theta)} if self.has_momentum else {}

    def prepare_steps(
        self, hyperparameters: Hyperparameters, done: int, count: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        parts = [hyperparameters[name] for name in ("lr", "momentum", "weight_decay")]
        return zip(*(_expand_steps(part, count, self.theta) for part in parts), strict=True)

    def __call__(self, gradient: Tensor, step: tuple[Tensor, Tensor, Tensor]) -> None:
        for parts in _split_rows(self.theta, gradient, *step, *self.state.values()):
            self.update(*parts)

    def update(
        self, theta: Tensor, gradient: Tensor, lr: Tensor, momentum: Tensor, decay: Tensor, *buffers: Tensor
    ) -> None:
        """Update the parameters of some jobs; what is not (k, P) is (k, 1)."""
        if self.has_weight_decay:
            gradient = torch.addcmul(gradient, theta, decay)
        if self.has_momentum:
            velocity = buffers[0].mul_(momentum).add_(gradient)
            gradient = torch.addcmul(gradient, velocity, momentum) if self.nesterov else velocity
        theta.addcmul_(gradient, lr, value=-1)


class StackedAdam:
    """`torch.optim.Adam` for k jobs, or ``AdamW`` if the weight decay is decoupled.

    Args:
        theta: the parameters (k, P).
        used: for ``weight_decay``, True if any job uses it.
        settings: ``decoupled_weight_decay``, the same for all jobs.
    """

    def __init__(self, theta: Tensor, used: dict[str, bool], settings: dict[str, Any]) -> None:
        self.theta, self.is_decoupled = theta, settings["decoupled_weight_decay"]
        self.has_weight_decay = used["weight_decay"]
        self.state = {"exp_avg": torch.zeros_like(theta), "exp_avg_sq": torch.zeros_like(theta)}
        self.buffer = torch.empty_like(next(_split_rows(theta))[0])  # for intermediate values

    def prepare_steps(self, hyperparameters: Hyperparameters, done: int, count: int) -> Iterator[tuple[Tensor, ...]]:
        lr, beta1, beta2, decay = (hyperparameters[name] for name in ("lr", "beta1", "beta2", "weight_decay"))
        number = torch.arange(done + 1, done + count + 1).unsqueeze(1)  # (T, 1), from 1 on
        root = (1 - beta2**number).sqrt()
        # The bias corrections are moved into the step size and eps, which are computed once per epoch.
        size, eps = lr * root / (1 - beta1**number), hyperparameters["eps"] * root
        factor = 1 - lr * decay if self.is_decoupled else decay
        parts = (size, 1 - beta1, 1 - beta2, eps, factor)
        return zip(*(_expand_steps(part, count, self.theta) for part in parts), strict=True)

    def __call__(self, gradient: Tensor, step: tuple[Tensor, ...]) -> None:
        for parts in _split_rows(self.theta, gradient, *step, *self.state.values()):
            self.update(*parts)

    def update(
        self,
        theta: Tensor,
        gradient: Tensor,
        size: Tensor,
        weight1: Tensor,
        weight2: Tensor,
        eps: Tensor,
        decay: Tensor,
        mean: Tensor,
        square: Tensor,
    ) -> None:
        """Update the parameters of some jobs; what is not (k, P) is (k, 1)."""
        buffer = self.buffer[: len(theta)]
        if self.has_weight_decay and self.is_decoupled:
            theta.mul_(decay)
        elif self.has_weight_decay:
            gradient = torch.addcmul(gradient, theta, decay)
        mean.lerp_(gradient, weight1)
        square.lerp_(torch.mul(gradient, gradient, out=buffer), weight2)
        change = torch.div(mean, torch.sqrt(square, out=buffer).add_(eps), out=buffer)
        theta.addcmul_(change, size, value=-1)


def _split_rows(theta: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Generate the rows of tensors (k, …) together, as many at once as stay in the cache; on a GPU all."""
    count = max(1, CACHED // theta.shape[1]) if theta.device.type == "cpu" else len(theta)
    if count >= len(theta):
        return iter([(theta, *others)])
    return zip(*(each.split(count) for each in (theta, *others)), strict=True)


def _expand_steps(numbers: Tensor, count: int, theta: Tensor) -> tuple[Tensor, ...]:
    """Return numbers (T, k), or (1, k) for all steps, as ``count`` columns (k, 1) of the parameters' type."""
    return numbers.to(theta).expand(count, -1).unsqueeze(2).unbind(0)
