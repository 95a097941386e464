"""The search of ``hydra/sweeper=optuna``: a sweep whose jobs are suggested by Optuna from the results so far."""

import json
import math
import pickle
import shlex
import sys
from contextlib import suppress
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from src.cli.overrides import refuse_repeated_settings
from src.cli.undo import keep_created
from src.core.disk import StorageError
from src.core.errors import InputError
from src.core.formatting import format_count, format_setting_value
from src.storage.configs import select_identifying
from src.storage.files import read_json, write_json
from src.sweeps.launchers.launch import Engine, find_refusal, open_sweep, report_results
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.report.search import SEARCH_FILE
from src.sweeps.search.plan import SearchPlan, check_search_settings
from src.sweeps.search.space import SearchSpace, read_space
from src.sweeps.search.study import STATES, Study, StudyInfo
from src.sweeps.store.aggregate import format_mean_std
from src.sweeps.store.endings import has_ended_by_itself, resolve_job_folder, to_failed_status
from src.sweeps.store.jobs import JOB_FILE, Job, describe_job

JOURNAL_FILE = "study.journal"
MAX_ATTEMPTS = 3  # attempts per start of the search for a trial whose process is killed each time
MISSING = "no value"


def run_search(launcher: Any, arguments: list[str], settings: dict[str, Any]) -> None:
    """Run a search, or the rest of one that was stopped.

    Args:
        launcher: one of this project's launchers, with its sweep.
        arguments: the overrides of the command line.
        settings: the settings of the sweeper.

    Raises:
        InputError: if a setting is invalid, or no trial has a result.
    """
    check_search_settings(settings)
    plan, preset = {key: value for key, value in settings.items() if key != "params"}, settings["params"] or {}
    sweep: Sweep = launcher.sweep
    if sweep.config.rerun is not None:
        hint = "its trials depend on earlier ones; start a new search with another name="
        raise InputError(f"rerun={sweep.config.rerun} does not go with hydra/sweeper=optuna: {hint}")
    refuse_repeated_settings(arguments, allow_merging=False)
    overrides = [*(f"{key}={value}" for key, value in preset.items()), *arguments]
    space = read_space(overrides, sweep.context.config_loader)
    if sweep.is_preview:
        from src.sweeps.search.preview import show_search  # imports what only a preview needs

        show_search(sweep, launcher.make_engine(), SearchPlan(**plan), space)
        sys.exit()
    with open_sweep(sweep):
        Search(sweep, launcher.make_engine(), SearchPlan(**plan), space).run()


