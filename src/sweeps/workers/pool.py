"""A pool of worker processes that run jobs concurrently, each worker with its own resources."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any

from src.core.disk import FILE
from src.core.errors import InputError
from src.storage.files import sync_job_files
from src.storage.status import Status, make_status
from src.sweeps.store.endings import prepare_job, prepare_jobs, record_end
from src.sweeps.store.jobs import Job
from src.sweeps.workers.worker import EXIT_NO_STORAGE, Spec, run_worker

TICK_SECONDS = 0.25  # seconds between two polls of the workers
STOP_GRACE_SECONDS = 20.0  # seconds that a job gets to save its state after it was asked to stop
NVML_CUDA_CHECK = (
    "PYTORCH_NVML_BASED_CUDA_CHECK"  # detecting GPUs creates no CUDA context, so that forking stays possible
)
CRASH_SIGNALS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
)  # caused by the program itself
RETRY_PAUSES = (0.1, 1.0)  # seconds before each further attempt to start a process
EXIT_SERVER_DIED = 255  # exit code that multiprocessing reports if the fork server has died


@dataclass
class Worker:
    """A running worker process.

    Attributes:
        jobs: the jobs that it runs, usually one.
        process: the process.
        resources: its resources, as environment variables.
        started_at: start time, in seconds of a monotonic clock.
        stop_request: reason and message of the request to stop; ``None`` if there was none.
        kill_deadline: when it is killed if it has not stopped by then, in seconds of the same clock.
    """

    jobs: Sequence[Job]
    process: Any
    resources: dict[str, str]
    started_at: float
    stop_request: tuple[str, str] | None = None
    kill_deadline: float = math.inf

    def ask_to_stop(self, reason: str, message: str) -> None:
        if self.stop_request is None:
            self.stop_request, self.kill_deadline = (reason, message), time.monotonic() + STOP_GRACE_SECONDS
            self.process.terminate()


class Pool:
    """A pool of worker processes.

    Args:
        context: the multiprocessing context, which fixes the start method.
        resources: the resources of each concurrent process, as environment variables.
        time_limit: seconds per process; ``None``: no limit.
        make_spec: makes the spec of a process from its jobs and its resources.
        on_start: called with each job that has started.
        on_end: called with each job that has ended, and its status.
        on_tick: called a few times a second.
    """

    def __init__(
        self,
        context: BaseContext,
        resources: list[dict[str, str]],
        time_limit: float | None,
        make_spec: Callable[[Sequence[Job], dict[str, str]], Spec],
        on_start: Callable[[Job], None],
        on_end: Callable[[Job, Status], None],
        on_tick: Callable[[], None],
    ) -> None:
        self.context, self.free_resources, self.time_limit, self.make_spec = (
            context,
            deque(resources),
            time_limit,
            make_spec,
        )
        self.on_start, self.on_end, self.on_tick = on_start, on_end, on_tick
        self.running: dict[Any, Worker] = {}  # by the process's sentinel, which is ready when the process has ended

    def run(self, processes: Iterable[Sequence[Job]]) -> None:
        """Run the jobs of each process, in order; if this is interrupted, stop the running ones.

        A process is drawn when it can start; one without jobs means that none can before another has ended.
        """
        waiting = iter(processes)
        try:
            while True:
                while self.free_resources and (jobs := next(waiting, None)):
                    self.start(jobs)
                if not self.running:
                    return
                self.poll()
                self.on_tick()
        finally:
            for worker in self.running.values():
                worker.ask_to_stop("killed", "the sweep was stopped")
            while self.running:
                self.poll()
                with contextlib.suppress(InputError):  # it may be the error that led here
                    self.on_tick()

    def start(self, jobs: Sequence[Job]) -> None:
        """Start a process for those of its jobs that can run."""
        with sync_job_files() if len(jobs) > 1 else contextlib.nullcontext():
            jobs = prepare_jobs(jobs, prepare_job, self.on_end)
        if not jobs:
            return
        resources = self.free_resources.popleft()
        process = self.context.Process(target=run_worker, args=(self.make_spec(jobs, resources),))  # type: ignore[attr-defined]
        start_process(self.context, process)
        self.running[process.sentinel] = Worker(jobs, process, resources, time.monotonic())
        for job in jobs:
            self.on_start(job)

    def poll(self) -> None:
        """Wait up to `TICK_SECONDS` seconds for workers to end, and stop those that exceed their time limit."""
        for ready in connection.wait(list(self.running), timeout=TICK_SECONDS):
            self.reap(self.running.pop(ready))
        now, limit = time.monotonic(), self.time_limit or math.inf
        for worker in self.running.values():
            if now - worker.started_at > limit:
                worker.ask_to_stop("time limit", f"stopped after {limit:g} seconds")
            if now > worker.kill_deadline:
                worker.process.kill()

    def reap(self, worker: Worker) -> None:
        """Record how the jobs of an ended worker ended, and free its resources."""
        worker.process.join()
        code = worker.process.exitcode
        if code == EXIT_SERVER_DIED:
            # The fork server died, so that nothing is known of the worker: it may still be running as an orphan.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.close()
        self.free_resources.append(worker.resources)
        for job in worker.jobs:
            self.on_end(job, record_end(job, lambda status: infer_status(status, code, worker.stop_request)))


def infer_status(status: Status, exit_code: int, stop_request: tuple[str, str] | None) -> Status:
    """Return the final status of a job whose process has ended.

    Args:
        status: the status that the process has written.
        exit_code: the process's exit code, negative after a signal.
        stop_request: reason and message of the request to stop; ``None`` if there was none.
    """
    before = status["status"]
    if before in ("finished", "paused") or (before in ("failed", "interrupted") and not stop_request):
        return status
    reason, message = stop_request or _describe_exit(exit_code)
    stopped = stop_request and reason != "time limit"
    return make_status("interrupted" if stopped else "failed", reason, message)


def _describe_exit(exit_code: int) -> tuple[str, str]:
    """Return reason and message for a process that ended without writing a status."""
    if exit_code == EXIT_SERVER_DIED:
        return "killed", "its process was lost because the fork server died"
    if exit_code == EXIT_NO_STORAGE:
        return FILE, "its process could not write its files"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (by hand, or by the system when memory ran out)" if -exit_code == signal.SIGKILL else ""
        return "crashed" if -exit_code in CRASH_SIGNALS else "killed", f"by signal {name}{hint}"
    return "error", f"its process ended with exit code {exit_code} and no message"


def get_mp_context(method: str | None) -> BaseContext:
    """Return the multiprocessing context for a start method.

    With "forkserver" workers are forked from a process that has already imported everything; with "spawn" each one
    starts from scratch.

    Args:
        method: "forkserver" or "spawn"; ``None``: "forkserver" on Linux, else "spawn" (Apple's libraries do not
            support forks).
    """
    context = multiprocessing.get_context(method or ("forkserver" if sys.platform == "linux" else "spawn"))
    if context.get_start_method() == "forkserver":
        os.environ[NVML_CUDA_CHECK] = "1"
        context.set_forkserver_preload(["src.sweeps.workers.preload"])
    return context


def start_fork_server(context: BaseContext) -> None:
    """Start the fork server, if there is one, which does the imports in the background."""
    if context.get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        with ignore_sigint(), silence_fd(1):
            ensure_running()


def start_process(context: BaseContext, process: Any) -> None:
    """Start a process that ignores Ctrl-C."""
    start_fork_server(context)
    if context.get_start_method() == "forkserver":
        _start_by_server(context, process)  # may have to wait for the server's imports
    else:
        with ignore_sigint():
            process.start()


def _start_by_server(context: BaseContext, process: Any) -> None:
    """Start a process by the fork server; start a new server and retry if the server was killed."""
    for pause in RETRY_PAUSES:
        try:
            process.start()
            return
        except (EOFError, ConnectionError):
            time.sleep(pause)  # `ensure_running` must find the server dead, which takes the system a moment
            start_fork_server(context)
    process.start()


@contextlib.contextmanager
def ignore_sigint() -> Iterator[None]:
    """Start children with SIGINT ignored: a terminal sends Ctrl-C to all processes, but the parent stops them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def silence_fd(fd: int) -> Iterator[None]:
    """Redirect the standard output (1) or error (2) to ``/dev/null``, for native code, too.

    Children started meanwhile do not inherit the stream: whoever reads it need not wait for them to end.
    """
    saved, null = os.dup(fd), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, fd)
        yield
    finally:
        os.dup2(saved, fd)
        os.close(saved)
        os.close(null)
