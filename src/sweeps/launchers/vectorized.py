"""The engine of ``hydra/launcher=vectorized``: trains jobs that differ only in numbers together, as one model."""

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

# Numbers that may differ between the jobs of a stack.
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
FEWEST = 8  # jobs per stack at least when a stack is split to use idle processes
STATES = "stacks"  # folder in the sweep's folder for the states of unfinished stacks


class Slice(NamedTuple):
    """A planned stack: jobs to be trained as one model.

    Attributes:
        jobs: the jobs.
        state: the file for the stack's state.
        eval_batch: the maximum number of samples in an evaluation batch.
    """

    jobs: list[Job]
    state: Path
    eval_batch: int


class Vectorized(NamedTuple):
    """Trains jobs that differ only in numbers together, and runs the others by `Local`.

    Attributes:
        local: runs the other jobs; its settings also apply to the processes of stacks.
        most: the maximum number of jobs in a stack; ``None``: as many as fit in memory.
    """

    local: Local
    most: int | None

    def warm_up(self) -> None:
        self.local.warm_up()

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        for line in self.without_damaged_states(jobs):
            watch.display.say(line)
        resources = self.local.shares(jobs)
        stacks, rest = self.planned(sweep, jobs, resources)
        for line in introduction(stacks, rest):
            watch.display.say(line)
        if stacks:
            watch.at_once(min(sum(len(stack.jobs) for stack in stacks), len(resources) * len(stacks[0].jobs)))
            stack_of = {job.number: stack for stack in stacks for job in stack.jobs}

            # The pool may leave out jobs of a stack that cannot run.
            def order(own: Sequence[Job], share: Share) -> StackOrder:
                return self.order(sweep, stack_of[own[0].number]._replace(jobs=list(own)), share)

            self.local.pool(resources, order, watch).run([stack.jobs for stack in stacks])
        if left := [job for reason in rest.values() for job in reason]:
            self.local.run(sweep, left, watch)

    def without_damaged_states(self, jobs: list[Job]) -> list[str]:
        """Remove damaged states of stacks; return a message about each."""
        states = sorted({job.stack for job in jobs if job.stack})
        messages = asked(starting(self.local.start_method), damages, states) if states else []
        damaged = {state: message for state, message in zip(states, messages, strict=True) if message}
        for state in damaged:
            remove(state)
        return [f"{message}; the jobs that would go on from it begin anew" for message in damaged.values()]

    def planned(self, sweep: Sweep, jobs: list[Job], parts: list[Share]) -> tuple[list[Slice], dict[str, list[Job]]]:
        """Plan stacks.

        Returns:
            The stacks, and the jobs that cannot be stacked, by reason.
        """
        groups = groups_of(job for job in jobs if not begun_alone(job))
        rest: dict[str, list[Job]] = {}
        if started_alone := [job for job in jobs if begun_alone(job)]:
            rest["a run of their own that they go on with"] = started_alone
        candidates = [group for group in groups if len(group) > 1 or group[0].stack]
        if single := [group[0] for group in groups if group not in candidates]:
            rest["no other job that is like them"] = single
        stacks: list[Slice] = []
        for group, verdict in zip(candidates, self.verdicts(sweep, candidates, parts), strict=True):
            if verdict.reason:
                rest.setdefault(verdict.reason, []).extend(group)
                continue
            # A stack that is resumed keeps its size: its state is that of all its jobs together.
            count = 1 if group[0].stack else self.pieces(len(group), verdict.most, len(parts), len(candidates))
            stacks += [
                Slice(part, part[0].stack or state_of(sweep.folder, part), max(1, verdict.evaluated // len(part)))
                for part in cut(group, count)
            ]
        return stacks, rest

    def pieces(self, jobs: int, bearable: int, processes: int, groups: int) -> int:
        """Return the number of stacks to split a group into, so that each fits in memory and no process is idle.

        Args:
            jobs: the number of jobs in the group.
            bearable: the maximum number of jobs per stack that fit in memory.
            processes: the number of processes at once.
            groups: the number of groups.
        """
        required = math.ceil(jobs / min(bearable, self.most or jobs))
        return max(required, min(math.ceil(processes / groups), jobs // FEWEST))

    def verdicts(self, sweep: Sweep, groups: list[list[Job]], parts: list[Share]) -> list[Any]:
        """Return for each group whether it can be stacked, computed in a subprocess (it needs torch)."""
        configs = [sweep.configs[group[0].number] for group in groups]
        return asked(starting(self.local.start_method), verdicts, configs, len(parts)) if groups else []

    def order(self, sweep: Sweep, own: Slice, share: Share) -> StackOrder:
        """Make the spec of a stack for its worker process, and record the stack's state file in the jobs' folders.

        Args:
            sweep: the sweep.
            own: the stack.
            share: the worker's resources, as environment variables.
        """
        if own.jobs[0].stack is None:  # an existing state belongs to jobs that have been reset since
            remove(own.state)
        with written_together():
            for job in own.jobs:
                write_json(job.folder / STACK, {"state": str(own.state.relative_to(sweep.folder))})
        members = [Part(sweep.configs[job.number], job.folder) for job in own.jobs]
        spec = sweep.order(own.jobs[0], share)
        return StackOrder(members, own.state, own.eval_batch, spec.environment, spec.command)


def verdicts(configs: list[bytes], processes: int) -> list[Any]:
    """Call `src.vectorized.eligibility.verdicts`; it imports torch: call it in a subprocess."""
    from src.vectorized.eligibility import verdicts as found

    return found(configs, processes)


def damages(states: list[Path]) -> list[str | None]:
    """Return for each file with a stack's state an error message, or ``None`` if it is valid.

    It imports torch: call it in a subprocess.
    """
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
    """Group jobs with the same shapes and the same way of training."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(kind_of(job), []).append(job)
    return list(groups.values())


def kind_of(job: Job) -> str:
    """Return a key of what the jobs of a stack have in common: settings other than numbers, and the state to resume."""
    settings = {key: value for key, value in job.settings.items() if not key.startswith(APART)}
    common = {key: value for key, value in settings.items() if not own_number(key, value)}
    common["model.dropout"] = bool(job.settings.get("model.dropout"))  # with 0 the network has no dropout layer
    common["seed"] = job.settings.get("seed") is None  # a missing seed is drawn when the job starts
    common["trainer.accelerator"] = job.settings.get("trainer.accelerator")
    if job.settings.get("model.loss") == "quadratic":  # this loss is not linear in the label smoothing
        common["model.label_smoothing"] = job.settings.get("model.label_smoothing")
    return json.dumps([common, str(job.stack)], sort_keys=True, default=str)


def own_number(key: str, value: Any) -> bool:
    """Return True if a setting's value may differ between the jobs of a stack, as all numbers of a schedule may."""
    section, _, name = key.partition(".")
    of_schedule = section == "scheduler" and name not in SHARED_OF_SCHEDULES
    return key in OWN or (of_schedule and not isinstance(value, (list, dict)) and "." not in str(name))


def cut(jobs: list[Job], count: int) -> list[list[Job]]:
    """Split jobs into `count` parts of nearly equal length."""
    ends = [round(len(jobs) * part / count) for part in range(count + 1)]
    return [jobs[start:end] for start, end in itertools.pairwise(ends)]


def state_of(folder: Path, jobs: list[Job]) -> Path:
    """Return the path of the file for the state of a stack of these jobs."""
    name = hashlib.sha256("".join(job.identity for job in jobs).encode()).hexdigest()[:12]
    return folder / STATES / f"{jobs[0].number}-{jobs[-1].number}_{name}.ckpt"


def introduction(slices: list[Slice], rest: dict[str, list[Job]]) -> list[str]:
    """Return lines for the user on which jobs are stacked, and why the others are not."""
    stacked, lines = sum(len(stack.jobs) for stack in slices), []
    if slices:
        sizes = ", ".join(f"{count}× {size}" for size, count in Counter(len(stack.jobs) for stack in slices).items())
        lines.append(
            f"{stacked} jobs in {len(slices)} stack{'s'[: len(slices) != 1]} ({sizes}); pictures when looked at"
        )
    for reason, jobs in rest.items():
        numbers = ", ".join(str(job.number) for job in jobs[:8]) + (" …" if len(jobs) > 8 else "")
        lines.append(f"{len(jobs)} one by one, because of {reason}: {numbers}")
    return lines


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    require(settings, CHECKS, "hydra.launcher.")
