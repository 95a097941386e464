"""Jobs in processes of their own, some at once, each process with its share of the machine."""

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

TICK = 0.25  # seconds between two looks at the clock
GRACE = 20.0  # seconds for a job that is asked to stop to write what it has
LOOK_ONLY = "PYTORCH_NVML_BASED_CUDA_CHECK"  # looking for GPUs leaves no CUDA context, so that one can fork
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)  # of a program's own making
PAUSES = (0.1, 1.0)  # seconds before a process that could not be started is tried again
LOST = 255  # what multiprocessing reports where the process that forks workers has died


@dataclass
class Worker:
    """A process at work.

    Attributes:
        jobs: those that it does, most often one.
        process: where they run.
        share: its part of the machine, as environment variables.
        began: seconds of a monotonic clock.
        asked: why it was asked to stop, and in words; ``None`` if it was not.
        patience: until when it may take to stop; then it is killed.
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
    """Runs jobs until there are none left.

    Args:
        context: multiprocessing's, which says how a process is started.
        shares: for each process at once the environment variables that give it its part of the machine.
        time_limit: seconds per process; ``None``: no limit.
        task: what a process has to do, from its jobs and its share.
        started: called with each job that begins.
        ended: called with each job that has ended, and how.
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
        self.running: dict[Any, Worker] = {}  # by what is ready when the process has ended

    def run(self, processes: Sequence[Sequence[Job]]) -> None:
        """Run the jobs of each process, in order; when this is interrupted, so are they."""
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
                with contextlib.suppress(InputError):  # which may be what has interrupted it
                    self.ticked()

    def start(self, jobs: Sequence[Job]) -> None:
        """Start a process with those of its jobs that can be done."""
        with written_together() if len(jobs) > 1 else contextlib.nullcontext():
            jobs = prepared(jobs, make_ready, self.ended)
        if not jobs:
            return
        share = self.free.popleft()
        process = self.context.Process(target=work, args=(self.task(jobs, share),))  # type: ignore[attr-defined]
        begin(self.context, process)
        self.running[process.sentinel] = Worker(jobs, process, share, time.monotonic())
        for job in jobs:
            self.started(job)

    def look(self) -> None:
        """See which jobs have ended, and end those that take too long; waits a moment for one to end."""
        for ready in connection.wait(list(self.running), timeout=TICK):
            self.settle(self.running.pop(ready))
        now, limit = time.monotonic(), self.time_limit or math.inf
        for worker in self.running.values():
            if now - worker.began > limit:
                worker.ask_to_stop("time limit", f"stopped after {limit:g} seconds")
            if now > worker.patience:
                worker.process.kill()

    def settle(self, worker: Worker) -> None:
        """Take note of how its jobs ended, and give its share of the machine to the next."""
        worker.process.join()
        code = worker.process.exitcode
        if code == LOST:  # it may live on, out of reach
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.close()
        self.free.append(worker.share)
        for job in worker.jobs:
            self.ended(job, note_end(job, lambda status: completed(status, code, worker.asked)))


def completed(status: Status, code: int, asked: tuple[str, str] | None) -> Status:
    """Return the status that a job ended with.

    Args:
        status: what its own process has left.
        code: that process's exit status, negative after a signal.
        asked: why it was made to stop, and in words; ``None`` if it was not.
    """
    if status["status"] == "finished" or (status["status"] in ("failed", "interrupted") and not asked):
        return status
    reason, message = asked or why(code)
    stopped = asked and reason != "time limit"
    return {"status": "interrupted" if stopped else "failed", "reason": reason, "message": message}


def why(code: int) -> tuple[str, str]:
    """The reason for an end without a word, and in words."""
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
    """How processes are started: forked from one that has all imports done, or anew.

    Args:
        method: "forkserver" or "spawn"; ``None``: what suits the system. Apple's libraries do not bear forks.
    """
    context = multiprocessing.get_context(method or ("forkserver" if sys.platform == "linux" else "spawn"))
    if context.get_start_method() == "forkserver":
        os.environ[LOOK_ONLY] = "1"
        context.set_forkserver_preload(["src.sweeps.workers.preload"])
    return context


def warm_up(context: BaseContext) -> None:
    """Let the imports begin, while the caller does something else."""
    if context.get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        with deaf(), mute(1):
            ensure_running()


def begin(context: BaseContext, process: Any) -> None:
    """Start a process that Ctrl-C does not reach."""
    warm_up(context)
    if context.get_start_method() == "forkserver":
        _start_by_server(context, process)  # may have to wait for the imports
    else:
        with deaf():
            process.start()


def _start_by_server(context: BaseContext, process: Any) -> None:
    """Start a process, by another fork server if the one there is killed meanwhile."""
    for pause in PAUSES:
        try:
            process.start()
            return
        except (EOFError, ConnectionError):
            time.sleep(pause)  # until the system has it that the server is dead
            warm_up(context)
    process.start()


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Processes that begin here take no notice of Ctrl-C, which a terminal sends to all: their parent tells them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def mute(stream: int) -> Iterator[None]:
    """What is written to the standard output (1) or error (2), past Python too, goes nowhere.

    Processes that begin here do not hold this one's stream open: a reader of it need not wait for them.
    """
    own, nothing = os.dup(stream), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, stream)
        yield
    finally:
        os.dup2(own, stream)
        os.close(own)
        os.close(nothing)
