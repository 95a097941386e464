"""A search that never waits: a trial is suggested, and compared with those before it, as soon as a worker is free.

Which trials are known then depends on the workers, so that another start may try and prune others.

Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, in the form of Optuna's and Ray Tune's: a
trial that is not among the best of a rung when it gets there is pruned for good.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from optuna.trial import FrozenTrial

from src.core.disk import StorageError
from src.storage.status import Status
from src.sweeps.launchers.local import LocalEngine
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.search.halving import has_reached, prune, read_value
from src.sweeps.search.optimize import MAX_ATTEMPTS, Search
from src.sweeps.store.endings import has_ended_by_itself
from src.sweeps.store.jobs import Job

PROMISE = "as soon as a worker is free a trial is suggested and compared: another start may come to other trials"


class AsynchronousSearch(Search):
    """A search of ``hydra.sweeper.pruner=asha``, on this machine."""

    engine: LocalEngine

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: dict[int, dict[int, float]] = {rung.epochs: {} for rung in self.rungs}  # by rung: each job's value
        self.waiting: deque[Job] = deque()  # jobs of running trials that go on when a worker is free
        self.attempts: Counter[int] = Counter()  # by job, the starts since it last got further

    def summarize_plan(self) -> str:
        return f"{super().summarize_plan()}\n{PROMISE}"

    def run_trials(self, watch: SweepMonitor) -> None:
        self.watch = watch
        for job in self.jobs:
            self.note_rungs(job)
        for job in {job.number: job for _, job in self.list_running()}.values():  # left by an earlier start
            watch.add_jobs([job])
            status = job.status
            if has_ended_by_itself(job) or status["status"] in ("paused", "pruned"):
                self.handle_end(job, status)
            else:
                self.waiting.append(job)
        self.engine.run_stream(self.sweep, self.draw_jobs(), watch, self.handle_end)
        self.sweep.epoch_limit = None

    def draw_jobs(self) -> Iterator[Job | None]:
        """Yield the job to run next, whenever a worker is free; ``None``: none before another has ended."""
        while self.study.running_trials or len(self.study.trials) < self.plan.trials:
            while not self.waiting and len(self.study.trials) < self.plan.trials:
                self.add_trial()
            job = self.waiting.popleft() if self.waiting else None
            if job is not None:
                self.sweep.epoch_limit = self.find_limit(job)
                self.attempts[job.number] += 1
            yield job

    def add_trial(self) -> None:
        """Suggest a trial; one with the settings of an earlier trial has its result, or waits for it."""
        self.study.suggest_trial()
        trial = self.study.trials[-1]
        (job,) = self.get_jobs([trial])
        is_new = all(job.number != other.number for other in self.jobs)
        self.jobs.append(job)
        self.watch.add_jobs([job])
        if is_new:
            self.waiting.append(job)
        elif job.number not in {other.number for _, other in self.list_running()[:-1]}:
            self.record(trial, job, self.list_values(job))

    def list_running(self) -> list[tuple[FrozenTrial, Job]]:
        return [(trial, self.jobs[trial.number]) for trial in self.study.running_trials]

    def find_limit(self, job: Job) -> int | None:
        """Return the epochs of the first rung that a job has not reached; ``None``: it runs to its end."""
        return next((rung.epochs for rung in self.rungs if not has_reached(job, rung.epochs)), None)

    def note_rungs(self, job: Job) -> None:
        """Note the values of a job at the rungs that it has reached."""
        for epochs, values in self.seen.items():
            value = read_value(job, epochs, self.info.metric, self.info.mode)
            if value is not None and job.number not in values:
                values[job.number] = value
                self.attempts[job.number] = 0

    def list_values(self, job: Job) -> dict[int, float]:
        """Return a job's values at the rungs that it has reached, by their epochs; only those that are finite."""
        found = {epochs: values[job.number] for epochs, values in self.seen.items() if job.number in values}
        return {epochs: value for epochs, value in found.items() if math.isfinite(value)}

    def handle_end(self, job: Job, status: Status) -> None:
        """Decide whether a job whose process has ended goes on; else add the result of its trials to the study."""
        if status["status"] == "interrupted":  # the search is being stopped
            return
        self.note_rungs(job)
        was_killed = status["status"] == "failed" and not has_ended_by_itself(job)
        if (status["status"] == "paused" and self.is_among_best(job)) or (
            was_killed and self.attempts[job.number] < MAX_ATTEMPTS
        ):
            self.waiting.append(job)
            return
        if status["status"] == "paused":
            prune(job, "it was not among the best of its last rung when it got there", self.watch)
        for trial, own in self.list_running():
            if own.number == job.number:
                self.record(trial, job, self.list_values(job))
        with suppress(StorageError):  # the end of the search reports a lasting error
            self.write_state()

    def is_among_best(self, job: Job) -> bool:
        """Return True if a job is, at its last rung, among the best ``1 / factor`` of those that have been there."""
        last = max(epochs for epochs, values in self.seen.items() if job.number in values)
        sign, values = -1 if self.info.mode == "max" else 1, self.seen[last]
        better = sum(sign * value < sign * values[job.number] for value in values.values())
        return math.isfinite(values[job.number]) and better < max(1, len(values) // self.plan.factor)
