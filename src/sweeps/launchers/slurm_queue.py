"""The clusters that submitit submits jobs to: Slurm's queue, or processes on this machine as a stand-in."""

import contextlib
import io
import math
import os
import pickle
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from src.core.errors import InputError
from src.storage.status import Status, make_failed_status
from src.sweeps.launchers.cluster import RemoteJob
from src.sweeps.launchers.slurm_requeue import RequeueableJob, run_slurm_command
from src.sweeps.workers.pool import TICK_SECONDS, ignore_sigint

POLL_SECONDS = 1.0  # seconds between two polls for results
QUERY_SECONDS = 10.0  # seconds between two queries to Slurm, whose controller all users share
RESULT_DELAY_SECONDS = 15.0  # seconds until the result of an ended job is visible in a shared folder, at most
NO_STATUS = ("error", "it ended without a status")
END_REASONS = {
    "BOOT_FAIL": ("killed", "its machine did not start"),
    "CANCELLED": ("killed", "cancelled in Slurm"),
    "COMPLETED": NO_STATUS,
    "DEADLINE": ("time limit", "Slurm's deadline for it has passed"),
    "FAILED": NO_STATUS,
    "NODE_FAIL": ("killed", "its machine was lost"),
    "OUT_OF_MEMORY": ("out of memory", "it took more than hydra.launcher.memory= allows"),
    "PREEMPTED": ("killed", "preempted, and Slurm did not queue it again"),
    "TIMEOUT": ("time limit", "stopped by Slurm at its time limit"),
}  # reason and message, by the Slurm state of a job that has ended
UNKNOWN_JOB = ("killed", "Slurm no longer knows it")


class SlurmQueue:
    """Slurm's queue, queried by ``squeue``, which, unlike ``sacct``, needs no accounting.

    Args:
        executor: submits jobs.
        wrap_job: wraps a remote job for submission.
        name: the job name in Slurm, common to all jobs of this sweep and unique to it.
    """

    def __init__(
        self, executor: submitit.SlurmExecutor, wrap_job: Callable[[RemoteJob], RequeueableJob], name: str
    ) -> None:
        self.executor, self.wrap_job, self.name = executor, wrap_job, name
        self.last_poll = self.last_query = -math.inf
        self.states: dict[str, str] = {}  # Slurm state, by job id
        self.ended_at: dict[str, float] = {}  # time at which a job was first seen to have ended, by job id
        self.stopping = False

    def submit(self, remote_jobs: list[RemoteJob]) -> list[Any]:
        try:
            with ignore_sigint(), _drop_slurm_variables(), contextlib.redirect_stderr(io.StringIO()):
                return self.executor.submit_array([self.wrap_job(remote_job) for remote_job in remote_jobs])
        except UncompletedJobError as error:
            raise InputError(f"Slurm refused the jobs: {' '.join(str(error).split())}") from None

    def poll(self, tasks: list[Any]) -> list[Any]:
        time.sleep(TICK_SECONDS)
        now = time.monotonic()
        if now - self.last_poll < POLL_SECONDS:
            return []
        self.last_poll = now
        if now - self.last_query >= (POLL_SECONDS if self.stopping else QUERY_SECONDS):
            self.last_query = now
            self.update_states([task.job_id for task in tasks])
        # A task is over when its result file exists, or when Slurm has reported its end for `RESULT_DELAY_SECONDS`
        # seconds without one.
        results, delay = set(self.executor.folder.glob("*_result.pkl")), 0 if self.stopping else RESULT_DELAY_SECONDS
        without_result = {job for job, since in self.ended_at.items() if now - since >= delay}
        return [task for task in tasks if task.paths.result_pickle in results or task.job_id in without_result]

    def update_states(self, jobs: list[str]) -> None:
        """Update the states of jobs from Slurm, and requeue the preempted ones."""
        states = self.fetch_states()
        if states is None:  # Slurm does not answer at the moment
            return
        self.states = states
        for job in jobs:
            if (
                states.get(job) == "PREEMPTED"
                and not self.stopping
                and run_slurm_command("scontrol", "requeue", job) is not None
            ):
                states[job] = "PENDING"
            if states.get(job) in (*END_REASONS, None):
                self.ended_at.setdefault(job, time.monotonic())
            else:
                self.ended_at.pop(job, None)

    def fetch_states(self) -> dict[str, str] | None:
        """Return the states of this sweep's jobs by id, including recently ended ones; ``None`` if Slurm is silent."""
        options = ("--me", "--array", "--noheader", "--states=all", "--format=%i|%T")
        output = run_slurm_command("squeue", f"--name={self.name}", *options)
        return None if output is None else dict(line.strip().split("|") for line in output.splitlines())

    def get_status(self, task: Any) -> Status:
        return _read_result(task) or _make_logged_status(
            *END_REASONS.get(self.states.get(task.job_id, ""), UNKNOWN_JOB), log=task.paths.stderr
        )

    def cancel(self, tasks: list[Any]) -> None:
        self.stopping = True
        self.terminate([task.job_id for task in tasks])

    def find_unfinished(self) -> list[str]:
        """Return the ids of this sweep's jobs that have not ended, including those of earlier starts.

        Raises:
            InputError: if Slurm does not answer.
        """
        states = self.fetch_states()
        if states is None:
            raise InputError("Slurm does not answer (squeue fails): is its controller running?")
        return [job for job, state in states.items() if state not in END_REASONS]

    def terminate(self, jobs: list[str]) -> None:
        run_slurm_command("scancel", *jobs)


