"""Successive halving: all jobs of a sweep run for a few epochs, the better ones further, only the best to the end.

A job that is stopped at a rung is the beginning of its whole run, and one that goes on is, bit for bit, the run of the
plain sweep: schedules are made for all epochs, and the limit of a rung is no setting. A decision depends on the jobs'
epochs up to the rung alone, not on how often the sweep was stopped or how many jobs run at once.

Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016. The rule
``one_epoch``: Egele et al., The Unreasonable Effectiveness of Early Discarding after One Epoch, arXiv:2404.04111.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from src.cli.undo import should_remove_created
from src.core.errors import InputError
from src.core.formatting import format_count
from src.storage.configs import select_identifying
from src.storage.files import sync_job_files, write_json
from src.storage.schema import DamagedError, read_history
from src.storage.status import make_status
from src.sweeps.launchers.launch import Engine, Part
from src.sweeps.launchers.local import call_in_subprocess
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.search.rungs import Rung, deal_brackets, find_missing_metric, plan_rungs
from src.sweeps.store.aggregate import compute_mean, format_mean_std
from src.sweeps.store.endings import has_ended_by_itself, record_end
from src.sweeps.store.jobs import Job
from src.sweeps.store.runs import is_seed
from src.sweeps.workers.pool import get_mp_context

HALVING_FILE = "halving.json"  # in the sweep's folder: the rungs and who went on
MAX_ATTEMPTS = 3  # attempts per start of the sweep for a job whose process is killed each time


class Candidate(NamedTuple):
    """A setting at a rung: its jobs, which differ only in seeds or folds, and how good they are.

    Attributes:
        jobs: the jobs.
        values: each job's best value of the monitored metric up to the rung, as its table has it; ``None``: it failed
            before the rung.
    """

    jobs: list[Job]
    values: list[float | None]

    @property
    def mean(self) -> float:
        """The mean over the jobs that did not fail; NaN if all did."""
        return compute_mean(value for value in self.values if value is not None)

    @property
    def alive(self) -> list[Job]:
        return [job for job, value in zip(self.jobs, self.values, strict=True) if value is not None]


def rank_candidates(candidates: list[Candidate], mode: str) -> list[Candidate]:
    """Sort candidates, best first: those with jobs that failed last, ties by the number of the first job."""

    def get_sort_key(candidate: Candidate) -> tuple[bool, bool, float, int]:
        mean, number = candidate.mean, candidate.jobs[0].number
        if not math.isfinite(mean):
            return True, True, 0.0, number
        return False, None in candidate.values, -mean if mode == "max" else mean, number

    return sorted(candidates, key=get_sort_key)


class Decision(NamedTuple):
    """Who goes on after a rung, and who does not, best first.

    Attributes:
        rung: the rung.
        metric: the metric that they were compared by.
        mode: "min" or "max".
        kept: those that go on.
        pruned: those that do not.
    """

    rung: Rung
    metric: str
    mode: str
    kept: list[Candidate]
    pruned: list[Candidate]


class Halving:
    """The schedule of ``hydra/sweeper=halving``; implements `src.sweeps.launchers.launch.Schedule`.

    Args:
        settings: the settings of the sweeper.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.rungs: list[Rung] = []
        self.decisions: list[dict[str, Any]] = []  # one for each rung that was passed

    def check(self, sweep: Sweep, jobs: list[Job], start_method: str | None) -> None:
        self.rungs = plan_rungs(self.settings, jobs)
        if should_remove_created() or sweep.is_preview:  # a new sweep; later its jobs' metrics tell
            context, config = get_mp_context(start_method), sweep.configs[jobs[0].number]
            if refusal := call_in_subprocess(context, find_missing_metric, config):
                raise InputError(refusal)

    def plan_parts(self, jobs: list[Job]) -> list[Part]:
        factor, brackets = self.settings["factor"], self.settings["brackets"]
        whole, parts = jobs[0].settings["trainer.max_epochs"], list[Part]()
        for bracket, groups in enumerate(deal_brackets(group_repeats(jobs), len(self.rungs), factor, brackets)):
            start = 0
            for rung in self.rungs[bracket:]:
                parts.append(Part(sum(map(len, groups)), start, rung.epochs))
                start, groups = rung.epochs, groups[: rung.count_kept(len(groups))]
            parts.append(Part(sum(map(len, groups)), start, whole))
        return parts

    def run(self, sweep: Sweep, engine: Engine, jobs: list[Job], watch: SweepMonitor) -> None:
        factor, brackets = self.settings["factor"], self.settings["brackets"]
        for bracket, groups in enumerate(deal_brackets(group_repeats(jobs), len(self.rungs), factor, brackets)):
            left = groups
            for decision in pass_rungs(self.rungs[bracket:], groups, sweep, engine, watch):
                self.write_decision(sweep, decision)
                left = list_survivors(decision)
            run_until(None, sweep, engine, list(chain(*left)), watch)
        spent, whole = sum(job.metrics.get("epochs", 0) for job in jobs), jobs[0].settings["trainer.max_epochs"]
        watch.display.print_message(f"{spent:,} epochs trained, of {whole * len(jobs):,} without halving")

    def write_decision(self, sweep: Sweep, decision: Decision) -> None:
        """Write to the sweep's folder who went on after each rung so far, by the jobs' numbers, best first."""
        kept, pruned = ([job.number for each in part for job in each.jobs] for part in (decision.kept, decision.pruned))
        self.decisions.append({"epochs": decision.rung.epochs, "kept": kept, "pruned": pruned})
        about = {"metric": decision.metric, "mode": decision.mode}
        write_json(sweep.folder / HALVING_FILE, {**self.settings, **about, "rungs": self.decisions})


