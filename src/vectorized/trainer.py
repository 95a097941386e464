"""A stack's training: epoch by epoch, each job with its own best weights, its own end and its own troubles."""

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
FEW = 0.75  # a stack of which no more than this share still trains is replaced by a smaller one
KEPT = {"jobs", "progress", "ended", "epoch", "seconds", "last", "best"}  # what a state has
SECONDS_BETWEEN_SAVES, SHARE_OF_SAVING = 5.0, 0.05


class Training:
    """Trains members together until each has come to its end.

    Args:
        members: the jobs.
        stack: of their models, in the same order.
        epochs: of each, at most.
        validate_every: epochs between two validations.
        path: where to keep the state of it all while it lasts.
    """

    def __init__(self, members: Sequence[Member], stack: Stack, epochs: int, validate_every: int, path: Path) -> None:
        self.members, self.whole, self.stack = members, stack, stack
        self.epochs, self.validate_every, self.path = epochs, validate_every, path
        self.places = list(range(len(members)))  # the member of each row of the stack
        self.ended: set[int] = set()  # members
        self.last = rows_of(stack.changing, self.places)  # of each member, as it ended
        self.best = {name: values.clone() for name, values in self.last.items() if not name.startswith("update.")}
        self.seconds_before, self.began = 0.0, time.monotonic()
        self.saved, self.cost = -math.inf, 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning, over all starts."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def share(self) -> float:
        """Seconds of each job: their sum is what all of them took."""
        return self.seconds / len(self.members)

    def run(self) -> None:
        """Train all to their end."""
        self.leave_out_the_ended()
        while self.stack.epoch < self.epochs and len(self.ended) < len(self.members):
            epoch, validated = self.stack.train_epoch(), self.validate()
            told = zip(metrics_of({"val": validated, "train": epoch.measured}), epoch.looks, epoch.rates, strict=True)
            improved = [self.take(row, epoch.bad.get(row), *what) for row, what in enumerate(told)]
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
        """Tell a member what came out of an epoch; returns whether its weights are its best."""
        place = self.places[row]
        if place in self.ended:
            return False
        if bad is None and not all(map(math.isfinite, metrics.values())):
            bad = (self.stack.steps, next(value for value in metrics.values() if not math.isfinite(value)))
        if bad is not None:
            self.members[place].trouble = divergence(bad[1], bad[0], self.stack.epoch)
            self.ended.add(place)
            return False
        return self.members[place].add(metrics, looks, rates)

    def see_who_ends(self, validated: bool) -> None:
        """Keep those as they are who have come to their end."""
        rows = self.rows_under_way
        stopped = [row for row in rows if validated and self.members[self.places[row]].has_stopped]
        rows = stopped if self.stack.epoch < self.epochs else rows
        for row in rows:
            self.members[self.places[row]].schedule = self.stack.schedules.of(row).state()
        put(self.last, [self.places[row] for row in rows], self.stack.changing, rows)
        self.ended |= {self.places[row] for row in rows}

    def leave_out_the_ended(self) -> None:
        """Go on with a smaller stack once it is worth it; until then those that have ended run along, unheeded."""
        rows = [row for row, place in enumerate(self.places) if place not in self.ended]
        if rows and len(rows) <= FEW * self.stack.k:
            self.stack = self.stack.only(rows)
            self.places = [self.places[row] for row in rows]

    def chosen(self) -> State:
        """The weights that each is judged by: the best, or the last where nothing selects."""
        state = {name: self.last[name].clone() for name in self.best}
        selected = [place for place, member in enumerate(self.members) if member.kept.best_model_score is not None]
        put(state, selected, self.best, selected)
        return state

    # Being stopped and going on

    def save(self) -> None:
        """Keep the state of it all, unless that was done a moment ago."""
        if time.monotonic() - self.saved < max(SECONDS_BETWEEN_SAVES, self.cost / SHARE_OF_SAVING):
            return
        began = time.monotonic()
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
        for place in self.places_under_way:
            self.members[place].tell(self.share)
        self.saved = time.monotonic()
        self.cost = self.saved - began

    @property
    def rows_under_way(self) -> list[int]:
        return [row for row, place in enumerate(self.places) if place not in self.ended]

    @property
    def places_under_way(self) -> list[int]:
        return [self.places[row] for row in self.rows_under_way]

    def go_on(self) -> None:
        """Take over what an earlier start of the same jobs has kept; where that will not do, all begin anew."""
        try:
            kept = self.read_kept()
        except InputError as error:
            log.warning("all begin anew: %s", error)
            return
        rows = [kept["jobs"].index(member.folder.name) for member in self.members]
        self.last, self.best = rows_of(kept["last"], rows), rows_of(kept["best"], rows)
        self.ended = {place for place, row in enumerate(rows) if row in kept["ended"]}
        self.seconds_before = kept["seconds"]
        for member, row in zip(self.members, rows, strict=True):
            member.go_on_from(kept["progress"][row], self.share)
        self.stack.go_on_from(self.last, kept["epoch"])
        log.info("going on after epoch %d", kept["epoch"])

    def read_kept(self) -> dict[str, Any]:
        """Read the state that an earlier start has kept.

        Raises:
            InputError: if it is damaged, of an earlier version, or of other jobs.
        """
        kept = read_checkpoint(self.path)
        if kept.keys() != KEPT:
            raise InputError(f"{self.path} is damaged or of another version")
        if lost := {member.folder.name for member in self.members}.difference(kept["jobs"]):
            raise InputError(f"some of them went on without {', '.join(sorted(lost))}")
        return kept


def metrics_of(stages: dict[str, Measured | None]) -> list[dict[str, float]]:
    """The metrics of each row of the stack by their names, in float32 as they are logged."""
    columns = {
        f"{stage}/{name}": values.float().tolist()
        for stage, measured in stages.items()
        if measured is not None
        for name, values in (("loss", measured.loss), ("acc", measured.acc))
        if values is not None
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
