"""Train a stack epoch by epoch, with separate best weights, early stopping and failures for each job."""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.core.errors import InputError
from src.models.supervision.logged_module import format_divergence
from src.storage.files import open_atomic
from src.storage.weights import read_checkpoint
from src.vectorized.job import StackedJob
from src.vectorized.model import LossLog, RateLog, StackedModel, StackMetrics
from src.vectorized.networks.parameters import State, copy_rows, select_rows

log = logging.getLogger(__name__)
MAX_ACTIVE_FRACTION = 0.75  # if at most this fraction of a stack still trains, it is replaced by a smaller stack
STATE_KEYS = {"jobs", "progress", "ended", "epoch", "seconds", "last", "best"}  # the keys of a saved state
SECONDS_BETWEEN_SAVES, SAVING_TIME_FRACTION = 5.0, 0.05


class Training:
    """The training of a stack until each of its jobs has finished.

    Args:
        jobs: the jobs.
        stack: the stack of their models, in the same order.
        epochs: largest number of epochs per job.
        validate_every: number of epochs between two validations.
        path: the file for the state of the training while it runs.
        epoch_limit: the epoch after which the training pauses; ``None``: it does not.
    """

    def __init__(
        self,
        jobs: Sequence[StackedJob],
        stack: StackedModel,
        epochs: int,
        validate_every: int,
        path: Path,
        epoch_limit: int | None,
    ) -> None:
        self.jobs, self.full_stack, self.stack = jobs, stack, stack
        self.epochs, self.validate_every, self.path = epochs, validate_every, path
        self.epoch_limit = epochs if epoch_limit is None else min(epochs, epoch_limit)
        self.job_indices = list(range(len(jobs)))  # index of the member in each row of the stack
        self.finished: set[int] = set()  # indices of the finished members
        self.last = select_rows(stack.mutable_state, self.job_indices)  # state of each member at its end
        self.best = {name: values.clone() for name, values in self.last.items() if not name.startswith("update.")}
        self.seconds_before, self.start_time = 0.0, time.monotonic()
        self.save_time, self.save_seconds = -math.inf, 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training, over all starts."""
        return self.seconds_before + time.monotonic() - self.start_time

    @property
    def seconds_per_job(self) -> float:
        """Seconds per job; summed over the jobs they are the seconds of the whole training."""
        return self.seconds / len(self.jobs)

    def run(self) -> None:
        """Train all jobs until they have finished or pause; a state is saved for those that pause."""
        self.drop_finished_jobs()
        while self.stack.epoch < self.epoch_limit and len(self.finished) < len(self.jobs):
            epoch, validated = self.stack.train_epoch(), self.validate()
            results = zip(
                _collect_metrics({"val": validated, "train": epoch.metrics}),
                epoch.logged_losses,
                epoch.logged_rates,
                strict=True,
            )
            improved = [
                self.record_epoch(row, epoch.nonfinite_losses.get(row), *result) for row, result in enumerate(results)
            ]
            rows = [row for row, better in enumerate(improved) if better]
            copy_rows(self.best, [self.job_indices[row] for row in rows], self.stack.mutable_state, rows)
            self.record_finished_jobs(bool(validated))
            if self.stack.epoch < self.epochs:
                self.drop_finished_jobs()
                self.save_state()
        if self.active_rows:
            self.save_time = -math.inf
            self.save_state()

    def validate(self) -> StackMetrics | None:
        samples, epoch = self.stack.feed.data.val_set, self.stack.epoch
        due = epoch % self.validate_every == 0
        return self.stack.evaluate(samples) if due and samples is not None and samples.size else None

    def record_epoch(
        self,
        row: int,
        nonfinite_loss: tuple[int, float] | None,
        metrics: dict[str, float],
        losses: LossLog,
        rates: RateLog,
    ) -> bool:
        """Add an epoch's results to the member in a row; return True if its weights are its best so far."""
        index = self.job_indices[row]
        if index in self.finished:
            return False
        if nonfinite_loss is None and not all(map(math.isfinite, metrics.values())):
            nonfinite_loss = (self.stack.steps, next(value for value in metrics.values() if not math.isfinite(value)))
        if nonfinite_loss is not None:
            self.jobs[index].failure = format_divergence(nonfinite_loss[1], nonfinite_loss[0], self.stack.epoch)
            self.finished.add(index)
            return False
        return self.jobs[index].add_epoch(metrics, losses, rates)

    def record_finished_jobs(self, validated: bool) -> None:
        """Store the final state of the jobs that finish with this epoch."""
        rows = self.active_rows
        stopped = [row for row in rows if validated and self.jobs[self.job_indices[row]].has_stopped]
        rows = stopped if self.stack.epoch < self.epochs else rows
        for row in rows:
            self.jobs[self.job_indices[row]].schedule = self.stack.schedules.get_schedule(row).get_state()
        copy_rows(self.last, [self.job_indices[row] for row in rows], self.stack.mutable_state, rows)
        self.finished |= {self.job_indices[row] for row in rows}

    def drop_finished_jobs(self) -> None:
        """Replace the stack by one of the unfinished jobs, once enough jobs have finished.

        Until then finished jobs keep computing, and their results are ignored.
        """
        rows = [row for row, index in enumerate(self.job_indices) if index not in self.finished]
        # Copying a state takes time: wait until it pays.
        if rows and len(rows) <= MAX_ACTIVE_FRACTION * self.stack.k:
            self.stack = self.stack.select_jobs(rows)
            self.job_indices = [self.job_indices[row] for row in rows]

    def select_chosen_weights(self) -> State:
        """Return each job's chosen weights: the best, or the last if no metric selects."""
        state = {name: self.last[name].clone() for name in self.best}
        selected = [index for index, member in enumerate(self.jobs) if member.recorder.best_model_score is not None]
        copy_rows(state, selected, self.best, selected)
        return state

    # Saving and resuming

    def save_state(self) -> None:
        """Save the state of the training, unless that was done a moment ago.

        At least ``SECONDS_BETWEEN_SAVES`` pass between two saves; more if saving would take too much of the time.
        """
        if time.monotonic() - self.save_time < max(SECONDS_BETWEEN_SAVES, self.save_seconds / SAVING_TIME_FRACTION):
            return
        start = time.monotonic()
        copy_rows(self.last, self.active_indices, self.stack.mutable_state, self.active_rows)
        content = {
            "jobs": [member.folder.name for member in self.jobs],
            "progress": [member.get_progress() for member in self.jobs],
            "ended": sorted(self.finished),
            "epoch": self.stack.epoch,
            "seconds": self.seconds,
            "last": self.full_stack.name_state(self.last),
            "best": self.full_stack.name_state(self.best),
        }
        with open_atomic(self.path) as file:
            torch.save(content, file)
        for index in self.active_indices:
            self.jobs[index].write_progress(self.seconds_per_job)
        self.save_time = time.monotonic()
        self.save_seconds = self.save_time - start

    @property
    def ended_jobs(self) -> list[tuple[int, StackedJob]]:
        """The jobs that have finished or failed, each with its index."""
        return [(index, self.jobs[index]) for index in sorted(self.finished)]

    @property
    def paused_jobs(self) -> list[StackedJob]:
        """The jobs that have not ended, once the training is over."""
        return [self.jobs[index] for index in self.active_indices]

    @property
    def active_rows(self) -> list[int]:
        return [row for row, index in enumerate(self.job_indices) if index not in self.finished]

    @property
    def active_indices(self) -> list[int]:
        return [self.job_indices[row] for row in self.active_rows]

    def resume(self) -> None:
        """Resume from the state that an earlier start of the same jobs saved; start again if that is impossible."""
        try:
            kept = self.read_state()
        except InputError as error:
            log.warning("all jobs start again: %s", error)
            return
        rows = [kept["jobs"].index(member.folder.name) for member in self.jobs]
        for own, saved in ((self.last, kept["last"]), (self.best, kept["best"])):
            self.full_stack.copy_named(own, select_rows(saved, rows))
        self.finished = {index for index, row in enumerate(rows) if row in kept["ended"]}
        self.seconds_before = kept["seconds"]
        for member, row in zip(self.jobs, rows, strict=True):
            member.load_progress(kept["progress"][row], self.seconds_per_job)
        self.stack.resume_from(self.last, kept["epoch"])
        log.info("resuming after epoch %d", kept["epoch"])

    def read_state(self) -> dict[str, Any]:
        """Read the state that an earlier start saved.

        Raises:
            InputError: if it is damaged, from an earlier version, or belongs to other jobs.
        """
        kept = read_checkpoint(self.path)
        known = kept.keys() == STATE_KEYS and self.full_stack.name_state(self.last).keys() <= kept["last"].keys()
        if not known:
            raise InputError(f"{self.path} is damaged or of another version")
        if lost := {member.folder.name for member in self.jobs}.difference(kept["jobs"]):
            raise InputError(f"some of the jobs were trained further without {', '.join(sorted(lost))}")
        return kept


def _collect_metrics(stages: dict[str, StackMetrics | None]) -> list[dict[str, float]]:
    """Return the metrics of each row of the stack: name → value, in float32 as they are logged."""
    columns = {
        f"{stage}/{name}": values.float().tolist()
        for stage, measured in stages.items()
        if measured is not None
        for name, values in (("loss", measured.loss), ("acc", measured.acc))
        if values is not None
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
