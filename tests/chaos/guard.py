"""Calls that may hang or crash, made in processes that watch over each other."""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 6 * 2**30  # bytes that a call may take; more raises an error instead of having the system kill at random


class Lost(NamedTuple):
    """What became of a call that did not return: ``how`` is "hangs" or "died by SIGSEGV"."""

    how: str


class _Worker(NamedTuple):
    process: Any
    pipe: Connection
    item: Any
    deadline: float


def call_each(
    function: Callable[[Any, Path], Any], items: Iterable[Any], workers: int, patience: float
) -> Iterator[tuple[Any, Any]]:
    """Call a function for each item, in processes forked from this one; yield items and results as they come.

    Args:
        function: called with an item and an empty folder of its process's own.
        items: what to call it with.
        workers: how many processes.
        patience: seconds after which a call hangs.

    Yields:
        An item, and what was returned or a `Lost`.
    """
    rest = iter(items)
    with tempfile.TemporaryDirectory() as folder:
        start = partial(_start, function, Path(folder))
        busy = [_send(start(), rest, patience) for _ in range(workers)]
        try:
            while running := [worker for worker in busy if worker.item is not None]:
                soonest = min(worker.deadline for worker in running)
                ready = wait([worker.pipe for worker in running], max(0.0, soonest - time.monotonic()))
                for number, worker in enumerate(busy):
                    if worker.item is None or (worker.pipe not in ready and time.monotonic() < worker.deadline):
                        continue
                    result = _result(worker, hangs=worker.pipe not in ready)
                    yield worker.item, result
                    busy[number] = _send(start() if isinstance(result, Lost) else worker, rest, patience)
        finally:
            for worker in busy:
                worker.process.kill()
                worker.process.join()


def _start(function: Callable[[Any, Path], Any], folder: Path) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    own = Path(tempfile.mkdtemp(dir=folder))
    process = context.Process(target=_work, args=(function, own, theirs, ours), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours, None, 0.0)


def _send(worker: _Worker, rest: Iterator[Any], patience: float) -> _Worker:
    """Hand a worker the next item, if there is one."""
    item = next(rest, None)
    if item is not None:
        worker.pipe.send(item)
    return worker._replace(item=item, deadline=time.monotonic() + patience)


def _result(worker: _Worker, hangs: bool) -> Any:
    """Return what a call came to; a process that hangs is killed."""
    if not hangs:
        try:
            return worker.pipe.recv()
        except EOFError:
            pass
    else:
        worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode
    return Lost("hangs" if hangs else f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")


def _work(function: Callable[[Any, Path], Any], folder: Path, pipe: Connection, other_end: Connection) -> None:
    """Make calls until there are no more; what C code prints goes nowhere."""
    other_end.close()
    forkserver._forkserver._forkserver_pid = None  # type: ignore[attr-defined]  # the caller's, if it has one, is no child of this process
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(function(item, folder))
