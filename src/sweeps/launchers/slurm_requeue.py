"""A job on a Slurm cluster, as submitit runs it there: it comes back when it had to leave its machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from submitit.core.utils import DelayedSubmission

from src.cli.main import TERMINATED
from src.sweeps.launchers.cluster import Errand, do
from src.sweeps.store.jobs import read_job


class Attempts:
    """A job's attempts, one after the other: it comes back whenever it has to leave its machine before its end.

    Two signals say that it has to: SIGUSR2, that its time is up soon or that it is preempted; SIGTERM,
    that it is preempted as well, or that it is cancelled or already queued again: then Slurm has it
    running no more. If the machine just dies, Slurm begins anew with the same object.

    Args:
        errand: what to do.
        long: seconds after which SIGUSR2 means the time limit.
        requeues: how often it may come back for that.
    """

    def __init__(self, errand: Errand, long: float, requeues: int) -> None:
        self.errand, self.long, self.requeues = errand, long, requeues
        self.began = 0.0
        self.spent = self.preempted = False

    def __call__(self) -> dict[str, Any]:
        """Do the job, on the machine that it was given; returns its status."""
        self.began, self.spent, self.preempted = time.monotonic(), False, False
        come_back = signal.getsignal(signal.SIGUSR2)
        self.listen()
        try:
            return do(self.errand, "spawn")  # a server that forks would die of the SIGTERM that all processes get
        except SystemExit:
            return self.leave(come_back)

    def listen(self) -> None:
        """Hear the signals, of which SIGUSR2 goes to all processes as well and must not end the job's.

        What is blocked in this thread is blocked in the processes that it starts. It is another
        thread that gets the signal here, and Python handles it in this one.
        """
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self.told)

    def told(self, number: int, _: Any) -> None:
        """Stop the job, which ends `do`; once is enough."""
        for each in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        self.preempted = number == signal.SIGUSR2
        self.spent = self.preempted and time.monotonic() - self.began >= self.long
        sys.exit(TERMINATED)

    def leave(self, come_back: Any) -> dict[str, Any]:
        """Returns the job's status if it is over; else ends the process, the job queued again if that is ours to do."""
        job = read_job(self.errand.order.folder)
        if job.status["status"] == "finished":
            return job.status
        if self.spent and self.requeues == 0:
            job.write_status(
                "failed", "time limit", "hydra.launcher.time_limit= reached, with no hydra.launcher.requeues= left"
            )
            return job.status
        if self.preempted or running():
            job.write_status("waiting", None, "told to leave its machine, and queued again")
            come_back(signal.SIGUSR2, None)
        job.write_status("interrupted", "killed", "told to leave its machine")
        sys.exit(TERMINATED)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit hands in when a job comes back."""
        self.requeues -= self.spent
        return DelayedSubmission(self)


def running() -> bool:
    """Whether Slurm has the job that this process belongs to as running."""
    told = slurm("squeue", "--noheader", "--format=%T", f"--jobs={os.environ.get('SLURM_JOB_ID', '')}")
    return "SLURM_JOB_ID" in os.environ and told is not None and told.strip() == "RUNNING"


def slurm(*command: str) -> str | None:
    """What a command of Slurm's says; ``None`` if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None
