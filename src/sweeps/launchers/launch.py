"""What Hydra's launchers of ours do: a sweep from what is asked for to what came out."""

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
    """What runs jobs."""

    def warm_up(self) -> None:
        """Begin with what takes time, before it is known which jobs there are."""

    def run(self, sweep: Sweep, jobs: list[Job], watch: Watch) -> None:
        """Run the jobs and tell what becomes of them; how each ended is in its folder."""


class JobFailedError(Exception):
    """A job of a sweep did not finish."""


def launch(sweep: Sweep, engine: Engine, asked: list[list[str]]) -> list[JobReturn]:
    """Run the jobs of a sweep; those that are finished already are not run again.

    Args:
        sweep: which.
        engine: runs them.
        asked: the overrides of each job.

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
    """Refuse a sweep that begins and of which each job is refused by the check of its settings.

    Raises:
        InputError: telling what is wrong with the first.
    """
    if may_take_back():
        configs = [sweep.configs[job.number] for job in jobs]
        if refusal := asked(starting(start_method), find_refusal, configs):
            raise InputError(refusal)


def find_refusal(configs: list[bytes]) -> str | None:
    """Return what is wrong with the first of several jobs' configs if no job can be done; it imports torch."""
    from src.cli.presets import check_presets
    from src.training.validation.config import check

    refusals = []
    for each in configs:
        config = pickle.loads(each)
        HydraConfig.instance().cfg = config
        try:
            check_presets(config.hydra)
            check(config)
        except InputError as error:
            refusals.append(str(error))
        except Exception:  # the job itself tells
            return None
        else:
            return None
    return refusals[0]


@contextmanager
def begun(sweep: Sweep) -> Iterator[None]:
    """What holds while a sweep is under way.

    Raises:
        InputError: if another process is at it.
        StorageError: if the disk cannot be written; it tells how to go on.
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
    """A request to stop (SIGTERM) ends the sweep as Ctrl-C does: its jobs keep what they have."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def conclude(sweep: Sweep, jobs: list[Job]) -> None:
    """Tell what came out and, if not all jobs finished, which did not and how to go on.

    Raises:
        InputError: if some did not, or it cannot be written down, unless it was the sweep itself that was stopped.
    """
    if sweep.is_gone:
        return
    jobs = [where_it_lies(job) for job in jobs]
    unwritten = tell(sweep, jobs)
    if missing := unfinished(jobs):
        unwritten.append(f"{missing}; go on with: {sweep.command()}")
    how = "; ".join(unwritten)
    if how and sys.exc_info()[0] is not None:  # it was stopped, and that is how the process ends
        print(how, flush=True)
    elif how:
        end = sweep.context.callbacks.on_multirun_end  # Hydra itself calls it only if all is well
        end(config=sweep.config, config_name=None)
        raise InputError(how)


def tell(sweep: Sweep, jobs: list[Job]) -> list[str]:
    """Tell what came out of jobs of a sweep: the table, the report, and what failed.

    Returns:
        What could not be written, a line each.
    """
    from src.sweeps.store.hparams import write_hparams  # TensorBoard, which is not needed before

    errors: list[str] = []
    packages = read_packages(sweep.config.trust)
    shown = (partial(leaderboard, packages=packages), write_hparams, partial(tell_report, packages=packages))
    for act in (write_results, *shown):
        try:
            act(sweep.folder)
        except (InputError, OSError) as error:
            errors.append(blame(error)["message"])
    for line in failures(jobs):
        print(line)
    return list(dict.fromkeys(errors))


def tell_report(folder: Path, packages: tuple[str, ...]) -> None:
    print(f"all of it: {report([folder], packages=packages)}")


def outcome(job: Job) -> JobReturn:
    """A job's end as Hydra's sweepers take it: the best of the metric that is monitored."""
    done = JobReturn(overrides=job.overrides, cfg=OmegaConf.create(), working_dir=str(job.folder))
    status = job.status
    if status["status"] == "finished":
        done.status, done.return_value = JobStatus.COMPLETED, job.metrics.get("best")
    else:
        done.status, done.return_value = JobStatus.FAILED, JobFailedError(f"{job.folder}: {status['message']}")
    return done
