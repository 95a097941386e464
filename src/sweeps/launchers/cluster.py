"""Jobs on a cluster: submit and monitor them here, run each of them on its machine there.

All machines share the folder that the sweep was started in, as well as the code and the data; a job's status is read
from its folder, wherever the job runs.
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

OVER = ("finished", "failed", "interrupted")  # final statuses
LOOK = 2.0  # seconds between two polls for jobs that have started
FREE = 120.0  # seconds that an earlier attempt on a lost machine may still hold the lock on a job's folder
TRAVELS = ("DATA_DIR", "TORCH_HOME", "OMP_NUM_THREADS", "HYDRA_FULL_ERROR")  # variables sent along: jobs read them
STAYS = ("SLURM_", "RAY_", "OMP_NUM_THREADS")  # variables of a cluster's worker, hidden from jobs; Ray sets the last
STOPPED = {"status": "interrupted", "reason": "killed", "message": "the sweep was stopped"}


class Errand(NamedTuple):
    """A job as sent to another machine.

    Attributes:
        order: the job's spec; its environment is added to that of the machine.
        main: the module with the function that runs a job.
        directory: the working directory, in which the sweep was started.
        time_limit: seconds; ``None``: no limit.
    """

    order: Order
    main: str
    directory: Path
    time_limit: float | None


class Cluster(Protocol):
    """A cluster that runs jobs; each implementation has its own type of task handle."""

    def submit(self, errands: list[Errand]) -> list[Any]:
        """Submit jobs, each to be run by `do`; return a task handle for each."""

    def over(self, tasks: list[Any]) -> list[Any]:
        """Return those of the tasks that have ended; wait a moment for one to end."""

    def outcome(self, task: Any) -> Status:
        """Return the status that `do` returned for a task, or a failed status if it could not return one."""

    def cancel(self, tasks: list[Any]) -> None:
        """Request tasks to stop soon: a running job keeps its last checkpoint."""


# On the machine that the sweep was started on


def errand(sweep: Sweep, job: Job, cores: int, time_limit: float | None = None) -> Errand:
    """Make the remote job for a job of a sweep.

    Args:
        sweep: the sweep.
        job: the job.
        cores: CPU cores of the job.
        time_limit: seconds; ``None``: no limit.
    """
    module_spec = sys.modules["__main__"].__spec__
    environment = {name: os.environ[name] for name in TRAVELS if name in os.environ} | {SHARE_OF_CORES: str(cores)}
    spec = sweep.order(job, {})._replace(folder=job.folder.absolute(), environment=environment)
    return Errand(spec, module_spec.name if module_spec else "src.train", Path.cwd(), time_limit)


def follow(cluster: Cluster, jobs: list[Job], errand_of: Callable[[Job], Errand], watch: Watch) -> None:
    """Run jobs on a cluster and notify `watch` of each start and end; if this is interrupted, stop the jobs."""
    jobs = prepared(jobs, let_wait, watch.ended)
    if not jobs:
        return
    tasks = dict(zip(cluster.submit([errand_of(job) for job in jobs]), jobs, strict=True))
    not_started, last_poll = {job.number: job for job in jobs}, time.monotonic()
    try:
        while tasks:
            completed = cluster.over(list(tasks))
            if completed or time.monotonic() - last_poll > LOOK:
                last_poll = time.monotonic()
                for job in [job for job in not_started.values() if job.status["status"] != "waiting"]:
                    watch.started(not_started.pop(job.number))
            for task in completed:
                job = tasks.pop(task)
                not_started.pop(job.number, None)  # it may have ended before it could start
                watch.ended(job, settle(job, cluster.outcome(task)))
            watch.ticked()
    finally:
        stop(cluster, tasks)


def settle(job: Job, told: Status) -> Status:
    """Write a job's final status if the job itself could not, or if its file is not visible on this machine yet."""
    return note_end(job, lambda left: left if left["status"] in OVER else told)


def stop(cluster: Cluster, tasks: dict[Any, Job]) -> None:
    """Cancel tasks, and wait up to `GRACE` seconds for them to save their state."""
    if not tasks:
        return
    cluster.cancel(list(tasks))
    jobs, deadline = list(tasks.values()), time.monotonic() + GRACE
    while tasks and time.monotonic() < deadline:
        for task in cluster.over(list(tasks)):
            tasks.pop(task)
    for job in jobs:
        note_end(job, lambda left: STOPPED if left["status"] == "running" else left)


# On a machine of the cluster


def do(errand: Errand, start_method: str | None = None) -> Status:
    """Run a job on this machine, in a separate process; return its status.

    If an earlier attempt was lost with its machine, the job resumes from the last checkpoint.

    Args:
        errand: the remote job.
        start_method: "forkserver" or "spawn"; ``None``: the default of the operating system.

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
    # Wait until an earlier attempt has released the folder; the job's process then takes the lock itself.
    with FileLock(job.folder / ".lock", timeout=FREE):
        pass
    if job.status["status"] == "finished":
        return job.status
    statuses: list[Status] = []
    with as_main(errand.main):
        pool_of_one(errand, start_method, lambda _, status: statuses.append(status)).run([[job]])
    return statuses[0]


def pool_of_one(errand: Errand, start_method: str | None, ended: Callable[[Job, Status], None]) -> Pool:
    """Create a pool that runs a single job on this machine; `ended` gets the job and its final status."""

    def order(jobs: Sequence[Job], share: dict[str, str]) -> Order:
        # Without the cluster's variables Lightning does not take the process for a rank of a distributed run.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(STAYS)}
        return errand.order._replace(environment=environment | share)

    def nothing(*_: Any) -> None:
        pass

    return Pool(starting(start_method), [errand.order.environment], errand.time_limit, order, nothing, ended, nothing)


@contextmanager
def as_main(name: str) -> Iterator[None]:
    """Start children with the named module as their main module, as on the machine that the sweep was started on."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = importlib.import_module(name)
    try:
        yield
    finally:
        sys.modules["__main__"] = before
