"""A requeueable job on a Slurm cluster, as run by submitit."""

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
    """A job that is requeued whenever it must leave its machine before its end.

    Two signals request that: SIGUSR2 if the time limit is near or the job is preempted; SIGTERM if the job is
    preempted, cancelled or already requeued (in the last two cases Slurm no longer reports it as running). If the
    machine dies, Slurm restarts the job with the same object.

    Args:
        errand: the remote job.
        long: seconds of running time after which SIGUSR2 means the time limit.
        requeues: the number of times that the job may be requeued at its time limit.
    """

    def __init__(self, errand: Errand, long: float, requeues: int) -> None:
        self.errand, self.long, self.requeues = errand, long, requeues
        self.began = 0.0
        self.spent = self.preempted = False

    def __call__(self) -> dict[str, Any]:
        """Run the job on the allocated machine; return its status."""
        self.began, self.spent, self.preempted = time.monotonic(), False, False
        come_back = signal.getsignal(signal.SIGUSR2)
        self.listen()
        try:
            return do(self.errand, "spawn")  # a fork server would be killed by the SIGTERM that all processes get
        except SystemExit:
            return self.leave(come_back)

    def listen(self) -> None:
        """Install the signal handlers.

        Slurm sends SIGUSR2 to all processes, but it must not end the job's process.
        """
        # A signal that is blocked in this thread is blocked in the processes that it starts, too: that protects the
        # job's process. Here a second thread, in which SIGUSR2 is not blocked, receives the signal, and Python runs
        # the handler in the main thread.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self.told)

    def told(self, number: int, _: Any) -> None:
        """Stop the job by exiting from `do`, and ignore further signals."""
        for handled in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(handled, signal.SIG_IGN)
        self.preempted = number == signal.SIGUSR2
        self.spent = self.preempted and time.monotonic() - self.began >= self.long
        sys.exit(TERMINATED)

    def leave(self, come_back: Any) -> dict[str, Any]:
        """Return the job's status if it has ended; else requeue it, unless Slurm has requeued or cancelled it; exit."""
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
        """Return the submission for submitit to requeue (a hook of submitit)."""
        self.requeues -= self.spent
        return DelayedSubmission(self)


def running() -> bool:
    """Return True if Slurm reports the job of this process as running."""
    output = slurm("squeue", "--noheader", "--format=%T", f"--jobs={os.environ.get('SLURM_JOB_ID', '')}")
    return "SLURM_JOB_ID" in os.environ and output is not None and output.strip() == "RUNNING"


def slurm(*command: str) -> str | None:
    """Run a Slurm command and return its output; ``None`` if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None