class LocalCluster:
    """Processes on this machine as a stand-in for Slurm; a task's handle is its index in the list of jobs.

    Args:
        executor: starts the processes.
        wrap_job: wraps a remote job for submission.
        max_jobs: the maximum number of processes at once.
    """

    def __init__(
        self, executor: submitit.LocalExecutor, wrap_job: Callable[[RemoteJob], RequeueableJob], max_jobs: int
    ) -> None:
        self.executor, self.wrap_job, self.max_jobs = executor, wrap_job, max_jobs
        self.waiting: deque[tuple[int, RemoteJob]] = deque()
        self.started: dict[int, Any] = {}

    def submit(self, remote_jobs: list[RemoteJob]) -> list[int]:
        self.waiting.extend(enumerate(remote_jobs))
        return list(range(len(remote_jobs)))

    def poll(self, tasks: list[int]) -> list[int]:
        while self.waiting and sum(not job.done() for job in self.started.values()) < self.max_jobs:
            number, remote_job = self.waiting.popleft()
            with ignore_sigint(), _drop_slurm_variables():
                self.started[number] = self.executor.submit(self.wrap_job(remote_job))
        time.sleep(TICK_SECONDS)
        waiting = {number for number, _ in self.waiting}
        return [task for task in tasks if task not in waiting and self.has_ended(task)]

    def has_ended(self, task: int) -> bool:
        return task not in self.started or self.started[task].done()

    def get_status(self, task: int) -> Status:
        return _read_result(self.started[task]) or _make_logged_status(*NO_STATUS, log=self.started[task].paths.stderr)

    def cancel(self, tasks: list[int]) -> None:
        self.waiting.clear()
        self.terminate([self.started[task].job_id for task in tasks if not self.has_ended(task)])

    def find_unfinished(self) -> list[str]:
        """Return the process ids of this sweep's jobs that have not ended, including those of earlier starts."""
        output = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True).stdout
        folder = f" {self.executor.folder.parent}{os.sep}"  # contains a folder for each start of this sweep
        ours = [line for line in output.splitlines() if folder in line and "submitit" in line]
        return [line.split()[0] for line in ours]

    def terminate(self, jobs: list[str]) -> None:
        for process in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGTERM)


@contextlib.contextmanager
def _drop_slurm_variables() -> Iterator[None]:
    """Hide the variables of a Slurm allocation that the sweep itself runs in, because its jobs are not part of it."""
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if inside and name.startswith("SLURM_") and name != "SLURM_CONF"]
    before = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(before)


def _read_result(task: Any) -> Status | None:
    """Return the status that a task has written as its result; ``None`` if it has written none."""
    try:
        outcome, value = pickle.loads(task.paths.result_pickle.read_bytes())
    except FileNotFoundError:
        return None
    return value if outcome == "success" else make_failed_status("error", value.strip().splitlines()[-1])


def _make_logged_status(reason: str, message: str, log: Path | None = None) -> Status:
    """Return the failed status of a job that could not write its status itself."""
    return make_failed_status(reason, f"{message} ({log})" if log else message)
