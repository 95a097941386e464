"""A pool of worker processes that run jobs concurrently, each worker with its own resources."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any

from src.core.disk import FILE
from src.core.errors import InputError
from src.sweeps.store.endings import Status, make_ready, note_end, prepared, written_together
from src.sweeps.store.jobs import Job
from src.sweeps.workers.worker import NO_STORAGE, Task, work

TICK = 0.25  # seconds between two polls of the workers
GRACE = 20.0  # seconds that a job gets to save its state after it was asked to stop
LOOK_ONLY = "PYTORCH_NVML_BASED_CUDA_CHECK"  # detecting GPUs creates no CUDA context, so that forking stays possible
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)  # caused by the program itself
PAUSES = (0.1, 1.0)  # seconds before each further attempt to start a process
LOST = 255  # exit code that multiprocessing reports if the fork server has died


@dataclass
class Worker:
    """A running worker process.

    Attributes:
        jobs: the jobs that it runs, usually one.
        process: the process.
        share: its resources, as environment variables.
        began: start time, in seconds of a monotonic clock.
        asked: reason and message of the request to stop; ``None`` if there was none.
        patience: when it is killed if it has not stopped by then, in seconds of the same clock.
    """

    jobs: Sequence[Job]
    process: Any
    share: dict[str, str]
    began: float
    asked: tuple[str, str] | None = None
    patience: float = math.inf

    def ask_to_stop(self, reason: str, message: str) -> None:
        if self.asked is None:
            self.asked, self.patience = (reason, message), time.monotonic() + GRACE
            self.process.terminate()


class Pool:
    """A pool of worker processes.

    Args:
        context: the multiprocessing context, which fixes the start method.
        shares: the resources of each concurrent process, as environment variables.
        time_limit: seconds per process; ``None``: no limit.
        task: makes the spec of a process from its jobs and its resources.
        started: called with each job that has started.
        ended: called with each job that has ended, and its status.
        ticked: called a few times a second.
    """

    def __init__(
        self,
        context: BaseContext,
        shares: list[dict[str, str]],
        time_limit: float | None,
        task: Callable[[Sequence[Job], dict[str, str]], Task],
        started: Callable[[Job], None],
        ended: Callable[[Job, Status], None],
        ticked: Callable[[], None],
    ) -> None:
        self.context, self.free, self.time_limit, self.task = context, deque(shares), time_limit, task
        self.started, self.ended, self.ticked = started, ended, ticked
        self.running: dict[Any, Worker] = {}  # by the process's sentinel, which is ready when the process has ended

    def run(self, processes: Sequence[Sequence[Job]]) -> None:
        """Run the jobs of each process, in order; if this is interrupted, stop the running ones."""
        waiting = deque(processes)
        try:
            while waiting or self.running:
                while waiting and self.free:
                    self.start(waiting.popleft())
                self.look()
                self.ticked()
        finally:
            for worker in self.running.values():
                worker.ask_to_stop("killed", "the sweep was stopped")
            while self.running:
                self.look()
                with contextlib.suppress(InputError):  # it may be the error that led here
                    self.ticked()

    def start(self, jobs: Sequence[Job]) -> None:
        """Start a process for those of its jobs that can run."""
        with written_together() if len(jobs) > 1 else contextlib.nullcontext():
            jobs = prepared(jobs, make_ready, self.ended)
        if not jobs:
            return
        resources = self.free.popleft()
        process = self.context.Process(target=work, args=(self.task(jobs, resources),))  # type: ignore[attr-defined]
        begin(self.context, process)
        self.running[process.sentinel] = Worker(jobs, process, resources, time.monotonic())
        for job in jobs:
            self.started(job)

    def look(self) -> None:
        """Wait up to `TICK` seconds for workers to end, and stop those that exceed their time limit."""
        for ready in connection.wait(list(self.running), timeout=TICK):
            self.settle(self.running.pop(ready))
        now, limit = time.monotonic(), self.time_limit or math.inf
        for worker in self.running.values():
            if now - worker.began > limit:
                worker.ask_to_stop("time limit", f"stopped after {limit:g} seconds")
            if now > worker.patience:
                worker.process.kill()

    def settle(self, worker: Worker) -> None:
        """Record how the jobs of an ended worker ended, and free its resources."""
        worker.process.join()
        code = worker.process.exitcode
        if code == LOST:
            # The fork server died, so that nothing is known of the worker: it may still be running as an orphan.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.close()
        self.free.append(worker.share)
        for job in worker.jobs:
            self.ended(job, note_end(job, lambda status: completed(status, code, worker.asked)))


def completed(status: Status, code: int, asked: tuple[str, str] | None) -> Status:
    """Return the final status of a job whose process has ended.

    Args:
        status: the status that the process has written.
        code: the process's exit code, negative after a signal.
        asked: reason and message of the request to stop; ``None`` if there was none.
    """
    if status["status"] == "finished" or (status["status"] in ("failed", "interrupted") and not asked):
        return status
    reason, message = asked or why(code)
    stopped = asked and reason != "time limit"
    return {"status": "interrupted" if stopped else "failed", "reason": reason, "message": message}


def why(code: int) -> tuple[str, str]:
    """Return reason and message for a process that ended without writing a status."""
    if code == LOST:
        return "killed", "its process was lost with the one that started it"
    if code == NO_STORAGE:
        return FILE, "its process could not write its files"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (by hand, or by the system when memory ran out)" if -code == signal.SIGKILL else ""
        return "crashed" if -code in CRASHES else "killed", f"by signal {name}{hint}"
    return "error", f"its process ended with status {code} and without a word"


def starting(method: str | None) -> BaseContext:
    """Return the multiprocessing context for a start method.

    With "forkserver" workers are forked from a process that has already imported everything; with "spawn" each one
    starts from scratch.

    Args:
        method: "forkserver" or "spawn"; ``None``: "forkserver" on Linux, else "spawn" (Apple's libraries do not
            support forks).
    """
    context = multiprocessing.get_context(method or ("forkserver" if sys.platform == "linux" else "spawn"))
    if context.get_start_method() == "forkserver":
        os.environ[LOOK_ONLY] = "1"
        context.set_forkserver_preload(["src.sweeps.workers.preload"])
    return context


def warm_up(context: BaseContext) -> None:
    """Start the fork server, if there is one, which does the imports in the background."""
    if context.get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        with deaf(), mute(1):
            ensure_running()


def begin(context: BaseContext, process: Any) -> None:
    """Start a process that ignores Ctrl-C."""
    warm_up(context)
    if context.get_start_method() == "forkserver":
        _start_by_server(context, process)  # may have to wait for the server's imports
    else:
        with deaf():
            process.start()


def _start_by_server(context: BaseContext, process: Any) -> None:
    """Start a process by the fork server; start a new server and retry if the server was killed."""
    for pause in PAUSES:
        try:
            process.start()
            return
        except (EOFError, ConnectionError):
            time.sleep(pause)  # `ensure_running` must find the server dead, which takes the system a moment
            warm_up(context)
    process.start()


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Start children with SIGINT ignored: a terminal sends Ctrl-C to all processes, but the parent stops them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def mute(stream: int) -> Iterator[None]:
    """Redirect the standard output (1) or error (2) to ``/dev/null``, for native code, too.

    Children started meanwhile do not inherit the stream: whoever reads it need not wait for them to end.
    """
    saved, null = os.dup(stream), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream)
        yield
    finally:
        os.dup2(saved, stream)
        os.close(saved)
        os.close(null)
