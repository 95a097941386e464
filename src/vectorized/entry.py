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

from src.cli.messages import format_error
from src.cli.names import register_resolvers
from src.core import devices
from src.core.disk import StorageError
from src.core.errors import InputError
from src.core.processes import read_epoch_limit
from src.data.base import EVAL_BATCH_SIZE, TensorDataModule
from src.data.preprocessing import count_samples, write_description
from src.storage.files import open_atomic, remove_file, require_folders, sync_job_files, write_json, write_text
from src.storage.records import collect_provenance, is_finished, reserve_folder
from src.training.build import build_tensor_data, check_batches, prepare_machine
from src.training.failures import record_failure
from src.training.recorder import is_out_of_memory
from src.training.validation.config import find_missing_files, find_wrong_settings
from src.vectorized.batches import StackedBatches
from src.vectorized.job import StackedJob
from src.vectorized.model import StackedModel
from src.vectorized.outputs import add_optimizer_state, extract_weights, make_checkpoint, write_events
from src.vectorized.schedules import Schedule, Schedules
from src.vectorized.spec import StackJobSpec, StackSpec
from src.vectorized.trainer import Training

log = logging.getLogger(__name__)
DTYPES = {"32-true": torch.float32, "64-true": torch.float64}


def train_stack(spec: StackSpec) -> None:
    """Train the jobs of a stack, test them once, and write their folders; record an error in each folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    setup_globals()
    register_resolvers()
    try:
        with require_folders(*(part.folder for part in spec.jobs)):
            is_paused = train_jobs(spec)
    except Exception as error:
        with suppress(OSError):  # the log cannot be written to a full disk
            traceback.print_exc()
        for part in spec.jobs:
            _fail_job(spec, part, error)
        raise SystemExit(1) from error
    if not is_paused:
        remove_file(spec.path)


def train_jobs(spec: StackSpec) -> bool:
    """Train the jobs of a stack, test them once, and write their folders; return True if some of them pause."""
    with sync_job_files():
        valid = list(_filter_valid_jobs(spec))
    if not valid:
        return False
    first: DictConfig = pickle.loads(valid[0][0].config)
    HydraConfig.instance().set_config(first)
    kind = prepare_machine(first)
    data = build_tensor_data(first)
    data.prepare_data()
    data.setup()
    with sync_job_files():
        members = list(_create_jobs(spec, valid, data, first.trainer.max_epochs))
    if not members:
        return False
    check_batches(first, members[0].model, data)
    stack = _build_stack(members, data, kind, spec.eval_batch)
    trainer = first.trainer
    training = Training(
        members, stack, trainer.max_epochs, trainer.check_val_every_n_epoch, spec.path, read_epoch_limit()
    )
    if spec.path.is_file():
        training.resume()
    log.info("%d jobs trained as one: %s on %s", len(members), type(stack.first_model).__name__, type(data).__name__)
    training.run()
    log.info("trained in %.1f s", training.seconds)
    with sync_job_files():
        if training.ended_jobs:
            _write_job_folders(training, spec, kind)
        for member in training.paused_jobs:
            member.recorder.is_paused = True
            _write_job_log(spec, member.folder, f"paused after epoch {training.epoch_limit}")
    with sync_job_files():
        for member in members:
            member.write_final_status()
    return bool(training.paused_jobs)


def _filter_valid_jobs(spec: StackSpec) -> Iterator[tuple[StackJobSpec, dict[str, Any]]]:
    """Generate the jobs with valid settings, with their configs; record the errors of the others in their folders."""
    for part in spec.jobs:
        try:
            _write_job_log(spec, part.folder, "running")
            yield part, _prepare_config(part)
        except InputError as error:
            _fail_job(spec, part, error)


def _create_jobs(
    spec: StackSpec, valid: Sequence[tuple[StackJobSpec, dict[str, Any]]], data: TensorDataModule, epochs: int
) -> Iterator[StackedJob]:
    """Generate the jobs that can start; record the errors of the others in their folders."""
    for part, config in valid:
        try:
            member = StackedJob(config, part.folder, data)
            batches = len(data.make_batches(data.train_set, train=True))
            Schedule(member.model, max(1, batches), epochs)  # raises if the schedule is invalid
            yield member
        except InputError as error:
            _fail_job(spec, part, error)


def _fail_job(spec: StackSpec, job_spec: StackJobSpec, error: Exception) -> None:
    """Record in a job's folder why it failed."""
    if is_finished(job_spec.folder):  # by an earlier start of the stack
        return
    with suppress(StorageError):  # the parent process notices a full disk
        record_failure(job_spec.folder, error, "out of memory" if is_out_of_memory(error) else "error")
        _write_job_log(spec, job_spec.folder, format_error(error))


