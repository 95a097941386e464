"""Check that the weights that a run saves and tests are the ones that it has validated."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from src.core.errors import InputError

Weights = dict[str, Tensor]


def copy_weights(module: torch.nn.Module, state: Mapping[str, Any] | None = None) -> Weights:
    """Return a copy of a module's parameters by name, or of the entries of a state dict with these names."""
    source = dict(module.named_parameters()) if state is None else state
    return {name: source[name].detach().clone() for name, _ in module.named_parameters() if name in source}


def has_equal_weights(weights: Weights, state: Mapping[str, Any]) -> bool:
    """Return True if a state dict has all these weights with equal values; NaN equals NaN."""
    return all(
        isinstance(other := state.get(name), Tensor) and _is_equal(weight, other) for name, weight in weights.items()
    )


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one = one.to(other)  # a test moves the model to its device and precision
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def refuse_changed_weights(
    weights: Weights, state: Mapping[str, Any], trainer: Trainer, problem: str, when: str
) -> None:
    """Refuse weights that were changed since they were copied.

    Args:
        weights: the expected weights.
        state: the current weights.
        trainer: the run's trainer.
        problem: the problem, as the message's first part.
        when: the point before which the weights may be changed, as the message's last part.

    Raises:
        InputError: naming the callbacks or the model that may have changed them.
    """
    if not has_equal_weights(weights, state):
        raise InputError(f"{problem}; {find_weight_changers(trainer)} may change them only {when}")


def find_weight_changers(trainer: Trainer) -> str:
    """Return the names of the classes that may have changed weights: user-defined callbacks and the model."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    names = [type(item).__name__ for item in callbacks if not type(item).__module__.startswith(("src.", "lightning."))]
    module: LightningModule = trainer.lightning_module
    return " or ".join([*dict.fromkeys(names), type(module).__name__])
