"""The engine of ``hydra/launcher=vectorized``: trains similar jobs together, as one model."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.core.checks import allow_integer, allow_null_or, check_settings
from src.storage.configs import is_identifying
from src.storage.files import remove_file, sync_job_files, write_json
from src.sweeps.launchers import local
from src.sweeps.launchers.local import LocalEngine, call_in_subprocess
from src.sweeps.launchers.stack_states import (
    find_damaged_states,
    make_state_path,
    move_to_state,
    remove_unused_states,
)
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.store.jobs import STACK_FILE, Job
from src.sweeps.workers.pool import get_mp_context
from src.sweeps.workers.resources import Resources
from src.training.failures import record_failure
from src.vectorized.costs import Eligibility, StepCost, choose_counts, join_kinds
from src.vectorized.spec import StackJobSpec, StackSpec

# Numbers that may differ between the jobs of a stack.
STACKABLE_NUMBERS = (
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
# Settings of the networks' shapes, which are padded where that pays.
SHAPES = (
    "model.hidden_size",
    "model.activation",
    "model.batch_norm",
    "model.dropout",
    "model.output_bias",
    "model.channels",
)
SHAPED_MODELS = ("src.models.mlp.MLP", "src.models.cnn.CNN")
SHARED_SCHEDULE_SETTINGS = ("_target_", "interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")
CHECKS = {"most": allow_null_or(allow_integer(1, 100_000)), **local.CHECKS}


class StackTask(StackSpec):
    """A stack that a worker trains; implements `src.sweeps.workers.worker.Spec`."""

    def run(self) -> bool:
        """Train the stack and return True; the status of each job is in its folder."""
        from src.vectorized.entry import train_stack  # imports torch, which the sweep's main process does not need

        train_stack(self)
        return True

    def refuse(self, error: Exception) -> None:
        for job in self.jobs:
            record_failure(job.folder, error)


class PlannedStack(NamedTuple):
    """A planned stack: jobs to be trained as one model.

    Attributes:
        jobs: the jobs.
        state: the file for the stack's state.
        eval_batch: the maximum number of samples in an evaluation batch.
        padding: the fraction of the weights that are zeros, added to give all networks one shape.
    """

    jobs: list[Job]
    state: Path
    eval_batch: int
    padding: float


class StackableJobs(NamedTuple):
    """Jobs that can be trained in one stack, or in several.

    Attributes:
        jobs: the jobs.
        max_jobs: the maximum number of jobs per stack that fit in memory.
        max_eval_samples: the maximum number of samples of an evaluation that fit, summed over all jobs.
        cost: what a step of a padded job costs.
        padding: the fraction of the weights that are zeros, added to give all networks one shape.
    """

    jobs: list[Job]
    max_jobs: int
    max_eval_samples: int
    cost: StepCost
    padding: float

    @property
    def is_stack(self) -> bool:
        """True if there are several jobs, or one that resumes from a stack's state."""
        return len(self.jobs) > 1 or self.jobs[0].stack is not None


