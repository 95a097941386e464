"""Train a stack epoch by epoch, with separate best weights, early stopping and failures for each job."""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from src.core.errors import InputError
from src.models.base import divergence
from src.storage.files import open_atomic
from src.training.checkpoints import read_checkpoint
from src.vectorized.job import Member
from src.vectorized.model import Looks, Measured, Rates, Stack, State, put, rows_of

log = logging.getLogger(__name__)
FEW = 0.75  # if at most this fraction of a stack still trains, it is replaced by a smaller stack
KEPT = {"jobs", "progress", "ended", "epoch", "seconds", "last", "best"}  # the keys of a saved state
SECONDS_BETWEEN_SAVES, SHARE_OF_SAVING = 5.0, 0.05


class Training:
    """The training of a stack until each of its jobs has finished.

    Args:
        members: the jobs.
        stack: the stack of their models, in the same order.
        epochs: largest number of epochs per job.
        validate_every: number of epochs between two validations.
        path: the file for the state of the training while it runs.
    """

    def __init__(self, members: Sequence[Member], stack: Stack, epochs: int, validate_every: int, path: Path) -> None:
        self.members, self.whole, self.stack = members, stack, stack
        self.epochs, self.validate_every, self.path = epochs, validate_every, path
        self.places = list(range(len(members)))  # index of the member in each row of the stack
        self.ended: set[int] = set()  # indices of the finished members
        self.last = rows_of(stack.changing, self.places)  # state of each member at its end
        self.best = {name: values.clone() for name, values in self.last.items() if not name.startswith("update.")}
        self.seconds_before, self.began = 0.0, time.monotonic()
        self.saved, self.cost = -math.inf, 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training, over all starts."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def share(self) -> float:
        """Seconds per job; summed over the jobs they are the seconds of the whole training."""
        return self.seconds / len(self.members)

    def run(self) -> None:
        """Train all jobs until they have finished."""
        self.leave_out_the_ended()
        while self.stack.epoch < self.epochs and len(self.ended) < len(self.members):
            epoch, validated = self.stack.train_epoch(), self.validate()
            results = zip(
                metrics_of({"val": validated, "train": epoch.measured}), epoch.looks, epoch.rates, strict=True
            )
            improved = [self.take(row, epoch.bad.get(row), *result) for row, result in enumerate(results)]
            rows = [row for row, better in enumerate(improved) if better]
            put(self.best, [self.places[row] for row in rows], self.stack.changing, rows)
            self.see_who_ends(bool(validated))
            if self.stack.epoch < self.epochs:
                self.leave_out_the_ended()
                self.save()

    def validate(self) -> Measured | None:
        samples, epoch = self.stack.feed.data.val_set, self.stack.epoch
        due = epoch % self.validate_every == 0
        return self.stack.evaluate(samples) if due and samples is not None and samples.size else None

    def take(
        self, row: int, bad: tuple[int, float] | None, metrics: dict[str, float], looks: Looks, rates: Rates
    ) -> bool:
        """Add an epoch's results to the member in a row; return True if its weights are its best so far."""
        index = self.places[row]
        if index in self.ended:
            return False
        if bad is None and not all(map(math.isfinite, metrics.values())):
            bad = (self.stack.steps, next(value for value in metrics.values() if not math.isfinite(value)))
        if bad is not None:
            self.members[index].trouble = divergence(bad[1], bad[0], self.stack.epoch)
            self.ended.add(index)
            return False
        return self.members[index].add(metrics, looks, rates)

    def see_who_ends(self, validated: bool) -> None:
        """Store the final state of the jobs that finish with this epoch."""
        rows = self.rows_under_way
        stopped = [row for row in rows if validated and self.members[self.places[row]].has_stopped]
        rows = stopped if self.stack.epoch < self.epochs else rows
        for row in rows:
            self.members[self.places[row]].schedule = self.stack.schedules.of(row).state()
        put(self.last, [self.places[row] for row in rows], self.stack.changing, rows)
        self.ended |= {self.places[row] for row in rows}

    def leave_out_the_ended(self) -> None:
        """Replace the stack by one of the unfinished jobs, once enough jobs have finished.

        Until then finished jobs keep computing, and their results are ignored.
        """
        rows = [row for row, index in enumerate(self.places) if index not in self.ended]
        # Copying a state takes time: wait until it pays.
        if rows and len(rows) <= FEW * self.stack.k:
            self.stack = self.stack.only(rows)
            self.places = [self.places[row] for row in rows]

    def chosen(self) -> State:
        """Return each job's chosen weights: the best, or the last if no metric selects."""
        state = {name: self.last[name].clone() for name in self.best}
        selected = [index for index, member in enumerate(self.members) if member.kept.best_model_score is not None]
        put(state, selected, self.best, selected)
        return state

    # Saving and resuming

    def save(self) -> None:
        """Save the state of the training, unless that was done a moment ago.

        At least ``SECONDS_BETWEEN_SAVES`` pass between two saves; more if saving would take too much of the time.
        """
        if time.monotonic() - self.saved < max(SECONDS_BETWEEN_SAVES, self.cost / SHARE_OF_SAVING):
            return
        start = time.monotonic()
        put(self.last, self.places_under_way, self.stack.changing, self.rows_under_way)
        content = {
            "jobs": [member.folder.name for member in self.members],
            "progress": [member.progress() for member in self.members],
            "ended": sorted(self.ended),
            "epoch": self.stack.epoch,
            "seconds": self.seconds,
            "last": self.last,
            "best": self.best,
        }
        with open_atomic(self.path) as file:
            torch.save(content, file)
        for index in self.places_under_way:
            self.members[index].tell(self.share)
        self.saved = time.monotonic()
        self.cost = self.saved - start

    @property
    def rows_under_way(self) -> list[int]:
        return [row for row, index in enumerate(self.places) if index not in self.ended]

    @property
    def places_under_way(self) -> list[int]:
        return [self.places[row] for row in self.rows_under_way]

    def go_on(self) -> None:
        """Resume from the state that an earlier start of the same jobs saved; start again if that is impossible."""
        try:
            kept = self.read_kept()
        except InputError as error:
            log.warning("all begin anew: %s", error)
            return
        rows = [kept["jobs"].index(member.folder.name) for member in self.members]
        self.last, self.best = rows_of(kept["last"], rows), rows_of(kept["best"], rows)
        self.ended = {index for index, row in enumerate(rows) if row in kept["ended"]}
        self.seconds_before = kept["seconds"]
        for member, row in zip(self.members, rows, strict=True):
            member.go_on_from(kept["progress"][row], self.share)
        self.stack.go_on_from(self.last, kept["epoch"])
        log.info("going on after epoch %d", kept["epoch"])

    def read_kept(self) -> dict[str, Any]:
        """Read the state that an earlier start saved.

        Raises:
            InputError: if it is damaged, from an earlier version, or belongs to other jobs.
        """
        kept = read_checkpoint(self.path)
        if kept.keys() != KEPT:
            raise InputError(f"{self.path} is damaged or of another version")
        if lost := {member.folder.name for member in self.members}.difference(kept["jobs"]):
            raise InputError(f"some of them went on without {', '.join(sorted(lost))}")
        return kept


def metrics_of(stages: dict[str, Measured | None]) -> list[dict[str, float]]:
    """Return the metrics of each row of the stack: name → value, in float32 as they are logged."""
    columns = {
        f"{stage}/{name}": values.float().tolist()
        for stage, measured in stages.items()
        if measured is not None
        for name, values in (("loss", measured.loss), ("acc", measured.acc))
        if values is not None
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
