"""Train a stack in its worker: the configs of its jobs go in; a folder for each job comes out."""

import logging
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from src.cli import main as cli
from src.cli.messages import one_line
from src.core import devices
from src.core.disk import StorageError
from src.core.errors import InputError
from src.data.base import EVAL_BATCH, TensorDataModule
from src.storage.files import open_atomic, pin_folders, remove, write_json, write_text
from src.storage.records import claim, finished, provenance
from src.sweeps.store.endings import written_together
from src.sweeps.store.jobs import read_job
from src.sweeps.workers.worker import note_failure
from src.training.build import build_tensors, check_batches, prepare
from src.training.results import out_of_memory
from src.training.validation.config import missing_files, wrong_settings
from src.vectorized.batches import Feed
from src.vectorized.checkpoints import checkpoint, weights_of, with_optimizer
from src.vectorized.events import write_events
from src.vectorized.job import Member
from src.vectorized.model import Stack
from src.vectorized.schedules import Schedule, Schedules
from src.vectorized.spec import Part, StackOrder
from src.vectorized.trainer import Training

log = logging.getLogger(__name__)
DTYPES = {"32-true": torch.float32, "64-true": torch.float64}


def train(order: StackOrder) -> None:
    """Train the jobs of a stack, test them once, and write their folders; record an error in each folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    setup_globals()
    cli.register_resolvers()
    try:
        with pin_folders(*(part.folder for part in order.parts)):
            train_together(order)
    except Exception as error:
        with suppress(OSError):  # the log cannot be written to a full disk
            traceback.print_exc()
        for part in order.parts:
            fail(order, part, error)
        raise SystemExit(1) from error
    remove(order.path)


def train_together(order: StackOrder) -> None:
    """Train the jobs of a stack, test them once, and write their folders."""
    with written_together():
        valid = list(checked(order))
    if not valid:
        return
    first: DictConfig = pickle.loads(valid[0][0].config)
    HydraConfig.instance().set_config(first)
    kind = prepare(first)
    data = build_tensors(first)
    data.prepare_data()
    data.setup()
    with written_together():
        members = list(begun(order, valid, data, first.trainer.max_epochs))
    if not members:
        return
    check_batches(first, members[0].model, data)
    stack = stacked(members, data, kind, order.eval_batch)
    trainer = first.trainer
    training = Training(members, stack, trainer.max_epochs, trainer.check_val_every_n_epoch, order.path)
    if order.path.is_file():
        training.go_on()
    log.info("%d jobs as one: %s on %s", len(members), type(stack.first).__name__, type(data).__name__)
    training.run()
    log.info("trained in %.1f s", training.seconds)
    with written_together():
        write_folders(training, order, kind)
    with written_together():
        for member in members:
            member.close()


def checked(order: StackOrder) -> Iterator[tuple[Part, dict[str, Any]]]:
    """Generate the jobs with valid settings, with their configs; record the errors of the others in their folders."""
    for part in order.parts:
        try:
            write_log(order, part.folder, "under way")
            yield part, own_config(part)
        except InputError as error:
            fail(order, part, error)


def begun(
    order: StackOrder, able: Sequence[tuple[Part, dict[str, Any]]], data: TensorDataModule, epochs: int
) -> Iterator[Member]:
    """Generate the jobs that can start; record the errors of the others in their folders."""
    for part, config in able:
        try:
            member = Member(config, part.folder, data)
            batches = len(data.batches(data.train_set, train=True))
            Schedule(member.model, max(1, batches), epochs)  # raises if the schedule is invalid
            yield member
        except InputError as error:
            fail(order, part, error)


def fail(order: StackOrder, part: Part, error: Exception) -> None:
    """Record in a job's folder why it failed."""
    if finished(part.folder):  # by an earlier start of the stack
        return
    with suppress(StorageError):  # the parent process notices a full disk
        note_failure(part.folder, error, "out of memory" if out_of_memory(error) else "error")
        write_log(order, part.folder, one_line(error))


