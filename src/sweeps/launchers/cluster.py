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
from src.core.processes import CORES_VARIABLE
from src.storage.status import Status, make_status
from src.sweeps.launchers.sweep import Sweep
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.store.endings import mark_waiting, prepare_jobs, record_end
from src.sweeps.store.jobs import Job, read_job
from src.sweeps.workers.pool import STOP_GRACE_SECONDS, Pool, get_mp_context
from src.sweeps.workers.worker import JobSpec

FINAL_STATUSES = ("finished", "failed", "interrupted", "paused")  # statuses that a process writes at its end
POLL_SECONDS = 2.0  # seconds between two polls for jobs that have started
LOCK_TIMEOUT = 120.0  # seconds that an earlier attempt on a lost machine may still hold the lock on a job's folder
SENT_VARIABLES = (
    "DATA_DIR",
    "TORCH_HOME",
    "OMP_NUM_THREADS",
    "HYDRA_FULL_ERROR",
)  # variables sent along: jobs read them
HIDDEN_VARIABLES = (
    "SLURM_",
    "RAY_",
    "OMP_NUM_THREADS",
)  # variables of a cluster's worker, hidden from jobs; Ray sets the last
STOPPED_STATUS = make_status("interrupted", "killed", "the sweep was stopped")


class RemoteJob(NamedTuple):
    """A job as sent to another machine.

    Attributes:
        spec: the job's spec; its environment is added to that of the machine.
        main_module: the module with the function that runs a job.
        working_directory: the working directory, in which the sweep was started.
        time_limit: seconds; ``None``: no limit.
    """

    spec: JobSpec
    main_module: str
    working_directory: Path
    time_limit: float | None


class Cluster(Protocol):
    """A cluster that runs jobs; each implementation has its own type of task handle."""

    def submit(self, remote_jobs: list[RemoteJob]) -> list[Any]:
        """Submit jobs, each to be run by `run_remote_job`; return a task handle for each."""

    def poll(self, tasks: list[Any]) -> list[Any]:
        """Return those of the tasks that have ended; wait a moment for one to end."""

    def get_status(self, task: Any) -> Status:
        """Return the status that `run_remote_job` returned for a task, or a failed status if there is none."""

    def cancel(self, tasks: list[Any]) -> None:
        """Request tasks to stop soon: a running job keeps its last checkpoint."""


# On the machine that the sweep was started on


def make_remote_job(sweep: Sweep, job: Job, cores: int, time_limit: float | None = None) -> RemoteJob:
    """Make the remote job for a job of a sweep.

    Args:
        sweep: the sweep.
        job: the job.
        cores: CPU cores of the job.
        time_limit: seconds; ``None``: no limit.
    """
    module_spec = sys.modules["__main__"].__spec__
    environment = {name: os.environ[name] for name in SENT_VARIABLES if name in os.environ} | {
        CORES_VARIABLE: str(cores)
    }
    environment |= sweep.limits
    spec = sweep.make_spec(job, {})._replace(folder=job.folder.absolute(), environment=environment)
    return RemoteJob(spec, module_spec.name if module_spec else "src.train", Path.cwd(), time_limit)


def run_on_cluster(
    cluster: Cluster, jobs: list[Job], to_remote_job: Callable[[Job], RemoteJob], watch: SweepMonitor
) -> None:
    """Run jobs on a cluster and notify `watch` of each start and end; if this is interrupted, stop the jobs."""
    jobs = prepare_jobs(jobs, mark_waiting, watch.record_end)
    if not jobs:
        return
    tasks = dict(zip(cluster.submit([to_remote_job(job) for job in jobs]), jobs, strict=True))
    not_started, last_poll = {job.number: job for job in jobs}, time.monotonic()
    try:
        while tasks:
            completed = cluster.poll(list(tasks))
            if completed or time.monotonic() - last_poll > POLL_SECONDS:
                last_poll = time.monotonic()
                for job in [job for job in not_started.values() if job.status["status"] != "waiting"]:
                    watch.record_start(not_started.pop(job.number))
            for task in completed:
                job = tasks.pop(task)
                not_started.pop(job.number, None)  # it may have ended before it could start
                watch.record_end(job, _record_status(job, cluster.get_status(task)))
            watch.update()
    finally:
        _stop_tasks(cluster, tasks)


def _record_status(job: Job, task_status: Status) -> Status:
    """Write a job's final status if the job itself could not, or if its file is not visible on this machine yet."""
    return record_end(job, lambda left: left if left["status"] in FINAL_STATUSES else task_status)


def _stop_tasks(cluster: Cluster, tasks: dict[Any, Job]) -> None:
    """Cancel tasks, and wait up to `STOP_GRACE_SECONDS` seconds for them to save their state."""
    if not tasks:
        return
    cluster.cancel(list(tasks))
    jobs, deadline = list(tasks.values()), time.monotonic() + STOP_GRACE_SECONDS
    while tasks and time.monotonic() < deadline:
        for task in cluster.poll(list(tasks)):
            tasks.pop(task)
    for job in jobs:
        record_end(job, lambda left: STOPPED_STATUS if left["status"] == "running" else left)


# On a machine of the cluster


def run_remote_job(remote_job: RemoteJob, start_method: str | None = None) -> Status:
    """Run a job on this machine, in a separate process; return its status.

    If an earlier attempt was lost with its machine, the job resumes from the last checkpoint.

    Args:
        remote_job: the remote job.
        start_method: "forkserver" or "spawn"; ``None``: the default of the operating system.

    Raises:
        InputError: if this machine does not share the folder that the sweep was started in.
    """
    for folder in (remote_job.working_directory, remote_job.spec.folder):
        if not folder.is_dir():
            raise InputError(
                f"{socket.gethostname()} has no folder {folder}: all machines must share the folders that the "
                "sweep is started in and writes to"
            )
    os.chdir(remote_job.working_directory)
    job = read_job(remote_job.spec.folder)
    # Wait until an earlier attempt has released the folder; the job's process then takes the lock itself.
    with FileLock(job.folder / ".lock", timeout=LOCK_TIMEOUT):
        pass
    if job.status["status"] == "finished":
        return job.status
    statuses: list[Status] = []
    with _replace_main_module(remote_job.main_module):
        _make_single_pool(remote_job, start_method, lambda _, status: statuses.append(status)).run([[job]])
    return statuses[0]


def _make_single_pool(remote_job: RemoteJob, start_method: str | None, on_end: Callable[[Job, Status], None]) -> Pool:
    """Create a pool that runs a single job on this machine; `on_end` gets the job and its final status."""

    def make_spec(jobs: Sequence[Job], resources: dict[str, str]) -> JobSpec:
        # Without the cluster's variables Lightning does not take the process for a rank of a distributed run.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN_VARIABLES)}
        return remote_job.spec._replace(environment=environment | resources)

    def ignore(*_: Any) -> None:
        pass

    return Pool(
        get_mp_context(start_method),
        [remote_job.spec.environment],
        remote_job.time_limit,
        make_spec,
        ignore,
        on_end,
        ignore,
    )


@contextmanager
def _replace_main_module(name: str) -> Iterator[None]:
    """Start children with the named module as their main module, as on the machine that the sweep was started on."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = importlib.import_module(name)
    try:
        yield
    finally:
        sys.modules["__main__"] = before
