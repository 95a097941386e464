"""Whether the weights that a run keeps and tests are those that it has measured, whoever may change them between."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from src.core.errors import InputError

Weights = dict[str, Tensor]


def copy_weights(module: torch.nn.Module, state: Mapping[str, Any] | None = None) -> Weights:
    """Return a copy of a module's parameters by their names, or of what a state has under these names."""
    there = dict(module.named_parameters()) if state is None else state
    return {name: there[name].detach().clone() for name, _ in module.named_parameters() if name in there}


def are_equal(weights: Weights, state: Mapping[str, Any]) -> bool:
    """Return whether all these weights are in a state; values that are no numbers are equal, too."""
    return all(
        isinstance(there := state.get(name), Tensor) and _is_equal(weight, there) for name, weight in weights.items()
    )


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one = one.to(other)  # a model is moved to its device, and to its precision, when a test begins
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def refuse_other(weights: Weights, state: Mapping[str, Any], trainer: Trainer, what: str, before: str) -> None:
    """Refuse weights that are not the ones they are taken for.

    Args:
        weights: those.
        state: the weights there are.
        trainer: of the run.
        what: what has gone wrong, in words.
        before: where changing them would be right, in words.

    Raises:
        InputError: naming who may have changed them.
    """
    if not are_equal(weights, state):
        raise InputError(f"{what}; {find_changers(trainer)} must change them {before}, or not at all")


def find_changers(trainer: Trainer) -> str:
    """Return who may have changed weights, in words: callbacks that are none of ours, or the model."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    names = [type(each).__name__ for each in callbacks if not type(each).__module__.startswith(("src.", "lightning."))]
    module: LightningModule = trainer.lightning_module
    return " or ".join([*dict.fromkeys(names), type(module).__name__])
