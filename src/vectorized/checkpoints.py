"""A job's checkpoint as Lightning writes one, cut out of a stack."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from src.models.base import SupervisedModule
from src.vectorized.model import Stack, State


def weights_of(stack: Stack, job: int) -> dict[str, Tensor]:
    """The weights and statistics that a job has in a stack, by their names in its model."""
    return {f"net.{name}": values[job].detach().cpu().clone() for name, values in stack.net.state_dict().items()}


def checkpoint(
    model: SupervisedModule, weights: Mapping[str, Tensor], callbacks: dict[str, Any], epochs: int, batches: int
) -> dict[str, Any]:
    """A checkpoint with weights and no optimiser: to evaluate, or to start from.

    Args:
        model: the job's.
        weights: its ``state_dict``.
        callbacks: the states of its callbacks.
        epochs: how many it has trained.
        batches: in an epoch.
    """
    return {
        "epoch": epochs - 1,
        "global_step": epochs * batches,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": dict(weights),
        "loops": loops(epochs, batches),
        "callbacks": callbacks,
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": model._hparams_name,
        "hyper_parameters": dict(model.hparams),
    }


def with_optimizer(
    told: dict[str, Any], stack: Stack, job: int, state: State, steps: int, schedule: dict[str, Any]
) -> dict[str, Any]:
    """A checkpoint to go on from: also with what the job's optimiser and schedule have kept.

    Args:
        told: the checkpoint.
        stack: where the job was trained.
        job: its place there.
        state: of the stack.
        steps: how many it has taken.
        schedule: the state of the job's `Schedule` after as many.
    """
    pieces: dict[str, dict[str, Tensor]] = {}
    for group in range(len(stack.names)):
        pieces |= pieces_of(stack, job, state, group, steps)
    names = {parameter: name for name, parameter in stack.models[job].net.named_parameters()}
    grouped = [names[each] for group in stack.models[job].parameter_groups(lr=0.0) for each in group["params"]]
    kept = {number: pieces[name] for number, name in enumerate(grouped) if pieces.get(name)}
    groups, scheduler = schedule["param_groups"], schedule["scheduler"]
    if groups[0].get("momentum") == 0:  # others of the stack have some
        kept = {}
    scheduled = [] if scheduler is None else [scheduler]
    return told | {"optimizer_states": [{"state": kept, "param_groups": groups}], "lr_schedulers": scheduled}


def pieces_of(stack: Stack, job: int, state: State, group: int, steps: int) -> dict[str, dict[str, Tensor]]:
    """What an optimiser keeps of each parameter of a group, by the parameter's name."""
    shapes = {name: stack.net.get_parameter(name).shape[1:] for name in stack.names[group]}
    found: dict[str, dict[str, Tensor]] = {name: {} for name in shapes}
    start = f"update.{group}."
    for kind, values in state.items():
        if kind.startswith(start):
            parts = values[job].cpu().split([shape.numel() for shape in shapes.values()])
            for (name, shape), part in zip(shapes.items(), parts, strict=True):
                found[name][kind.removeprefix(start)] = part.view(shape).clone()
    if any("exp_avg" in each for each in found.values()):
        for each in found.values():
            each["step"] = torch.tensor(float(steps))
    return found


def loops(epochs: int, batches: int) -> dict[str, Any]:
    """Where Lightning's loops are when an epoch ends, ``epochs`` of ``batches`` steps counted with it."""
    steps = epochs * batches
    none = {"total": progress(0), "current": progress(0)}
    zero_grad = {"ready": 0, "completed": 0, "started": 0}
    evaluation = {"state_dict": {}, "batch_progress": {**none, "is_last_batch": False}}
    under_way = progress(epochs) | {"completed": epochs - 1}  # the checkpoint is written before the epoch's very end
    fit = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {"total": progress(steps), "current": progress(batches), "is_last_batch": True},
        "epoch_loop.scheduler_progress": {"total": stepped(0), "current": stepped(0)},
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": {"total": stepped(steps), "current": stepped(batches)},
                "zero_grad": {"total": zero_grad, "current": zero_grad},
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": stepped(steps), "current": stepped(steps)},
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {**none, "is_last_batch": True},
        "epoch_progress": {"total": under_way, "current": under_way},
    }
    predict = {"state_dict": {}, "batch_progress": none}
    return {"fit_loop": fit, "validate_loop": evaluation, "test_loop": evaluation, "predict_loop": predict}


def progress(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "completed", "started", "processed"), count)


def stepped(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "completed"), count)
