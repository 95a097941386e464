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
from src.sweeps.launchers.cluster import Errand
from src.sweeps.launchers.slurm_requeue import Attempts, slurm
from src.sweeps.workers.pool import TICK, deaf

LOOK = 1.0  # seconds between two polls for results
ASK = 10.0  # seconds between two queries to Slurm, whose controller all users share
LATE = 15.0  # seconds until the result of an ended job is visible in a shared folder, at most
WORDLESS = ("error", "it ended without a word")
ENDS = {
    "BOOT_FAIL": ("killed", "its machine did not start"),
    "CANCELLED": ("killed", "cancelled in Slurm"),
    "COMPLETED": WORDLESS,
    "DEADLINE": ("time limit", "Slurm's deadline for it has passed"),
    "FAILED": WORDLESS,
    "NODE_FAIL": ("killed", "its machine was lost"),
    "OUT_OF_MEMORY": ("out of memory", "it took more than hydra.launcher.memory= allows"),
    "PREEMPTED": ("killed", "preempted, and Slurm did not queue it again"),
    "TIMEOUT": ("time limit", "stopped by Slurm at its time limit"),
}  # reason and message, by the Slurm state of a job that has ended
GONE = ("killed", "Slurm does not know it any more")


class Queue:
    """Slurm's queue, queried by ``squeue``, which, unlike ``sacct``, needs no accounting.

    Args:
        executor: submits jobs.
        attempts: wraps a remote job for submission.
        name: the job name in Slurm, common to all jobs of this sweep and unique to it.
    """

    def __init__(self, executor: submitit.SlurmExecutor, attempts: Callable[[Errand], Attempts], name: str) -> None:
        self.executor, self.attempts, self.name = executor, attempts, name
        self.looked = self.asked = -math.inf
        self.states: dict[str, str] = {}  # Slurm state, by job id
        self.ended: dict[str, float] = {}  # time at which a job was first seen to have ended, by job id
        self.stopping = False

    def submit(self, errands: list[Errand]) -> list[Any]:
        try:
            with deaf(), outside(), contextlib.redirect_stderr(io.StringIO()):
                return self.executor.submit_array([self.attempts(remote_job) for remote_job in errands])
        except UncompletedJobError as error:
            raise InputError(f"Slurm does not take the jobs: {' '.join(str(error).split())}") from None

    def over(self, tasks: list[Any]) -> list[Any]:
        time.sleep(TICK)
        now = time.monotonic()
        if now - self.looked < LOOK:
            return []
        self.looked = now
        if now - self.asked >= (LOOK if self.stopping else ASK):
            self.asked = now
            self.take_note([task.job_id for task in tasks])
        # A task is over when its result file exists, or when Slurm has reported its end for `LATE` seconds without one.
        results, delay = set(self.executor.folder.glob("*_result.pkl")), 0 if self.stopping else LATE
        without_result = {job for job, since in self.ended.items() if now - since >= delay}
        return [task for task in tasks if task.paths.result_pickle in results or task.job_id in without_result]

    def take_note(self, jobs: list[str]) -> None:
        """Update the states of jobs from Slurm, and requeue the preempted ones."""
        states = self.queue()
        if states is None:  # Slurm does not answer at the moment
            return
        self.states = states
        for job in jobs:
            if states.get(job) == "PREEMPTED" and not self.stopping and slurm("scontrol", "requeue", job) is not None:
                states[job] = "PENDING"
            if states.get(job) in (*ENDS, None):
                self.ended.setdefault(job, time.monotonic())
            else:
                self.ended.pop(job, None)

    def queue(self) -> dict[str, str] | None:
        """Return the states of this sweep's jobs by id, including recently ended ones; ``None`` if Slurm is silent."""
        options = ("--me", "--array", "--noheader", "--states=all", "--format=%i|%T")
        output = slurm("squeue", f"--name={self.name}", *options)
        return None if output is None else dict(line.strip().split("|") for line in output.splitlines())

    def outcome(self, task: Any) -> dict[str, Any]:
        return result(task) or failed(*ENDS.get(self.states.get(task.job_id, ""), GONE), log=task.paths.stderr)

    def cancel(self, tasks: list[Any]) -> None:
        self.stopping = True
        self.end([task.job_id for task in tasks])

    def left(self) -> list[str]:
        """Return the ids of this sweep's jobs that have not ended, including those of earlier starts.

        Raises:
            InputError: if Slurm does not answer.
        """
        states = self.queue()
        if states is None:
            raise InputError("Slurm does not answer (squeue fails): is its controller running?")
        return [job for job, state in states.items() if state not in ENDS]

    def end(self, jobs: list[str]) -> None:
        slurm("scancel", *jobs)


class Here:
    """Processes on this machine as a stand-in for Slurm; a task's handle is its index in the list of jobs.

    Args:
        executor: starts the processes.
        attempts: wraps a remote job for submission.
        at_once: the maximum number of processes at once.
    """

    def __init__(self, executor: submitit.LocalExecutor, attempts: Callable[[Errand], Attempts], at_once: int) -> None:
        self.executor, self.attempts, self.at_once = executor, attempts, at_once
        self.waiting: deque[tuple[int, Errand]] = deque()
        self.begun: dict[int, Any] = {}

    def submit(self, errands: list[Errand]) -> list[int]:
        self.waiting.extend(enumerate(errands))
        return list(range(len(errands)))

    def over(self, tasks: list[int]) -> list[int]:
        while self.waiting and sum(not job.done() for job in self.begun.values()) < self.at_once:
            number, remote_job = self.waiting.popleft()
            with deaf(), outside():
                self.begun[number] = self.executor.submit(self.attempts(remote_job))
        time.sleep(TICK)
        waiting = {number for number, _ in self.waiting}
        return [task for task in tasks if task not in waiting and self.has_ended(task)]

    def has_ended(self, task: int) -> bool:
        return task not in self.begun or self.begun[task].done()

    def outcome(self, task: int) -> dict[str, Any]:
        return result(self.begun[task]) or failed(*WORDLESS, log=self.begun[task].paths.stderr)

    def cancel(self, tasks: list[int]) -> None:
        self.waiting.clear()
        self.end([self.begun[task].job_id for task in tasks if not self.has_ended(task)])

    def left(self) -> list[str]:
        """Return the process ids of this sweep's jobs that have not ended, including those of earlier starts."""
        output = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True).stdout
        folder = f" {self.executor.folder.parent}{os.sep}"  # contains a folder for each start of this sweep
        ours = [line for line in output.splitlines() if folder in line and "submitit" in line]
        return [line.split()[0] for line in ours]

    def end(self, jobs: list[str]) -> None:
        for process in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGTERM)


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """Hide the variables of a Slurm allocation that the sweep itself runs in, because its jobs are not part of it."""
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if inside and name.startswith("SLURM_") and name != "SLURM_CONF"]
    before = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(before)


def result(task: Any) -> dict[str, Any] | None:
    """Return the status that a task has written as its result; ``None`` if it has written none."""
    try:
        outcome, value = pickle.loads(task.paths.result_pickle.read_bytes())
    except FileNotFoundError:
        return None
    return value if outcome == "success" else failed("error", value.strip().splitlines()[-1])


def failed(reason: str, message: str, log: Path | None = None) -> dict[str, Any]:
    """Return the failed status of a job that could not write its status itself."""
    return {"status": "failed", "reason": reason, "message": f"{message} ({log})" if log else message}