class VectorizedEngine(NamedTuple):
    """Trains similar jobs together, and runs the others by `LocalEngine`.

    Attributes:
        local: runs the other jobs; its settings also apply to the processes of stacks.
        most: the maximum number of jobs in a stack; ``None``: as many as fit in memory.
    """

    local: LocalEngine
    most: int | None

    def warm_up(self) -> None:
        self.local.warm_up()

    def run(self, sweep: Sweep, jobs: list[Job], watch: SweepMonitor) -> None:
        for line in self.remove_damaged_states(jobs):
            watch.display.print_message(line)
        resources = self.local.compute_resources(jobs)
        stacks, rest = self.plan_stacks(sweep, jobs, resources)
        for line in describe_plan(stacks, rest):
            watch.display.print_message(line)
        if stacks:
            watch.set_parallel_jobs(min(sum(len(stack.jobs) for stack in stacks), len(resources) * len(stacks[0].jobs)))
            stack_of = {job.number: stack for stack in stacks for job in stack.jobs}

            # The pool may leave out jobs of a stack that cannot run.
            def order(own: Sequence[Job], share: Resources) -> StackTask:
                return self.make_spec(sweep, stack_of[own[0].number]._replace(jobs=list(own)), share)

            self.local.make_pool(resources, order, watch).run([stack.jobs for stack in stacks])
            remove_unused_states(sweep.folder)
        if left := [job for reason in rest.values() for job in reason]:
            self.local.run(sweep, left, watch)

    def remove_damaged_states(self, jobs: list[Job]) -> list[str]:
        """Remove damaged states of stacks; return a message about each."""
        states = sorted({job.stack for job in jobs if job.stack})
        messages = (
            call_in_subprocess(get_mp_context(self.local.start_method), find_damaged_states, states) if states else []
        )
        damaged = {state: message for state, message in zip(states, messages, strict=True) if message}
        for state in damaged:
            remove_file(state)
        return [f"{message}; the jobs that would resume from it start again" for message in damaged.values()]

    def plan_stacks(
        self, sweep: Sweep, jobs: list[Job], resources: list[Resources]
    ) -> tuple[list[PlannedStack], dict[str, list[Job]]]:
        """Plan stacks.

        Returns:
            The stacks, and the jobs that cannot be stacked, by reason.
        """
        rest: dict[str, list[Job]] = {}
        if started_alone := [job for job in jobs if _has_started_alone(job)]:
            rest["separate runs that they resume"] = started_alone
        families = _group_jobs((job for job in jobs if not _has_started_alone(job)), _compute_family_key)
        candidates = [family for family in families if len(family) > 1 or family[0].stack]
        single = [family[0] for family in families if family not in candidates]
        kinds = [_group_jobs(iter(family), _compute_group_key) for family in candidates]
        verdicts = iter(self.check_groups(sweep, [kind for family in kinds for kind in family], resources))
        groups: list[StackableJobs] = []
        for family in kinds:
            checked = [(kind, next(verdicts)) for kind in family]
            for kind, verdict in checked:
                if verdict.reason:
                    rest.setdefault(verdict.reason, []).extend(kind)
            groups += _join_kinds([each for each in checked if not each[1].reason])
        single += [group.jobs[0] for group in groups if not group.is_stack]
        if single:
            rest["no similar job"] = single
        groups = [group for group in groups if group.is_stack]
        stacks: list[PlannedStack] = []
        for group, count in zip(groups, self.count_stacks(groups, len(resources)), strict=True):
            stacks += [
                PlannedStack(
                    part,
                    make_state_path(sweep.folder, part),
                    max(1, group.max_eval_samples // len(part)),
                    group.padding,
                )
                for part in _split_jobs(group.jobs, count)
            ]
        return stacks, rest

    def count_stacks(self, groups: list[StackableJobs], processes: int) -> list[int]:
        """Return into how many stacks to split each group, so that each fits in memory and no process is idle.

        Args:
            groups: the groups.
            processes: the number of processes at once.
        """
        # A stack that is resumed keeps its size: its state is that of all its jobs together.
        new = [group for group in groups if not group.jobs[0].stack]
        required = [math.ceil(len(group.jobs) / min(group.max_jobs, self.most or len(group.jobs))) for group in new]
        jobs = [len(group.jobs) for group in new]
        counts = iter(choose_counts([group.cost for group in new], jobs, required, processes))
        return [1 if group.jobs[0].stack else next(counts) for group in groups]

    def check_groups(self, sweep: Sweep, groups: list[list[Job]], resources: list[Resources]) -> list[Eligibility]:
        """Return for each group whether it can be stacked, computed in a subprocess (it needs torch)."""
        configs = [sweep.configs[group[0].number] for group in groups]
        return (
            call_in_subprocess(get_mp_context(self.local.start_method), _check_stackable, configs, len(resources))
            if groups
            else []
        )

    def make_spec(self, sweep: Sweep, stack: PlannedStack, resources: Resources) -> StackTask:
        """Make the spec of a stack for its worker process, and record the stack's state file in the jobs' folders.

        Args:
            sweep: the sweep.
            stack: the stack.
            resources: the worker's resources, as environment variables.
        """
        move_to_state(stack.jobs[0].stack, stack.state)
        with sync_job_files():
            for job in stack.jobs:
                write_json(job.folder / STACK_FILE, {"state": str(stack.state.relative_to(sweep.folder))})
        members = [StackJobSpec(sweep.configs[job.number], job.folder, job.settings) for job in stack.jobs]
        spec = sweep.make_spec(stack.jobs[0], resources)
        return StackTask(members, stack.state, stack.eval_batch, spec.environment, spec.command)


def _check_stackable(configs: list[bytes], processes: int) -> list[Eligibility]:
    """Call `src.vectorized.eligibility.check_configs`; it imports torch: call it in a subprocess."""
    from src.vectorized.eligibility import check_configs as found

    return found(configs, processes)


def _has_started_alone(job: Job) -> bool:
    return (job.folder / "checkpoints" / "last.ckpt").is_file() and not job.stack


def _group_jobs(jobs: Iterator[Job], compute_key: Callable[[Job], str]) -> list[list[Job]]:
    """Group jobs by a key."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(compute_key(job), []).append(job)
    return list(groups.values())


def _join_kinds(kinds: list[tuple[list[Job], Eligibility]]) -> list[StackableJobs]:
    """Join kinds of jobs where padding their networks costs less than a separate stack."""
    costs, counts = [verdict.cost for _, verdict in kinds], [len(jobs) for jobs, _ in kinds]
    joined = []
    for group in join_kinds(costs, counts, always=bool(kinds) and kinds[0][0][0].stack is not None):
        jobs = sorted((job for index in group.members for job in kinds[index][0]), key=lambda job: job.number)
        max_jobs = min(kinds[index][1].max_jobs for index in group.members)
        max_eval_samples = min(kinds[index][1].max_eval_samples for index in group.members)
        own = sum(counts[index] * costs[index].parameters for index in group.members)
        padding = 1 - own / max(1, group.jobs * group.cost.parameters)
        joined.append(StackableJobs(jobs, max_jobs, max_eval_samples, group.cost, padding))
    return joined


def _compute_family_key(job: Job) -> str:
    """Return a key of what jobs have in common that padding could join in one stack: all but their networks' shapes."""
    settings = {key: value for key, value in job.settings.items() if is_identifying(key, job.settings)}
    shaped = SHAPES if settings.get("model._target_") in SHAPED_MODELS else ()
    common = {key: value for key, value in settings.items() if not can_differ(key, value) and key not in shaped}
    common["depth"] = bool(
        settings.get("model.hidden_size", True) != []
    )  # without a hidden layer there is nothing to pad
    common["blocks"] = len(settings.get("model.channels") or ())
    common["model.dropout"] = None if shaped else bool(job.settings.get("model.dropout"))
    common["seed"] = job.settings.get("seed") is None  # a missing seed is drawn when the job starts
    common["trainer.accelerator"] = job.settings.get("trainer.accelerator")
    if job.settings.get("model.loss") == "quadratic":  # this loss is not linear in the label smoothing
        common["model.label_smoothing"] = job.settings.get("model.label_smoothing")
    return json.dumps([common, str(job.stack)], sort_keys=True, default=str)


def _compute_group_key(job: Job) -> str:
    """Return a key of the networks' shape, among jobs of the same family."""
    shape = {key: job.settings.get(key) for key in SHAPES if key != "model.dropout"}
    return json.dumps([shape, bool(job.settings.get("model.dropout"))], sort_keys=True, default=str)


def can_differ(key: str, value: Any) -> bool:
    """Return True if a setting's value may differ between the jobs of a stack, as all numbers of a schedule may."""
    section, _, name = key.partition(".")
    of_schedule = section == "scheduler" and name not in SHARED_SCHEDULE_SETTINGS
    return key in STACKABLE_NUMBERS or (of_schedule and not isinstance(value, (list, dict)) and "." not in str(name))


def _split_jobs(jobs: list[Job], count: int) -> list[list[Job]]:
    """Deal jobs out to `count` parts of nearly equal length; neighbours, which are often alike, to different ones."""
    return [jobs[part::count] for part in range(count)]


def describe_plan(stacks: list[PlannedStack], rest: dict[str, list[Job]]) -> list[str]:
    """Return lines for the user on which jobs are stacked, and why the others are not."""
    stacked, lines = sum(len(stack.jobs) for stack in stacks), []
    if stacks:
        sizes = ", ".join(f"{count}× {size}" for size, count in Counter(len(stack.jobs) for stack in stacks).items())
        padding = sum(stack.padding * len(stack.jobs) for stack in stacks) / stacked
        added = f", {padding:.0%} padding" if padding >= 0.005 else ""
        count = f"{len(stacks)} stack{'s'[: len(stacks) != 1]}"
        lines.append(f"{stacked} jobs in {count} ({sizes}{added}); figures are drawn on demand")
    for reason, jobs in rest.items():
        numbers = ", ".join(str(job.number) for job in jobs[:8]) + (" …" if len(jobs) > 8 else "")
        lines.append(f"{len(jobs)} run separately, because of {reason}: {numbers}")
    return lines


def check(settings: dict[str, Any]) -> None:
    """Refuse invalid launcher settings.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    check_settings(settings, CHECKS, "hydra.launcher.")
