"""What a stack writes for each of its jobs: checkpoints as Lightning would write them, and TensorBoard events."""

import os
import socket
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import lightning
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from src.loggers.kinds import get_chart_name
from src.models.base import SupervisedModule
from src.storage.files import open_atomic
from src.vectorized.job import StackedJob
from src.vectorized.model import StackedModel
from src.vectorized.networks.layers import list_names
from src.vectorized.networks.parameters import State


def extract_weights(stack: StackedModel, index: int) -> dict[str, Tensor]:
    """Return a copy of a job's weights and statistics in a stack, by their names in its model."""
    return {
        f"net.{name}": values.clone()
        for name, values in _extract_own(stack, index, dict(stack.net.state_dict(keep_vars=False)))
    }


def _extract_own(stack: StackedModel, index: int, values: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Generate a job's part of values (k, …) that are given by their names in the stack: own name, part."""
    net = stack.models[index].net
    shapes = {name: each.shape for name, each in net.state_dict().items()}
    for slot, name in list_names(net):
        if slot in values:
            yield name, values[slot][index][tuple(map(slice, shapes[name]))].detach().cpu()


def make_checkpoint(
    model: SupervisedModule, weights: Mapping[str, Tensor], callbacks: dict[str, Any], epochs: int, batches: int
) -> dict[str, Any]:
    """Return a checkpoint without optimiser state, to evaluate or to start a new run from.

    Args:
        model: the job's model.
        weights: the model's ``state_dict``.
        callbacks: the states of the job's callbacks.
        epochs: number of trained epochs.
        batches: number of batches per epoch.
    """
    return {
        "epoch": epochs - 1,
        "global_step": epochs * batches,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": dict(weights),
        "loops": _make_loop_states(epochs, batches),
        "callbacks": callbacks,
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": model._hparams_name,
        "hyper_parameters": dict(model.hparams),
    }


def add_optimizer_state(
    content: dict[str, Any], stack: StackedModel, index: int, state: State, steps: int, schedule: dict[str, Any]
) -> dict[str, Any]:
    """Return a checkpoint to resume from: with the states of the job's optimiser and schedule added.

    Args:
        content: the checkpoint without them.
        stack: the stack in which the job was trained.
        index: the job's index in the stack.
        state: the stack's state.
        steps: number of optimiser steps taken.
        schedule: the state of the job's `Schedule` after these steps.
    """
    pieces = _extract_optimizer_state(stack, index, state, steps)
    names = {parameter: name for name, parameter in stack.models[index].net.named_parameters()}
    # Optimisers number their parameters in the order of their groups.
    grouped = [names[each] for group in stack.models[index].get_parameter_groups(lr=0.0) for each in group["params"]]
    kept = {number: pieces[name] for number, name in enumerate(grouped) if pieces.get(name)}
    groups, scheduler = schedule["param_groups"], schedule["scheduler"]
    if groups[0].get("momentum") == 0:  # only other jobs of the stack have momentum: drop the unused buffers
        kept = {}
    scheduled = [] if scheduler is None else [scheduler]
    return content | {"optimizer_states": [{"state": kept, "param_groups": groups}], "lr_schedulers": scheduled}


def _extract_optimizer_state(stack: StackedModel, index: int, state: State, steps: int) -> dict[str, dict[str, Tensor]]:
    """Return the optimiser state of each of a job's parameters: parameter name → (state name → values)."""
    by_kind: dict[str, dict[str, Tensor]] = {}
    for key, values in stack.name_state(state).items():
        kind, _, name = key.partition(".")
        if kind != "net":
            by_kind.setdefault(kind, {})[name] = values
    found: dict[str, dict[str, Tensor]] = {}
    for kind, named in by_kind.items():
        for name, part in _extract_own(stack, index, named):
            found.setdefault(name, {})[kind] = part.clone()
    if "exp_avg" in by_kind:  # Adam also stores the number of steps, per parameter
        for each in found.values():
            each["step"] = torch.tensor(float(steps))
    return found


def _make_loop_states(epochs: int, batches: int) -> dict[str, Any]:
    """Return the state of Lightning's loops at the end of an epoch, after ``epochs`` epochs of ``batches`` steps."""
    steps = epochs * batches
    empty = {"total": _make_progress(0), "current": _make_progress(0)}
    zero_grad = {"ready": 0, "completed": 0, "started": 0}
    evaluation = {"state_dict": {}, "batch_progress": {**empty, "is_last_batch": False}}
    # Lightning writes the checkpoint before it counts the epoch as completed.
    running = _make_progress(epochs) | {"completed": epochs - 1}
    fit = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {
            "total": _make_progress(steps),
            "current": _make_progress(batches),
            "is_last_batch": True,
        },
        "epoch_loop.scheduler_progress": {"total": _make_step_progress(0), "current": _make_step_progress(0)},
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": {"total": _make_step_progress(steps), "current": _make_step_progress(batches)},
                "zero_grad": {"total": zero_grad, "current": zero_grad},
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": {
            "total": _make_step_progress(steps),
            "current": _make_step_progress(steps),
        },
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {**empty, "is_last_batch": True},
        "epoch_progress": {"total": running, "current": running},
    }
    predict = {"state_dict": {}, "batch_progress": empty}
    return {"fit_loop": fit, "validate_loop": evaluation, "test_loop": evaluation, "predict_loop": predict}


def _make_progress(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "completed", "started", "processed"), count)


def _make_step_progress(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "completed"), count)


Scalars = dict[str, float]


def write_events(job: StackedJob, optimizer: str, batches: int) -> None:
    """Write the events that a separate run would log: losses, metrics and learning rate by optimiser step.

    Args:
        job: the job.
        optimizer: name of the optimiser's class, used in the name of the learning rate's chart.
        batches: number of steps per epoch.
    """
    content = BytesIO()
    writer = RecordWriter(content)
    start = job.epoch_times[0] if job.epoch_times else 0.0
    writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
    for step, scalars in sorted(_collect_scalars(job, optimizer, batches).items()):
        epoch = min(step // batches, len(job.epoch_times) - 1)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        event = Event(wall_time=job.epoch_times[epoch], step=step, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    name = f"events.out.tfevents.{int(start)}.{socket.gethostname()}.{os.getpid()}.0"
    with open_atomic(job.folder / name) as file:
        file.write(content.getvalue())


def _collect_scalars(job: StackedJob, optimizer: str, batches: int) -> dict[int, Scalars]:
    """Return the values logged at each step: step → (chart name → value)."""
    found: dict[int, Scalars] = {}
    for step, rates in job.logged_rates:
        names = [f"lr-{optimizer}/pg{group}" for group in range(1, len(rates) + 1)]
        tags = [get_chart_name(name) for name in (names if len(rates) > 1 else [f"lr-{optimizer}"])]
        found.setdefault(step, {}).update(zip(tags, rates, strict=True))
    for epoch, row in enumerate(job.history.rows):
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        found.setdefault((epoch + 1) * batches - 1, {}).update(metrics)
    for step, loss in job.logged_losses:
        found.setdefault(step, {})["train/loss_step"] = loss
    tested = {name: value for name, value in job.recorder.test_metrics.items() if isinstance(value, float)}
    if tested:
        found.setdefault(len(job.history.rows) * batches, {}).update(tested)
    return found
