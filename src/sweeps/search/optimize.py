"""The search of ``hydra/sweeper=optuna``: a sweep whose jobs are suggested by Optuna, group by group."""

import math
import sys
from collections import Counter
from contextlib import suppress
from itertools import chain

from optuna.trial import FrozenTrial, TrialState

from src.cli.undo import keep_created
from src.core.disk import StorageError
from src.core.errors import InputError
from src.core.formatting import format_count
from src.storage.files import write_json
from src.sweeps.launchers.launch import Engine, report_results
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.search.definition import Definition
from src.sweeps.search.halving import list_survivors, pass_rungs
from src.sweeps.search.importance import estimate_importance, estimate_intervals
from src.sweeps.search.outcome import describe_outcome, describe_trial
from src.sweeps.search.plan import SearchPlan
from src.sweeps.search.space import SearchSpace
from src.sweeps.search.study import STATES, Study
from src.sweeps.store.endings import has_ended_by_itself, resolve_job_folder, to_failed_status
from src.sweeps.store.jobs import Job
from src.sweeps.store.searches import SEARCH_FILE

JOURNAL_FILE = "study.journal"
MAX_ATTEMPTS = 3  # attempts per start of the search for a trial whose process is killed each time
UNSTEADY = "seconds are never the same twice: if this search is stopped and resumed, it may suggest other trials"


