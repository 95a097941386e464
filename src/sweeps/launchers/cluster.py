"""A sweep's jobs on the machines of a cluster: what is done there, and how it is followed from here.

All machines share the folder that the sweep was started in, and the code and the data; how far a
job is, its folder tells, wherever the job runs.
"""

import importlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock

from src.core.errors import InputError
from src.core.processes import SHARE_OF_CORES
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import Watch
from src.sweeps.store.endings import Status, let_wait, note_end, prepared
from src.sweeps.store.jobs import Job, read_job
from src.sweeps.workers.pool import GRACE, Pool, starting
from src.sweeps.workers.worker import Order

OVER = ("finished", "failed", "interrupted")  # statuses of jobs that do no more
LOOK = 2.0  # seconds between two looks for jobs that have begun
FREE = 120.0  # seconds that a job's folder may still be held by an attempt whose machine was lost
TRAVELS = ("DATA_DIR", "TORCH_HOME", "OMP_NUM_THREADS", "HYDRA_FULL_ERROR")  # what jobs read of the environment
STAYS = ("SLURM_", "RAY_", "OMP_NUM_THREADS")  # what a cluster's worker has for itself; Ray sets the last, too
STOPPED = {"status": "interrupted", "reason": "killed", "message": "the sweep was stopped"}


class Errand(NamedTuple):
    """A job as it is sent to another machine.

    Attributes:
        order: what to do; its environment is added to that machine's own.
        main: the module whose task does jobs.
        directory: where the sweep was started.
        time_limit: seconds; ``None``: no limit.
    """

    order: Order
    main: str
    directory: Path
    time_limit: float | None


class Cluster(Protocol):
    """Machines that take jobs; what stands for a job there is the cluster's own."""

    def submit(self, errands: list[Errand]) -> list[Any]:
        """Hand in jobs, each to be done by `do`."""

    def over(self, tasks: list[Any]) -> list[Any]:
        """Those among the tasks that have come to an end; waits a moment for one that does."""

    def outcome(self, task: Any) -> Status:
        """How a task ended: what `do` returned, or a status of the same form where it could not return."""

    def cancel(self, tasks: list[Any]) -> None:
        """Have tasks end soon: a job that runs keeps its last checkpoint."""


# Here


def errand(sweep: Sweep, job: Job, cores: int, time_limit: float | None = None) -> Errand:
    """A job of a sweep, to be sent away.

    Args:
        sweep: which.
        job: which of it.
        cores: CPU cores that it is given there.
        time_limit: seconds; ``None``: no limit.
    """
    spec = sys.modules["__main__"].__spec__
    environment = {name: os.environ[name] for name in TRAVELS if name in os.environ} | {SHARE_OF_CORES: str(cores)}
    order = sweep.order(job, {})._replace(folder=job.folder.absolute(), environment=environment)
    return Errand(order, spec.name if spec else "src.train", Path.cwd(), time_limit)


def follow(cluster: Cluster, jobs: list[Job], errand_of: Callable[[Job], Errand], watch: Watch) -> None:
    """Have a cluster do jobs, and tell what becomes of them; when this is interrupted, so are they."""
    jobs = prepared(jobs, let_wait, watch.ended)
    if not jobs:
        return
    tasks = dict(zip(cluster.submit([errand_of(job) for job in jobs]), jobs, strict=True))
    to_begin, looked = {job.number: job for job in jobs}, time.monotonic()
    try:
        while tasks:
            over = cluster.over(list(tasks))
            if over or time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                for job in [job for job in to_begin.values() if job.status["status"] != "waiting"]:
                    watch.started(to_begin.pop(job.number))
            for task in over:
                job = tasks.pop(task)
                to_begin.pop(job.number, None)  # it may have ended before it could begin
                watch.ended(job, settle(job, cluster.outcome(task)))
            watch.ticked()
    finally:
        stop(cluster, tasks)


def settle(job: Job, told: Status) -> Status:
    """Complete a job's status where the job itself could not, or where its file is not seen here yet."""
    return note_end(job, lambda left: left if left["status"] in OVER else told)


def stop(cluster: Cluster, tasks: dict[Any, Job]) -> None:
    """Have tasks end, and give them a moment to write what they have."""
    if not tasks:
        return
    cluster.cancel(list(tasks))
    jobs, patience = list(tasks.values()), time.monotonic() + GRACE
    while tasks and time.monotonic() < patience:
        for task in cluster.over(list(tasks)):
            tasks.pop(task)
    for job in jobs:
        note_end(job, lambda left: STOPPED if left["status"] == "running" else left)


# There


def do(errand: Errand, start_method: str | None = None) -> Status:
    """Do a job on this machine, in a process of its own; returns its status.

    It may be another attempt, since the machine of the first was lost: it goes on from the last checkpoint.

    Args:
        errand: which.
        start_method: "forkserver" or "spawn"; ``None``: what the system bears.

    Raises:
        InputError: if this machine does not share the folder that the sweep was started in.
    """
    for folder in (errand.directory, errand.order.folder):
        if not folder.is_dir():
            raise InputError(
                f"{socket.gethostname()} has no folder {folder}: all machines must share the folders that the "
                "sweep is started in and writes to"
            )
    os.chdir(errand.directory)
    job = read_job(errand.order.folder)
    with FileLock(job.folder / ".lock", timeout=FREE):
        pass
    if job.status["status"] == "finished":
        return job.status
    ends: list[Status] = []
    with as_main(errand.main):
        pool_of_one(errand, start_method, lambda _, status: ends.append(status)).run([[job]])
    return ends[0]


def pool_of_one(errand: Errand, start_method: str | None, ended: Callable[[Job, Status], None]) -> Pool:
    """What runs one job here."""

    def order(jobs: Sequence[Job], share: dict[str, str]) -> Order:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(STAYS)}
        return errand.order._replace(environment=environment | share)  # to Lightning, a process like any other

    def nothing(*_: Any) -> None:
        pass

    return Pool(starting(start_method), [errand.order.environment], errand.time_limit, order, nothing, ended, nothing)


@contextmanager
def as_main(name: str) -> Iterator[None]:
    """Processes that begin here take this module for the main one, as where the sweep was started."""
    own = sys.modules["__main__"]
    sys.modules["__main__"] = importlib.import_module(name)
    try:
        yield
    finally:
        sys.modules["__main__"] = own
