"""Launching a sweep: plan its jobs, run them on an engine, and report the results."""

import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from omegaconf import OmegaConf

from src.cli.main import TERMINATED
from src.cli.undo import keep_made, may_take_back
from src.core.disk import find_fault
from src.core.errors import InputError
from src.storage.files import remove_partials, write_text
from src.storage.trust import read_packages
from src.sweeps.launchers.local import asked
from src.sweeps.launchers.sweep import Sweep, left_to_do
from src.sweeps.progress.monitor import Watch
from src.sweeps.progress.summary import damaged, failures, introduction, unfinished
from src.sweeps.report import report
from src.sweeps.store.endings import blame, where_it_lies
from src.sweeps.store.jobs import Job
from src.sweeps.store.leaderboard import leaderboard, write_results
from src.sweeps.workers.pool import starting


class Engine(Protocol):
    """A backend that runs jobs: local processes, stacks, Ray or Slurm."""

    def warm_up(self) -> None:
        """Start slow preparations before the jobs are known."""

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        """Run the jobs and notify `watch` of each start and end; each job's status is in its folder."""


class JobFailedError(Exception):
    """A job of a sweep did not finish."""


def launch(sweep: Sweep, engine: Engine, asked: list[list[str]]) -> list[JobReturn]:
    """Run the jobs of a sweep that are not finished yet.

    Args:
        sweep: the sweep.
        engine: runs the jobs.
        asked: the overrides of each job.

    Returns:
        The result of each requested job, in the order of `asked`.

    Raises:
        InputError: if jobs failed, after all others have run.
    """
    with begun(sweep):
        jobs = sweep.jobs(asked)
        unique = list({job.number: job for job in jobs}.values())
        left = left_to_do(unique, sweep.config.rerun)
        refuse_hopeless(sweep, jobs, getattr(engine, "start_method", None))
        keep_made()
        print(introduction(sweep.folder, unique, left), flush=True)
        try:
            if left:
                with Watch(sweep.folder, sweep.check) as watch:
                    watch.expect(unique)
                    engine.run(sweep, left, watch)
        finally:
            conclude(sweep, unique)
    return [outcome(where_it_lies(job)) for job in jobs]


def refuse_hopeless(sweep: Sweep, jobs: list[Job], start_method: str | None) -> None:
    """Refuse a new sweep if the settings of every job are invalid.

    Raises:
        InputError: with the error of the first job.
    """
    if may_take_back():
        configs = [sweep.configs[job.number] for job in jobs]
        if refusal := asked(starting(start_method), find_refusal, configs):
            raise InputError(refusal)


def find_refusal(configs: list[bytes]) -> str | None:
    """Return the error message of the first config if none of the configs is valid, else ``None``.

    It imports torch: call it in a subprocess.
    """
    from src.cli.presets import check_presets
    from src.training.validation.config import check

    refusals = []
    for pickled in configs:
        config = pickle.loads(pickled)
        HydraConfig.instance().cfg = config
        try:
            check_presets(config.hydra)
            check(config)
        except InputError as error:
            refusals.append(str(error))
        except Exception:  # the job itself will report it
            return None
        else:
            return None
    return refusals[0]


@contextmanager
def begun(sweep: Sweep) -> Iterator[None]:
    """Hold a sweep's folder for a session: lock it, handle SIGTERM, clean up and write ``multirun.yaml``.

    Raises:
        InputError: if another process holds the folder.
        StorageError: if the disk cannot be written; its message says how to resume.
    """
    setup_globals()
    configure_log(sweep.config.hydra.hydra_logging, sweep.config.hydra.verbose)
    try:
        with sweep.held(), stoppable():
            remove_partials(sweep.folder)
            write_text(sweep.folder / "multirun.yaml", OmegaConf.to_yaml(sweep.config))
            for line in damaged(sweep.folder):
                print(line, flush=True)
            yield
    except Exception as error:
        if fault := find_fault(error):
            raise fault.completed("what the jobs have kept is whole", f"go on with: {sweep.command()}") from error
        raise


@contextmanager
def stoppable() -> Iterator[None]:
    """Exit on SIGTERM as on Ctrl-C, so that the jobs are stopped and keep their checkpoints."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def conclude(sweep: Sweep, jobs: list[Job]) -> None:
    """Write and print the results and, if not all jobs finished, which did not and how to resume.

    Raises:
        InputError: if some did not finish or results could not be written, unless another exception is under way.
    """
    if sweep.is_gone:
        return
    jobs = [where_it_lies(job) for job in jobs]
    problems = tell(sweep, jobs)
    if missing := unfinished(jobs):
        problems.append(f"{missing}; go on with: {sweep.command()}")
    message = "; ".join(problems)
    if message and sys.exc_info()[0] is not None:  # the sweep was stopped: let that exception end the process
        print(message, flush=True)
    elif message:
        end = sweep.context.callbacks.on_multirun_end  # Hydra itself calls it only on success
        end(config=sweep.config, config_name=None)
        raise InputError(message)


def tell(sweep: Sweep, jobs: list[Job]) -> list[str]:
    """Write and print a sweep's results: the table, the leaderboard, the report, and the jobs that failed.

    Returns:
        An error message for each file that could not be written.
    """
    from src.sweeps.store.hparams import write_hparams  # imports TensorBoard, which is not needed before

    errors: list[str] = []
    packages = read_packages(sweep.config.trust)
    others = (partial(leaderboard, packages=packages), write_hparams, partial(tell_report, packages=packages))
    for write in (write_results, *others):
        try:
            write(sweep.folder)
        except (InputError, OSError) as error:
            errors.append(blame(error)["message"])
    for line in failures(jobs):
        print(line)
    return list(dict.fromkeys(errors))


def tell_report(folder: Path, packages: tuple[str, ...]) -> None:
    print(f"all of it: {report([folder], packages=packages)}")


def outcome(job: Job) -> JobReturn:
    """Convert a job's result to Hydra's `JobReturn`, with the best value of the monitored metric."""
    result = JobReturn(overrides=job.overrides, cfg=OmegaConf.create(), working_dir=str(job.folder))
    status = job.status
    if status["status"] == "finished":
        result.status, result.return_value = JobStatus.COMPLETED, job.metrics.get("best")
    else:
        result.status, result.return_value = JobStatus.FAILED, JobFailedError(f"{job.folder}: {status['message']}")
    return result