class Search:
    """A search for good settings, kept in a sweep's folder.

    Args:
        sweep: the sweep; each trial is one of its jobs.
        engine: runs the jobs.
        plan: the settings of the search itself.
        space: the settings that are searched.

    Raises:
        InputError: if the folder has another search or another sweep.
    """

    def __init__(self, sweep: Sweep, engine: Engine, plan: SearchPlan, space: SearchSpace) -> None:
        self.sweep, self.engine, self.plan, self.space = sweep, engine, plan, space
        self.study = Study(sweep.folder / JOURNAL_FILE, space, plan.sampler, plan.seed)
        definition = Definition(sweep, plan, space)
        self.info, self.rungs = definition.resolve(self.study), definition.rungs
        self.study.check_trials()
        self.jobs = self.get_jobs(self.study.trials)  # the job of each trial

    # Running

    def run(self) -> None:
        """Run the remaining trials in batches, and print the result.

        Raises:
            InputError: if no trial has a result.
        """
        keep_created()
        print(self.summarize_plan(), flush=True)
        self.write_state()  # marks the folder as a search's, even if its journal is lost later
        finished = {job.number for job in self.jobs if job.status["status"] == "finished"}
        # Trials that add no job to the display: failed ones, and those with the settings of an earlier trial.
        gone = len(self.study.trials) - len(self.study.running_trials) - len(finished)
        try:
            expected = max(self.plan.trials, len(self.jobs)) - max(gone, 0)
            with SweepMonitor(self.sweep.folder, self.sweep.check_folder, expected) as watch:
                if finished:
                    watch.add_jobs([job for job in self.jobs if job.number in finished])
                self.run_trials(watch)
        finally:
            self.finish()

    def run_trials(self, watch: SweepMonitor) -> None:
        """Run the trials that are left, group by group."""
        while batch := self.next_batch():
            self.run_batch(batch, watch)

    def summarize_plan(self) -> str:
        plan, done = self.plan, len(self.study.trials) - len(self.study.running_trials)
        before = f"{done} done before, " if done else ""
        left = max(plan.trials, len(self.study.trials)) - done
        kind = plan.sampler if plan.pruner == "none" else f"{plan.sampler}, {plan.pruner}"
        text = f"{self.sweep.folder}: {format_count(plan.trials, 'trial')} ({kind}): {before}{left} to do"
        return f"{text}\n{UNSTEADY}" if "seconds" in plan.objectives else text

    def next_batch(self) -> list[FrozenTrial]:
        """Return the trials of the next group; empty if there are none to run.

        A group that an earlier start has left is filled up, unless some of its trials have their results. It ends at a
        multiple of ``at_once``, wherever the search was stopped before.
        """
        # A suggestion depends on the trials so far: with other groups a resumed search would suggest other trials.
        known, at_once, running = len(self.study.trials), self.plan.at_once, self.study.running_trials
        first = self.study.get_group(running[0])[0].number if running else known
        if not running or running[0].number == first:
            for _ in range(known, min(self.plan.trials, (first // at_once + 1) * at_once)):
                self.study.suggest_trial(first)
        running = self.study.running_trials
        return self.study.get_group(running[0]) if running else []

    def run_batch(self, batch: list[FrozenTrial], monitor: SweepMonitor) -> None:
        """Run the jobs of a group and add their results to the study, in the order of the trials.

        A job that fails by itself counts as failed; one whose process was killed runs again.

        Raises:
            InputError: if a job cannot be run.
        """
        jobs = self.get_jobs(batch)
        self.jobs[batch[0].number :] = jobs
        unique = list({job.number: job for job in jobs}.values())
        monitor.add_jobs(unique)
        finalists, rung_values = self.halve(unique, monitor)
        for _ in range(MAX_ATTEMPTS):
            if left := [job for job in finalists if not has_ended_by_itself(job)]:
                self.engine.run(self.sweep, left, monitor)
        if stuck := [job for job in unique if job.status["status"] not in ("finished", "failed", "pruned")]:
            folders = ", ".join(str(job.folder) for job in stuck)
            raise InputError(f"the search cannot continue without {folders}; see the reason above")
        for trial, job in zip(batch, jobs, strict=True):
            if trial.state == TrialState.RUNNING:
                self.record(trial, job, rung_values[job.number])
        with suppress(StorageError):  # the end of the search reports a lasting error
            self.write_state()

    def record(self, trial: FrozenTrial, job: Job, rung_values: dict[int, float]) -> None:
        """Add the result of a trial whose job has ended to the study."""
        if job.status["status"] == "pruned":
            self.study.record_pruned(trial.number, rung_values)
        else:
            self.study.record_result(trial.number, self.read_values(job))

    def halve(self, jobs: list[Job], monitor: SweepMonitor) -> tuple[list[Job], dict[int, dict[int, float]]]:
        """Run the jobs of a group from rung to rung.

        Returns:
            The jobs that run to their ends, and for each job, by its number, its value at each rung that it reached.
        """
        # All trials of the group take part, also those with results: the decisions are those of the earlier start.
        values: dict[int, dict[int, float]] = {job.number: {} for job in jobs}
        for decision in pass_rungs(self.rungs, [[job] for job in jobs], self.sweep, self.engine, monitor, True):
            jobs = list(chain(*list_survivors(decision)))
            for candidate in (*decision.kept, *decision.pruned):
                if math.isfinite(candidate.mean):
                    values[candidate.jobs[0].number][decision.rung.epochs] = candidate.mean
        return jobs, values

    def get_jobs(self, trials: list[FrozenTrial]) -> list[Job]:
        """Return the job of each trial; trials with equal settings have the same job."""
        return self.sweep.plan_jobs([self.space.make_overrides(trial.params) for trial in trials])

    def read_values(self, job: Job) -> list[float] | None:
        """Return a job's values of the metrics that trials are judged by, of its best epoch.

        ``None`` if the job failed or a value is not finite.

        Raises:
            InputError: if the job was judged by another metric, or has not measured one.
        """
        metrics, names = job.metrics, self.info.judged_by
        if job.status["status"] != "finished":
            return None
        if (metrics.get("monitor"), metrics.get("mode")) != (self.info.metric, self.info.mode):
            theirs = f"{metrics.get('monitor')} and this search by {self.info.metric}"
            raise InputError(f"{job.folder} is judged by {theirs}: they cannot be compared")
        if missing := [name for name in names if name not in metrics]:
            raise InputError(f"{job.folder} has not measured {missing[0]}, one of hydra.sweeper.objectives")
        values = [metrics[name] for name in names]
        return None if any(value is None or not math.isfinite(value) for value in values) else values

    # Results

    def write_state(self, is_final: bool = False) -> None:
        """Write the state of the search to a file for the report, at the end with intervals, which take a second."""
        several = bool(self.info.objectives)
        trials = [describe_trial(*pair, several) for pair in zip(self.study.trials, self.jobs, strict=False)]
        state = {
            **{name: getattr(self.plan, name) for name in ("sampler", "seed", "at_once", "pruner")},
            "planned": self.plan.trials,
            "metric": self.info.metric,
            "mode": self.info.mode,
            "objectives": self.info.objectives,
            "space": {setting.name: str(setting) for setting in self.space.dimensions},
            "made_of": self.info.made_of,
            "trials": trials,
            "importance": estimate_importance(self.study.trials, self.study.directions),
        }
        if is_final:
            state["importance_intervals"] = estimate_intervals(self.study.trials, self.study.directions)
        write_json(self.sweep.folder / SEARCH_FILE, state)

    def finish(self) -> None:
        """Print the result and, if the search was stopped, the command that resumes it.

        Raises:
            InputError: if no trial has a result or one cannot be written, unless the search was stopped.
        """
        if self.sweep.is_gone:
            return
        trials, errors = self.study.trials, list[str]()
        was_stopped = sys.exc_info()[0] is not None
        try:
            self.write_state(is_final=not was_stopped)
        except StorageError as error:
            errors.append(to_failed_status(error)["message"])
        jobs = [resolve_job_folder(job) for job in {job.number: job for job in self.jobs}.values()]
        errors = [*(report_results(self.sweep, jobs) if jobs else []), *errors]
        states = Counter(STATES[trial.state] for trial in trials)
        if states["complete"]:
            print(describe_outcome(trials, self.info, self.space))
        if was_stopped:
            done = f"{len(trials) - states['running']} of {format_count(self.plan.trials, 'trial')} done"
            print("; ".join([*errors, done, f"resume with: {self.sweep.get_resume_command()}"]), flush=True)
            return
        if states["failed"]:
            message = f"{states['failed']} of {format_count(len(trials), 'trial')} failed"
            print(message) if states["complete"] else errors.append(f"{message}: see the reasons above")
        if errors:
            self.sweep.context.callbacks.on_multirun_end(config=self.sweep.config, config_name=None)
            raise InputError("; ".join(errors))
