"""The engine of ``hydra/launcher=vectorized``: jobs that differ in numbers alone, trained together as one model."""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.core.checks import optional, require, whole
from src.core.errors import InputError
from src.storage.configs import APART
from src.storage.files import remove, write_json
from src.sweeps.launchers import local
from src.sweeps.launchers.local import Local, asked
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import Watch
from src.sweeps.store.endings import written_together
from src.sweeps.store.jobs import STACK, Job
from src.sweeps.workers.pool import starting
from src.sweeps.workers.resources import Share
from src.vectorized.spec import Part, StackOrder

# Numbers that each job of a stack may have of its own.
OWN = (
    "seed",
    "ckpt_path",
    "data.order_seed",
    "model.init",
    "model.init_std",
    "model.l1",
    "model.l2",
    "model.label_smoothing",
    "optimizer.lr",
    "optimizer.momentum",
    "optimizer.betas",
    "optimizer.eps",
    "optimizer.weight_decay",
    "callbacks.early_stopping.patience",
    "callbacks.early_stopping.min_delta",
)
SHARED_OF_SCHEDULES = ("_target_", "interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")
CHECKS = {"most": optional(whole(1, 100_000)), **local.CHECKS}
FEWEST = 8  # jobs that are worth a process of their own
STATES = "stacks"  # the folder of the states of stacks under way, in the sweep's


class Slice(NamedTuple):
    """Jobs to be trained as one.

    Attributes:
        jobs: which.
        state: where their state is kept.
        eval_batch: samples of an evaluation's batch, at most.
    """

    jobs: list[Job]
    state: Path
    eval_batch: int


