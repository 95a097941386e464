"""Launching a sweep: plan its jobs, run them on an engine, and report the results."""

import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from omegaconf import OmegaConf

from src.cli.undo import keep_created, should_remove_created
from src.core.disk import find_storage_error
from src.core.errors import TERMINATED, InputError
from src.storage.files import remove_partial_files, write_text
from src.storage.trust import read_packages
from src.sweeps.launchers.local import call_in_subprocess
from src.sweeps.launchers.sweep import Sweep, select_pending_jobs
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.progress.summary import (
    describe_damaged_jobs,
    describe_failures,
    summarize_pending_jobs,
    summarize_unfinished,
)
from src.sweeps.report.reading import add_histories
from src.sweeps.report.write import write_report
from src.sweeps.store.endings import resolve_job_folder, to_failed_status
from src.sweeps.store.jobs import Job, refuse_strays_outside_jobs
from src.sweeps.store.leaderboard import print_leaderboards
from src.sweeps.store.results import lock_results, write_results
from src.sweeps.store.runs import Run, read_runs
from src.sweeps.workers.pool import get_mp_context


class Engine(Protocol):
    """A backend that runs jobs: local processes, stacks, Ray or Slurm."""

    def warm_up(self) -> None:
        """Start slow preparations before the jobs are known."""

    def run(self, sweep: Sweep, jobs: list[Job], watch: SweepMonitor) -> None:
        """Run the jobs and notify `watch` of each start and end; each job's status is in its folder."""


class Part(NamedTuple):
    """A part of a sweep: a number of jobs that run from one epoch to another.

    Attributes:
        jobs: the number of jobs.
        start: the epochs that each has then.
        end: the epochs that each has afterwards.
    """

    jobs: int
    start: int
    end: int

    @property
    def total(self) -> int:
        """The epochs of all jobs together."""
        return self.jobs * (self.end - self.start)


class Schedule(Protocol):
    """An order in which a sweep's jobs are run, and how far."""

    def check(self, sweep: Sweep, jobs: list[Job], start_method: str | None) -> None:
        """Refuse jobs that cannot be run in this way; subprocesses use the start method.

        Raises:
            InputError: with the reason.
        """

    def plan_parts(self, jobs: list[Job]) -> list[Part]:
        """Return what will run, after the check, in the order in which it runs: from one comparison to the next."""

    def run(self, sweep: Sweep, engine: Engine, jobs: list[Job], watch: SweepMonitor) -> None:
        """Run the jobs, some of which may have finished, on the engine."""


class JobFailedError(Exception):
    """A job of a sweep did not finish."""


def launch(
    sweep: Sweep, engine: Engine, job_overrides: list[list[str]], schedule: Schedule | None = None
) -> list[JobReturn]:
    """Run the jobs of a sweep that are not finished yet.

    Args:
        sweep: the sweep.
        engine: runs the jobs.
        job_overrides: the overrides of each job.
        schedule: the order in which they run, and how far; ``None``: all of them to their ends.

    Returns:
        The result of each requested job, in the order of `job_overrides`.

    Raises:
        InputError: if jobs failed, after all others have run.
    """
    with open_sweep(sweep):
        jobs = sweep.plan_jobs(job_overrides)
        unique = list({job.number: job for job in jobs}.values())
        left = select_pending_jobs(unique, sweep.config.rerun)
        start_method = getattr(engine, "start_method", None)
        if schedule is not None:
            schedule.check(sweep, unique, start_method)
        refuse_invalid_sweep(sweep, jobs, start_method)
        keep_created()
        print(summarize_pending_jobs(sweep.folder, unique, left), flush=True)
        try:
            if left:
                with SweepMonitor(sweep.folder, sweep.check_folder) as watch:
                    watch.add_jobs(unique)
                    if schedule is None:
                        engine.run(sweep, left, watch)
                    else:
                        schedule.run(sweep, engine, unique, watch)
        finally:
            _finish_sweep(sweep, unique)
    return [_to_job_return(resolve_job_folder(job)) for job in jobs]


def refuse_invalid_sweep(sweep: Sweep, jobs: list[Job], start_method: str | None) -> None:
    """Refuse a new sweep if the settings of every job are invalid.

    Raises:
        InputError: with the error of the first job.
    """
    if should_remove_created() or sweep.is_preview:
        configs = [sweep.configs[job.number] for job in jobs]
        if refusal := call_in_subprocess(get_mp_context(start_method), find_refusal, configs):
            raise InputError(refusal)


