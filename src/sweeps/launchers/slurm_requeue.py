"""A requeueable job on a Slurm cluster, as run by submitit."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from submitit.core.utils import DelayedSubmission

from src.core.errors import TERMINATED
from src.sweeps.launchers.cluster import RemoteJob, run_remote_job
from src.sweeps.store.jobs import read_job


class RequeueableJob:
    """A job that is requeued whenever it must leave its machine before its end.

    Two signals request that: SIGUSR2 if the time limit is near or the job is preempted; SIGTERM if the job is
    preempted, cancelled or already requeued (in the last two cases Slurm no longer reports it as running). If the
    machine dies, Slurm restarts the job with the same object.

    Args:
        remote_job: the remote job.
        limit_seconds: seconds of running time after which SIGUSR2 means the time limit.
        requeues: the number of times that the job may be requeued at its time limit.
    """

    def __init__(self, remote_job: RemoteJob, limit_seconds: float, requeues: int) -> None:
        self.remote_job, self.limit_seconds, self.requeues = remote_job, limit_seconds, requeues
        self.started_at = 0.0
        self.timed_out = self.preempted = False

    def __call__(self) -> dict[str, Any]:
        """Run the job on the allocated machine; return its status."""
        self.started_at, self.timed_out, self.preempted = time.monotonic(), False, False
        come_back = signal.getsignal(signal.SIGUSR2)
        self.register_signal_handlers()
        try:
            return run_remote_job(
                self.remote_job, "spawn"
            )  # a fork server would be killed by the SIGTERM that all processes get
        except SystemExit:
            return self.exit_or_requeue(come_back)

    def register_signal_handlers(self) -> None:
        """Install the signal handlers.

        Slurm sends SIGUSR2 to all processes, but it must not end the job's process.
        """
        # A signal that is blocked in this thread is blocked in the processes that it starts, too: that protects the
        # job's process. Here a second thread, in which SIGUSR2 is not blocked, receives the signal, and Python runs
        # the handler in the main thread.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self.handle_signal)

    def handle_signal(self, number: int, _: Any) -> None:
        """Stop the job by exiting from `do`, and ignore further signals."""
        for handled in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(handled, signal.SIG_IGN)
        self.preempted = number == signal.SIGUSR2
        self.timed_out = self.preempted and time.monotonic() - self.started_at >= self.limit_seconds
        sys.exit(TERMINATED)

    def exit_or_requeue(self, requeue: Any) -> dict[str, Any]:
        """Return the job's status if it has ended; else requeue it, unless Slurm has requeued or cancelled it; exit."""
        job = read_job(self.remote_job.spec.folder)
        if job.status["status"] in ("finished", "paused"):
            return job.status
        if self.timed_out and self.requeues == 0:
            job.write_status(
                "failed", "time limit", "hydra.launcher.time_limit= reached, with no hydra.launcher.requeues= left"
            )
            return job.status
        if self.preempted or _is_running():
            job.write_status("waiting", None, "preempted or out of time, and requeued")
            requeue(signal.SIGUSR2, None)
        job.write_status("interrupted", "killed", "stopped by Slurm")
        sys.exit(TERMINATED)

    def checkpoint(self) -> DelayedSubmission:
        """Return the submission for submitit to requeue (a hook of submitit)."""
        self.requeues -= self.timed_out
        return DelayedSubmission(self)


def _is_running() -> bool:
    """Return True if Slurm reports the job of this process as running."""
    output = run_slurm_command("squeue", "--noheader", "--format=%T", f"--jobs={os.environ.get('SLURM_JOB_ID', '')}")
    return "SLURM_JOB_ID" in os.environ and output is not None and output.strip() == "RUNNING"


def run_slurm_command(*command: str) -> str | None:
    """Run a Slurm command and return its output; ``None`` if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None