def _prepare_config(job_spec: StackJobSpec) -> dict[str, Any]:
    """Return a job's config as plain values, and save it in the job's folder as Hydra would.

    Raises:
        InputError: if a setting is invalid.
    """
    config: DictConfig = pickle.loads(job_spec.config)
    HydraConfig.instance().cfg = config  # type: ignore[assignment]  # `set_config` would copy it
    content = reserve_folder(job_spec.folder, config)
    settings = _replace_values(content, job_spec.settings)
    if wrong := find_wrong_settings(settings) + find_missing_files(settings):
        raise InputError("; ".join(wrong))
    return settings


def _replace_values(content: dict[str, Any], settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config with values replaced by those in ``settings``, which are given by their full dotted names."""
    return {
        key: _replace_values(value, settings, f"{prefix}{key}.")
        if isinstance(value, dict)
        else settings.get(f"{prefix}{key}", value)
        for key, value in content.items()
    }


def _build_stack(jobs: Sequence[StackedJob], data: TensorDataModule, device_kind: str, eval_batch: int) -> StackedModel:
    models, trainer = [member.model for member in jobs], jobs[0].cfg["trainer"]
    precision = devices.resolve_precision(trainer["precision"], device_kind)
    feed = StackedBatches(data, [member.order_seed for member in jobs], torch.device(device_kind), DTYPES[precision])
    schedules = Schedules(models, len(feed), trainer["max_epochs"])
    size = min(max(data.batch_size, EVAL_BATCH_SIZE), eval_batch)
    return StackedModel(models, [member.seed for member in jobs], feed, schedules, trainer["log_every_n_steps"], size)


# Writing the jobs' folders


def _write_job_folders(training: Training, spec: StackSpec, device_kind: str) -> None:
    """Test the chosen weights of the jobs that have ended, and write the files of each."""
    stack, data = training.full_stack, training.stack.feed.data
    source = collect_provenance(devices.describe_device(device_kind)) | {
        "stack": {"jobs": stack.k, "log": str(spec.log)},
        "samples": count_samples(data),
    }
    ended = training.ended_jobs
    for member in training.jobs:
        member.history.seconds_before = training.seconds_per_job
    chosen = training.select_chosen_weights()
    stack.load_state(chosen)
    tested = stack.evaluate(data.test_set) if data.test_set is not None else None
    if tested is not None:
        for index, member in ended:
            if member.failure is None and member.cfg.get("test", True):
                acc = None if tested.acc is None else float(tested.acc[index].float())
                confusion = None if tested.confusion is None else tested.confusion[index].cpu()
                member.add_test_metrics(float(tested.loss[index].float()), acc, confusion, data.class_names)
    _write_best_checkpoints(training)
    _write_last_checkpoints(training)
    for _, member in ended:
        with member.capture_write_errors():
            write_json(member.folder / "provenance.json", source)
            if any(member.cfg["logger"].values()):
                write_events(member, type(stack.schedules.distinct[0].optimizer).__name__, len(stack.feed))
            member.recorder.write_metrics()
            outcome = member.failure or member.recorder.format_outcome()
            _write_job_log(spec, member.folder, f"note: {data.note}\n{outcome}" if data.note else outcome)


def _write_best_checkpoints(training: Training) -> None:
    """Write ``best.ckpt`` of each job that has a best epoch; the stack must hold the chosen weights."""
    stack, batches = training.full_stack, len(training.full_stack.feed)
    for index, member in training.ended_jobs:
        if member.recorder.best_model_score is not None:
            epochs = int(member.recorder.chosen["epoch"])
            callbacks = member.get_callback_states(epochs)
            found = make_checkpoint(member.model, extract_weights(stack, index), callbacks, epochs, batches)
            write_description(found, stack.feed.data)
            _save_checkpoint(found, member, "best")


def _write_last_checkpoints(training: Training) -> None:
    """Write ``last.ckpt`` of each job that finished, with everything that is needed to resume from it."""
    stack, batches = training.full_stack, len(training.full_stack.feed)
    stack.load_state(training.last)
    for index, member in training.ended_jobs:
        if member.failure is None:
            epochs = len(member.history.rows)
            found = make_checkpoint(
                member.model, extract_weights(stack, index), member.get_callback_states(), epochs, batches
            )
            write_description(found, stack.feed.data)
            found = add_optimizer_state(found, stack, index, training.last, epochs * batches, member.schedule)
            _save_checkpoint(found, member, "last")


def _save_checkpoint(content: dict[str, Any], job: StackedJob, name: str) -> None:
    with job.capture_write_errors(), open_atomic(job.folder / "checkpoints" / f"{name}.ckpt") as file:
        torch.save(content, file)


def _write_job_log(spec: StackSpec, folder: Path, outcome: str) -> None:
    """Write a job's log: a reference to the stack's log, and the outcome."""
    others = f"{len(spec.jobs) - 1} other job{'s'[: len(spec.jobs) != 2]}"
    reference = f"trained as one with {others}; the log of all: {os.path.relpath(spec.log, folder)}"
    write_text(folder / "train.log", f"{reference}\n{outcome}\n")