def find_refusal(configs: list[bytes]) -> str | None:
    """Return the error message of the first config if none of the configs is valid, else ``None``.

    It imports torch: call it in a subprocess.
    """
    from src.cli.presets import check_presets
    from src.training.validation.config import check_config

    refusals = []
    for pickled in configs:
        config = pickle.loads(pickled)
        HydraConfig.instance().cfg = config
        try:
            check_presets(config.hydra)
            check_config(config)
        except InputError as error:
            refusals.append(str(error))
        except Exception:  # the job itself will report it
            return None
        else:
            return None
    return refusals[0]


@contextmanager
def open_sweep(sweep: Sweep) -> Iterator[None]:
    """Hold a sweep's folder for a session: lock it, handle SIGTERM, clean up and write ``multirun.yaml``.

    Raises:
        InputError: if another process holds the folder.
        StorageError: if the disk cannot be written; its message says how to resume.
    """
    setup_globals()
    configure_log(sweep.config.hydra.hydra_logging, sweep.config.hydra.verbose)
    try:
        with sweep.lock_folder(), _exit_on_sigterm():
            remove_partial_files(sweep.folder)
            write_text(sweep.folder / "multirun.yaml", OmegaConf.to_yaml(sweep.config))
            for line in describe_damaged_jobs(sweep.folder):
                print(line, flush=True)
            yield
    except Exception as error:
        if fault := find_storage_error(error):
            raise fault.with_advice(
                "the jobs' checkpoints remain valid", f"resume with: {sweep.get_resume_command()}"
            ) from error
        raise


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM as on Ctrl-C, so that the jobs are stopped and keep their checkpoints."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _finish_sweep(sweep: Sweep, jobs: list[Job]) -> None:
    """Write and print the results and, if not all jobs finished, which did not and how to resume.

    Raises:
        InputError: if some did not finish or results could not be written, unless another exception is under way.
    """
    if sweep.is_gone:
        return
    jobs = [resolve_job_folder(job) for job in jobs]
    problems = report_results(sweep, jobs)
    if missing := summarize_unfinished(jobs):
        problems.append(f"{missing}; resume with: {sweep.get_resume_command()}")
    message = "; ".join(problems)
    if message and sys.exc_info()[0] is not None:  # the sweep was stopped: let that exception end the process
        print(message, flush=True)
    elif message:
        end = sweep.context.callbacks.on_multirun_end  # Hydra itself calls it only on success
        end(config=sweep.config, config_name=None)
        raise InputError(message)


def report_results(sweep: Sweep, jobs: list[Job]) -> list[str]:
    """Write and print a sweep's results: the table, the leaderboard, the report, and the jobs that failed.

    Returns:
        An error message for each file that could not be written.
    """
    from src.sweeps.store.hparams import write_hparams  # imports TensorBoard, which is not needed before

    errors: list[str] = []
    runs: list[Run] = []
    folder, packages = sweep.folder, read_packages(sweep.config.trust)
    with _collect_error(errors), lock_results(folder):
        runs = read_runs(folder)
        for write in (write_results, write_hparams):
            with _collect_error(errors):
                write(folder, runs)
    if runs:
        with _collect_error(errors):
            print_leaderboards(folder, packages=packages, runs=runs)
        with _collect_error(errors):
            refuse_strays_outside_jobs(folder)
            print(f"all of it: {write_report(add_histories([folder], runs), packages=packages)}")
    for line in describe_failures(jobs):
        print(line)
    return list(dict.fromkeys(errors))


@contextmanager
def _collect_error(errors: list[str]) -> Iterator[None]:
    """Add the message of an error to a list, so that what follows is still done.

    Raises:
        StorageError: if the whole disk is at fault.
    """
    try:
        yield
    except (InputError, OSError) as error:
        errors.append(to_failed_status(error)["message"])


def _to_job_return(job: Job) -> JobReturn:
    """Convert a job's result to Hydra's `JobReturn`, with the best value of the monitored metric."""
    result = JobReturn(overrides=job.overrides, cfg=OmegaConf.create(), working_dir=str(job.folder))
    status = job.status
    if status["status"] == "finished":
        result.status, result.return_value = JobStatus.COMPLETED, job.metrics.get("best")
    else:
        result.status, result.return_value = JobStatus.FAILED, JobFailedError(f"{job.folder}: {status['message']}")
    return result