def pass_rungs(
    rungs: list[Rung],
    groups: list[list[Job]],
    sweep: Sweep,
    engine: Engine,
    watch: SweepMonitor,
    gives_up: bool = False,
) -> Iterator[Decision]:
    """Run groups of jobs, which differ only in seeds or folds, from rung to rung; yield each decision.

    Args:
        rungs: the rungs.
        groups: the jobs.
        sweep: their sweep.
        engine: runs them.
        watch: shows their progress.
        gives_up: see `run_until`.
    """
    for rung in rungs:
        if groups:  # else all of those that went on have failed
            run_until(rung.epochs, sweep, engine, list(chain(*groups)), watch, gives_up)
            decision = decide(rung, groups, watch)
            yield decision
            groups = list_survivors(decision)


def list_survivors(decision: Decision) -> list[list[Job]]:
    """Return the jobs that go on after a decision, without those that have failed."""
    return [candidate.alive for candidate in decision.kept if candidate.alive]


def decide(rung: Rung, groups: list[list[Job]], watch: SweepMonitor) -> Decision:
    """Compare the jobs at a rung, and record which are pruned."""
    metric, mode = find_metric(chain(*groups))
    candidates = [Candidate(group, [read_value(job, rung.epochs, metric, mode) for job in group]) for group in groups]
    ranked = rank_candidates(candidates, mode)
    count = rung.count_kept(len(ranked))
    kept, pruned = ranked[:count], ranked[count:]
    with sync_job_files():
        for place, candidate in enumerate(pruned, start=count + 1):
            why = f"{place} of {len(ranked)} by {metric} after epoch {rung.epochs}, of which {count} went on"
            for job in candidate.alive:
                prune(job, why, watch)
    label, settings = watch.display.progress.get_label(kept[0].jobs[0].number), format_count(len(ranked), "setting")
    best = f"{label}, {metric} {format_mean_std(metric, [kept[0].mean])}" if kept[0].alive else "none, all failed"
    watch.display.print_message(f"after epoch {rung.epochs}: {count} of {settings} go on; best: {best}")
    return Decision(rung, metric, mode, kept, pruned)


def group_repeats(jobs: list[Job]) -> list[list[Job]]:
    """Group the jobs that differ only in their seeds or folds, in the order of their numbers."""
    groups: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.number):
        own = select_identifying(job.settings)
        key = {name: value for name, value in own.items() if not is_seed(name) and name != "data.fold"}
        groups.setdefault(json.dumps(key, sort_keys=True, default=str), []).append(job)
    return list(groups.values())


def run_until(
    epochs: int | None, sweep: Sweep, engine: Engine, jobs: list[Job], watch: SweepMonitor, gives_up: bool = False
) -> None:
    """Run jobs until each has a number of epochs or has ended by itself; ``None``: until its end.

    ``gives_up``: a job of a rung that has been killed again and again counts as failed.

    Raises:
        InputError: if there is such a job otherwise: the others cannot be compared with it.
    """
    sweep.epoch_limit = epochs
    left = [job for job in jobs if not has_reached(job, epochs)]
    for _ in range(MAX_ATTEMPTS if epochs else 1):
        if left:
            engine.run(sweep, left, watch)
        left = [job for job in left if not (has_reached(job, epochs) or has_ended_by_itself(job))]
    sweep.epoch_limit = None
    if left and epochs and not gives_up:
        folders = ", ".join(str(job.folder) for job in left)
        raise InputError(f"the jobs cannot be compared after epoch {epochs} without {folders}; see the reason above")


def has_reached(job: Job, epochs: int | None) -> bool:
    """Return True if a job has a number of epochs, or has finished."""
    if job.status["status"] == "finished":
        return True
    rows = read_rows(job)
    return epochs is not None and bool(rows) and rows[-1]["epoch"] >= epochs


def read_rows(job: Job) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a job; none if they are damaged: then the job writes them again."""
    try:
        return read_history(job.folder / "history.csv")
    except DamagedError:
        return []


def find_metric(jobs: Iterable[Job]) -> tuple[str, str]:
    """Return the metric that the jobs are judged by, and its mode, as the first job with metrics has recorded them.

    Raises:
        InputError: if that job has no validation set.
    """
    metrics = next((found for job in jobs if (found := job.metrics)), {"monitor": "nothing", "mode": "min"})
    if metrics["monitor"] is None:
        raise InputError("hydra/sweeper=halving needs a validation set to compare its jobs by: these have none")
    return metrics["monitor"], metrics["mode"]


def read_value(job: Job, epochs: int, metric: str, mode: str) -> float | None:
    """Return a job's best value of a metric up to an epoch; NaN without any, ``None`` if it failed before."""
    if not has_reached(job, epochs):
        return None
    measured = [row.get(metric, math.nan) for row in read_rows(job) if row["epoch"] <= epochs]
    return (max if mode == "max" else min)(filter(math.isfinite, measured), default=math.nan)


def prune(job: Job, why: str, watch: SweepMonitor) -> None:
    """Set the status of a job that does not go on, unless it has ended by itself."""
    pruned = make_status("pruned", None, why)
    if record_end(job, lambda left: left if has_ended_by_itself(job) else pruned) == pruned:
        watch.record_pruned(job)
