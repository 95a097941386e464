"""Where a sweep's jobs are handed in by submitit, and asked about: Slurm's queue, or this machine in its place."""

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

LOOK = 1.0  # seconds between two looks for results
ASK = 10.0  # seconds between two questions to Slurm, which others ask, too
LATE = 15.0  # seconds that a shared folder may take to show the result of a job that has ended
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
}  # by the state in Slurm, of jobs that have ended
GONE = ("killed", "Slurm does not know it any more")


class Queue:
    """Slurm's queue. It is asked by ``squeue``, which needs no accounting, as ``sacct`` does.

    Args:
        executor: hands jobs in.
        attempts: what to hand in for an errand.
        name: which all jobs of this sweep have in Slurm, and no others.
    """

    def __init__(self, executor: submitit.SlurmExecutor, attempts: Callable[[Errand], Attempts], name: str) -> None:
        self.executor, self.attempts, self.name = executor, attempts, name
        self.looked = self.asked = -math.inf
        self.states: dict[str, str] = {}  # in Slurm, by id
        self.ended: dict[str, float] = {}  # when a job was first seen to have ended, by id
        self.stopping = False

    def submit(self, errands: list[Errand]) -> list[Any]:
        try:
            with deaf(), outside(), contextlib.redirect_stderr(io.StringIO()):
                return self.executor.submit_array([self.attempts(errand) for errand in errands])
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
        results, patience = set(self.executor.folder.glob("*_result.pkl")), 0 if self.stopping else LATE
        late = {job for job, since in self.ended.items() if now - since >= patience}
        return [task for task in tasks if task.paths.result_pickle in results or task.job_id in late]

    def take_note(self, jobs: list[str]) -> None:
        """Ask Slurm what has become of jobs, and let come back what it has cancelled to make room for others."""
        states = self.queue()
        if states is None:  # it does not answer at present
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
        """The states of this sweep's jobs by id, also of those that ended lately; ``None`` if Slurm does not answer."""
        form = ("--me", "--array", "--noheader", "--states=all", "--format=%i|%T")
        told = slurm("squeue", f"--name={self.name}", *form)
        return None if told is None else dict(line.strip().split("|") for line in told.splitlines())

    def outcome(self, task: Any) -> dict[str, Any]:
        return result(task) or failed(*ENDS.get(self.states.get(task.job_id, ""), GONE), log=task.paths.stderr)

    def cancel(self, tasks: list[Any]) -> None:
        self.stopping = True
        self.end([task.job_id for task in tasks])

    def left(self) -> list[str]:
        """The ids of this sweep's jobs that have not ended, of earlier starts, too."""
        states = self.queue()
        if states is None:
            raise InputError("Slurm does not answer (squeue fails): is its controller running?")
        return [job for job, state in states.items() if state not in ENDS]

    def end(self, jobs: list[str]) -> None:
        slurm("scancel", *jobs)


class Here:
    """Processes of this machine; what stands for a job is its place in the list.

    Args:
        executor: starts them.
        attempts: what to hand in for an errand.
        at_once: how many at most.
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
            number, errand = self.waiting.popleft()
            with deaf(), outside():
                self.begun[number] = self.executor.submit(self.attempts(errand))
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
        """The processes of this sweep's jobs that have not ended, of earlier starts, too."""
        told = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True).stdout
        starts = f" {self.executor.folder.parent}{os.sep}"  # this sweep's, each with a folder of its own there
        ours = [line for line in told.splitlines() if starts in line and "submitit" in line]
        return [line.split()[0] for line in ours]

    def end(self, jobs: list[str]) -> None:
        for process in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGTERM)


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """Without the variables of an allocation that the sweep itself may run in: its jobs are no part of that."""
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if inside and name.startswith("SLURM_") and name != "SLURM_CONF"]
    before = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(before)


def result(task: Any) -> dict[str, Any] | None:
    """The status that a task has left as its result; ``None`` if it has left nothing."""
    try:
        how, what = pickle.loads(task.paths.result_pickle.read_bytes())
    except FileNotFoundError:
        return None
    return what if how == "success" else failed("error", what.strip().splitlines()[-1])


def failed(reason: str, message: str, log: Path | None = None) -> dict[str, Any]:
    """The status of a job that could not write its own."""
    return {"status": "failed", "reason": reason, "message": f"{message} ({log})" if log else message}