def _find_search_metric(config: DictConfig) -> tuple[str, str]:
    """Return the metric that trials are judged by, and its mode.

    Raises:
        InputError: if there is no validation set.
    """
    from src.callbacks.monitor import format_metric_name, resolve_monitor
    from src.training.build import build_data  # imports PyTorch, which only a new search needs here

    name, mode = resolve_monitor(config, build_data(config))
    if name is None:
        raise InputError("a search needs a validation set to judge its trials by: data.val_size is 0")
    return format_metric_name(name), mode


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
        self.info = self.resolve_info()
        self.study.check_trials()
        self.jobs = self.get_jobs(self.study.trials)  # the job of each trial

    # Identity of the search

    def resolve_info(self) -> StudyInfo:
        """Return what defines the search; at its first start it is determined, saved and checked.

        Raises:
            InputError: if the folder has another search or another sweep.
        """
        config, made_of = self.make_typical_config()
        if about := self.study.info:
            self.check_same_search(about.made_of, made_of)
            return about
        folder = self.sweep.folder
        if list(folder.glob(f"*/{JOB_FILE}")):  # the journal is lost, or the sweep is no search
            before = (read_json(folder / SEARCH_FILE) or {}).get("made_of")
            if not isinstance(before, dict):
                raise InputError(f"{folder} has the jobs of a sweep that is not a search: choose another name=")
            self.check_same_search(before, made_of)
        self.refuse_fixed(config)
        about = StudyInfo(*_find_search_metric(config), made_of)
        for setting in self.space.dimensions:
            for choice in setting.choices:
                self.make_config({setting.name: choice})  # a wrong choice fails now instead of in a trial
        self.study.start(about)
        return about

    def refuse_fixed(self, config: DictConfig) -> None:
        """Raise an error if a setting that is not searched makes every trial fail.

        A searched setting that is refused raises no error here: other values may be valid, and its trials fail alone.

        Raises:
            InputError: with the reason.
        """
        refusal = find_refusal([pickle.dumps(config)])
        HydraConfig.instance().set_config(self.sweep.config)
        if refusal and not any(f"{setting.name}=" in refusal for setting in self.space.dimensions):
            raise InputError(refusal)

    def make_typical_config(self) -> tuple[DictConfig, dict[str, Any]]:
        """Return the config of a typical job, and all settings that identify the search."""
        config = self.make_config({})
        HydraConfig.instance().set_config(config)
        settings = describe_job(config)["settings"]
        HydraConfig.instance().set_config(self.sweep.config)
        made_of = {
            "hydra.sweeper.sampler": self.plan.sampler,
            "hydra.sweeper.seed": self.plan.seed,
            **select_identifying(settings),
            **{setting.name: str(setting) for setting in self.space.dimensions},
        }
        return config, json.loads(json.dumps(made_of, default=str))

    def make_config(self, chosen: dict[str, Any]) -> DictConfig:
        """Return the config of a job with the chosen values and the lowest value of each other searched setting."""
        lowest = {setting.name: setting.lowest for setting in self.space.dimensions}
        loader: Any = self.sweep.context.config_loader
        return cast(DictConfig, loader.compose(self.sweep.config, self.space.make_overrides(lowest | chosen)))

    def check_same_search(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Check that this is the search in the folder.

        Raises:
            InputError: naming the first setting that differs.
        """
        for key in dict.fromkeys([*before, *now]):
            old, new = before.get(key, MISSING), now.get(key, MISSING)
            if old != new:
                other = f"the search in {self.sweep.folder} has {old}"
                raise InputError(f"{key} is {new} and {other}: use that value, or choose another name=")

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
                while batch := self.next_batch():
                    self.run_batch(batch, watch)
        finally:
            self.finish()

    def summarize_plan(self) -> str:
        plan, done = self.plan, len(self.study.trials) - len(self.study.running_trials)
        before = f"{done} done before, " if done else ""
        left = max(plan.trials, len(self.study.trials)) - done
        return f"{self.sweep.folder}: {format_count(plan.trials, 'trial')} ({plan.sampler}): {before}{left} to do"

    def next_batch(self) -> list[FrozenTrial]:
        """Return the trials to run next: those that an earlier start has left, filled up to a whole batch.

        A batch ends at a multiple of ``at_once``, wherever the search was stopped before.
        """
        # A suggestion depends on the trials so far: with other batches a resumed search would suggest other trials.
        known, at_once = len(self.study.trials), self.plan.at_once
        first = min((trial.number for trial in self.study.running_trials), default=known)
        for _ in range(known, min(self.plan.trials, (first // at_once + 1) * at_once)):
            self.study.suggest_trial()
        return self.study.running_trials

    def run_batch(self, batch: list[FrozenTrial], monitor: SweepMonitor) -> None:
        """Run a batch's jobs and add their results to the study, in the order of the trials.

        A job that fails by itself counts as failed; one whose process was killed runs again.

        Raises:
            InputError: if a job cannot be run.
        """
        jobs = self.get_jobs(batch)
        self.jobs[batch[0].number :] = jobs
        unique = list({job.number: job for job in jobs}.values())
        monitor.add_jobs(unique)
        for _ in range(MAX_ATTEMPTS):
            if left := [job for job in unique if not has_ended_by_itself(job)]:
                self.engine.run(self.sweep, left, monitor)
        if stuck := [job for job in unique if job.status["status"] not in ("finished", "failed")]:
            folders = ", ".join(str(job.folder) for job in stuck)
            raise InputError(f"the search cannot continue without {folders}; see the reason above")
        for trial, job in zip(batch, jobs, strict=True):
            self.study.record_result(trial.number, self.read_value(job))
        with suppress(StorageError):  # the end of the search reports a lasting error
            self.write_state()

    def get_jobs(self, trials: list[FrozenTrial]) -> list[Job]:
        """Return the job of each trial; trials with equal settings have the same job."""
        return self.sweep.plan_jobs([self.space.make_overrides(trial.params) for trial in trials])

    def read_value(self, job: Job) -> float | None:
        """Return a job's best value of the metric; ``None`` if the job failed or the value is not finite.

        Raises:
            InputError: if the job was judged by another metric.
        """
        metrics = job.metrics
        if job.status["status"] != "finished":
            return None
        if (metrics.get("monitor"), metrics.get("mode")) != (self.info.metric, self.info.mode):
            theirs = f"{metrics.get('monitor')} and this search by {self.info.metric}"
            raise InputError(f"{job.folder} is judged by {theirs}: they cannot be compared")
        best = metrics.get("best")
        return float(best) if best is not None and math.isfinite(best) else None

    # Results

    def write_state(self) -> None:
        """Write the state of the search to a file for the report."""
        trials = [
            {"number": trial.number, "job": job.number, "state": STATES[trial.state], "value": trial.value}
            for trial, job in zip(self.study.trials, self.jobs, strict=False)  # the last may have none yet
        ]
        state = {
            "sampler": self.plan.sampler,
            "seed": self.plan.seed,
            "at_once": self.plan.at_once,
            "planned": self.plan.trials,
            "metric": self.info.metric,
            "mode": self.info.mode,
            "space": {setting.name: str(setting) for setting in self.space.dimensions},
            "made_of": self.info.made_of,
            "trials": trials,
            "importance": self.study.estimate_importance(),
        }
        write_json(self.sweep.folder / SEARCH_FILE, state)

    def finish(self) -> None:
        """Print the result and, if the search was stopped, the command that resumes it.

        Raises:
            InputError: if all trials failed or a result cannot be written, unless the search was stopped.
        """
        if self.sweep.is_gone:
            return
        trials = self.study.trials
        jobs = [resolve_job_folder(job) for job in {job.number: job for job in self.jobs}.values()]
        errors = report_results(self.sweep, jobs) if jobs else []
        try:
            self.write_state()
        except StorageError as error:
            errors.append(to_failed_status(error)["message"])
        states = [trial.state for trial in trials]
        failed, complete = states.count(TrialState.FAIL), states.count(TrialState.COMPLETE)
        if complete:
            print(self.describe_best(complete))
        if sys.exc_info()[0] is not None:
            done = f"{complete + failed} of {format_count(self.plan.trials, 'trial')} done"
            print("; ".join([*errors, done, f"resume with: {self.sweep.get_resume_command()}"]), flush=True)
            return
        if failed:
            message = f"{failed} of {format_count(len(trials), 'trial')} failed"
            print(message) if complete else errors.append(f"{message}: see the reasons above")
        if errors:
            self.sweep.context.callbacks.on_multirun_end(config=self.sweep.config, config_name=None)
            raise InputError("; ".join(errors))

    def describe_best(self, complete: int) -> str:
        """Return a line on the best trial, with its overrides for the command line."""
        assert self.study.study
        best = self.study.study.best_trial
        value = format_mean_std(self.info.metric, [best.value or 0.0])
        chosen = shlex.join(
            f"{setting.key}={format_setting_value(best.params[setting.name])}" for setting in self.space.dimensions
        )
        return f"best of {format_count(complete, 'trial')}: {best.number}, {self.info.metric} {value}, with {chosen}"