def own_config(part: Part) -> dict[str, Any]:
    """Return a job's config as plain values, and save it in the job's folder as Hydra would.

    Raises:
        InputError: if a setting is invalid.
    """
    config: DictConfig = pickle.loads(part.config)
    HydraConfig.instance().cfg = config  # type: ignore[assignment]  # `set_config` would copy it
    content = claim(part.folder, config)
    settings = with_values(content, read_job(part.folder).settings)
    if wrong := wrong_settings(settings) + missing_files(settings):
        raise InputError("; ".join(wrong))
    return settings


def with_values(told: dict[str, Any], settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config with values replaced by those in ``settings``, which are given by their full dotted names."""
    return {
        key: with_values(value, settings, f"{prefix}{key}.")
        if isinstance(value, dict)
        else settings.get(f"{prefix}{key}", value)
        for key, value in told.items()
    }


def stacked(members: Sequence[Member], data: TensorDataModule, kind: str, eval_batch: int) -> Stack:
    models, trainer = [member.model for member in members], members[0].cfg["trainer"]
    precision = devices.precision(trainer["precision"], kind)
    feed = Feed(data, [member.order_seed for member in members], torch.device(kind), DTYPES[precision])
    schedules = Schedules(models, len(feed), trainer["max_epochs"])
    size = min(max(data.batch_size, EVAL_BATCH), eval_batch)
    return Stack(models, [member.seed for member in members], feed, schedules, trainer["log_every_n_steps"], size)


# Writing the jobs' folders


def write_folders(training: Training, order: StackOrder, kind: str) -> None:
    """Test the jobs' chosen weights, and write the files of each job."""
    stack, data = training.whole, training.stack.feed.data
    source = provenance(devices.describe(kind)) | {"stack": {"jobs": stack.k, "log": str(order.log)}}
    for member in training.members:
        member.history.seconds_before = training.share
    chosen = training.chosen()
    stack.load(chosen)
    tested = stack.evaluate(data.test_set) if data.test_set is not None else None
    if tested is not None:
        for index, member in enumerate(training.members):
            if member.trouble is None and member.cfg.get("test", True):
                acc = None if tested.acc is None else float(tested.acc[index].float())
                confusion = None if tested.confusion is None else tested.confusion[index].cpu()
                member.add_test(float(tested.loss[index].float()), acc, confusion, data.class_names)
    write_best(training)
    write_last(training)
    for member in training.members:
        with member.at_own_cost():
            write_json(member.folder / "provenance.json", source)
            if any(member.cfg["logger"].values()):
                write_events(member, type(stack.schedules.all[0].optimizer).__name__, len(stack.feed))
            member.results.write_metrics()
            outcome = member.trouble or member.results.outcome()
            write_log(order, member.folder, f"note: {data.note}\n{outcome}" if data.note else outcome)


def write_best(training: Training) -> None:
    """Write ``best.ckpt`` of each job that has a best epoch; the stack must hold the chosen weights."""
    stack, batches = training.whole, len(training.whole.feed)
    for index, member in enumerate(training.members):
        if member.kept.best_model_score is not None:
            epochs = int(member.results.chosen["epoch"])
            callbacks = member.callback_states(epochs)
            found = checkpoint(member.model, weights_of(stack, index), callbacks, epochs, batches)
            save(found, member, "best")


def write_last(training: Training) -> None:
    """Write ``last.ckpt`` of each job that finished, with everything that is needed to resume from it."""
    stack, batches = training.whole, len(training.whole.feed)
    stack.load(training.last)
    for index, member in enumerate(training.members):
        if member.trouble is None:
            epochs = len(member.history.rows)
            found = checkpoint(member.model, weights_of(stack, index), member.callback_states(), epochs, batches)
            found = with_optimizer(found, stack, index, training.last, epochs * batches, member.schedule)
            save(found, member, "last")


def save(content: dict[str, Any], member: Member, name: str) -> None:
    with member.at_own_cost(), open_atomic(member.folder / "checkpoints" / f"{name}.ckpt") as file:
        torch.save(content, file)


def write_log(order: StackOrder, folder: Path, outcome: str) -> None:
    """Write a job's log: a reference to the stack's log, and the outcome."""
    others = f"{len(order.parts) - 1} other job{'s'[: len(order.parts) != 2]}"
    reference = f"trained as one with {others}; the log of all: {os.path.relpath(order.log, folder)}"
    write_text(folder / "train.log", f"{reference}\n{outcome}\n")