class Vectorized(NamedTuple):
    """Trains jobs together that differ in numbers alone; the others through `Local`.

    Attributes:
        local: runs the others, and says how processes are started and share the machine.
        most: jobs trained as one at most; ``None``: as many as memory bears.
    """

    local: Local
    most: int | None

    def warm_up(self) -> None:
        self.local.warm_up()

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        for line in self.without_damaged_states(jobs):
            watch.display.say(line)
        parts = self.local.shares(jobs)
        slices, rest = self.planned(sweep, jobs, parts)
        for line in introduction(slices, rest):
            watch.display.say(line)
        if slices:
            watch.at_once(min(sum(len(each.jobs) for each in slices), len(parts) * len(slices[0].jobs)))
            slice_of = {job.number: each for each in slices for job in each.jobs}

            def order(own: Sequence[Job], share: Share) -> StackOrder:
                return self.order(sweep, slice_of[own[0].number]._replace(jobs=list(own)), share)

            self.local.pool(parts, order, watch).run([each.jobs for each in slices])
        if left := [job for reason in rest.values() for job in reason]:
            self.local.run(sweep, left, watch)

    def without_damaged_states(self, jobs: list[Job]) -> list[str]:
        """Remove states that no job can go on from; a line tells of each."""
        states = sorted({job.stack for job in jobs if job.stack})
        found = asked(starting(self.local.start_method), damages, states) if states else []
        told = {state: damage for state, damage in zip(states, found, strict=True) if damage}
        for state in told:
            remove(state)
        return [f"{damage}; the jobs that would go on from it begin anew" for damage in told.values()]

    def planned(self, sweep: Sweep, jobs: list[Job], parts: list[Share]) -> tuple[list[Slice], dict[str, list[Job]]]:
        """Stacks of jobs, and by the reason those that are none."""
        groups = groups_of(job for job in jobs if not begun_alone(job))
        rest: dict[str, list[Job]] = {}
        if alone := [job for job in jobs if begun_alone(job)]:
            rest["a run of their own that they go on with"] = alone
        several = [group for group in groups if len(group) > 1 or group[0].stack]
        if single := [group[0] for group in groups if group not in several]:
            rest["no other job that is like them"] = single
        slices: list[Slice] = []
        for group, verdict in zip(several, self.verdicts(sweep, several, parts), strict=True):
            if verdict.reason:
                rest.setdefault(verdict.reason, []).extend(group)
                continue
            pieces = 1 if group[0].stack else self.pieces(len(group), verdict.most, len(parts), len(several))
            slices += [
                Slice(own, own[0].stack or state_of(sweep.folder, own), max(1, verdict.evaluated // len(own)))
                for own in cut(group, pieces)
            ]
        return slices, rest

    def pieces(self, jobs: int, bearable: int, processes: int, groups: int) -> int:
        """Into how many stacks so many jobs are cut: so that memory bears each, and no process is idle."""
        needed = math.ceil(jobs / min(bearable, self.most or jobs))
        return max(needed, min(math.ceil(processes / groups), jobs // FEWEST))

    def verdicts(self, sweep: Sweep, groups: list[list[Job]], parts: list[Share]) -> list[Any]:
        """Whether the groups can be stacked, found out by a process of its own."""
        configs = [sweep.configs[group[0].number] for group in groups]
        return asked(starting(self.local.start_method), verdicts, configs, len(parts)) if groups else []

    def order(self, sweep: Sweep, own: Slice, share: Share) -> StackOrder:
        """What to tell the process of a stack."""
        if own.jobs[0].stack is None:  # a state that is there belongs to jobs that have been cleared since
            remove(own.state)
        with written_together():
            for job in own.jobs:
                write_json(job.folder / STACK, {"state": str(own.state.relative_to(sweep.folder))})
        parts = [Part(sweep.configs[job.number], job.folder) for job in own.jobs]
        told = sweep.order(own.jobs[0], share)
        return StackOrder(parts, own.state, own.eval_batch, told.environment, told.command)


def verdicts(configs: list[bytes], processes: int) -> list[Any]:
    """`src.vectorized.eligibility.verdicts`, which imports torch."""
    from src.vectorized.eligibility import verdicts as found

    return found(configs, processes)


def damages(states: list[Path]) -> list[str | None]:
    """Return what is wrong with the files of stacks' states, of each in words; it imports torch."""
    from src.storage.tensors import open_verified

    def damage(state: Path) -> str | None:
        try:
            with open_verified(state):
                return None
        except InputError as error:
            return str(error)

    return [damage(state) for state in states]


def begun_alone(job: Job) -> bool:
    return (job.folder / "checkpoints" / "last.ckpt").is_file() and not job.stack


def groups_of(jobs: Iterator[Job]) -> list[list[Job]]:
    """Jobs that have the same shape and the same way of training, together."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(kind_of(job), []).append(job)
    return list(groups.values())


def kind_of(job: Job) -> str:
    """All that jobs of one stack have in common: their settings but for numbers, and the state that they go on from."""
    settings = {key: value for key, value in job.settings.items() if not key.startswith(APART)}
    shared = {key: value for key, value in settings.items() if not own_number(key, value)}
    shared["model.dropout"] = bool(job.settings.get("model.dropout"))  # without it there is no such layer
    shared["seed"] = job.settings.get("seed") is None  # it is drawn where the job begins
    shared["trainer.accelerator"] = job.settings.get("trainer.accelerator")
    if job.settings.get("model.loss") == "quadratic":  # not linear in it
        shared["model.label_smoothing"] = job.settings.get("model.label_smoothing")
    return json.dumps([shared, str(job.stack)], sort_keys=True, default=str)


def own_number(key: str, value: Any) -> bool:
    """Return whether a job of a stack may have a setting's value of its own: of a schedule all numbers."""
    section, _, name = key.partition(".")
    of_schedule = section == "scheduler" and name not in SHARED_OF_SCHEDULES
    return key in OWN or (of_schedule and not isinstance(value, (list, dict)) and "." not in str(name))


def cut(jobs: list[Job], count: int) -> list[list[Job]]:
    """Jobs in so many parts of nearly equal length."""
    ends = [round(len(jobs) * part / count) for part in range(count + 1)]
    return [jobs[start:end] for start, end in itertools.pairwise(ends)]


def state_of(folder: Path, jobs: list[Job]) -> Path:
    """Where the state of these jobs is kept while they are trained."""
    name = hashlib.sha256("".join(job.identity for job in jobs).encode()).hexdigest()[:12]
    return folder / STATES / f"{jobs[0].number}-{jobs[-1].number}_{name}.ckpt"


def introduction(slices: list[Slice], rest: dict[str, list[Job]]) -> list[str]:
    """What is done how, in words."""
    stacked, lines = sum(len(each.jobs) for each in slices), []
    if slices:
        sizes = ", ".join(f"{count}× {size}" for size, count in Counter(len(each.jobs) for each in slices).items())
        lines.append(
            f"{stacked} jobs in {len(slices)} stack{'s'[: len(slices) != 1]} ({sizes}); pictures when looked at"
        )
    for reason, jobs in rest.items():
        numbers = ", ".join(str(job.number) for job in jobs[:8]) + (" …" if len(jobs) > 8 else "")
        lines.append(f"{len(jobs)} one by one, because of {reason}: {numbers}")
    return lines


def check(settings: dict[str, Any]) -> None:
    """Refuse settings that no sweep can run with.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.launcher.")
