"""What the benchmarks share: children under a terminal, sides that take turns, tables."""

import os
import pty
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = "this project"
PAUSE = 3.0  # seconds after each side: processes that it leaves behind end in that time


class Table(NamedTuple):
    """What a benchmark found.

    Attributes:
        title: what was measured, and how.
        unit: of the values.
        values: by row.
        against: the row that the others are compared to; ``None``: they are of different kinds.
        notes: lines below.
        goal: what the ratios should be, in words.
    """

    title: str
    unit: str
    values: Mapping[str, list[float]]
    against: str | None
    notes: tuple[str, ...] = ()
    goal: str | None = None

    def ratio(self, name: str) -> float:
        """A row's median over that of the row it is compared to."""
        assert self.against is not None
        return statistics.median(self.values[name]) / statistics.median(self.values[self.against])

    def __str__(self) -> str:
        width = max(map(len, self.values))
        heads = f"{self.unit:{width}}{'median':>10}{'min':>10}{'max':>10}{'n':>6}"
        lines = [self.title, heads + (f"{'ratio':>9}" if self.against else "")]
        for name, values in self.values.items():
            numbers = f"{statistics.median(values):10.2f}{min(values):10.2f}{max(values):10.2f}{len(values):6}"
            lines.append(f"{name:{width}}{numbers}" + (f"{self.ratio(name):8.2f}×" if self.against else ""))
        goal = [f"goal: {self.goal}"] if self.goal else []
        return "\n".join([*lines, *self.notes, *goal])


def in_turns(
    sides: Mapping[str, Callable[[int], list[float]]], rounds: int, pause: float = PAUSE
) -> dict[str, list[float]]:
    """The values of each side, which take turns: what else the machine does falls on all of them.

    Args:
        sides: what measures one, given the number of the round, from 0.
        rounds: how many.
        pause: seconds after each.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, measure in sides.items():
            tell(f"round {number + 1} of {rounds}: {name} …")
            values[name] += measure(number)
            time.sleep(pause)
    return values


def tell(what: str) -> None:
    """Say how far it is; the tables alone go to the standard output."""
    print(what, file=sys.stderr, flush=True)


class Child(NamedTuple):
    """How long a process took, the most memory that it had, and what it said where that was asked for.

    Seconds from its start to its end, and MB.
    """

    seconds: float
    memory: float
    out: str


@contextmanager
def terminal() -> Iterator[tuple[int, deque[bytes]]]:
    """A pseudo-terminal to write to, so that a child draws its progress bars, and the end of what is written there."""
    ours, theirs = pty.openpty()
    written: deque[bytes] = deque(maxlen=20)
    reader = threading.Thread(target=drain, args=(ours, written), daemon=True)
    reader.start()
    try:
        yield theirs, written
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def drain(end: int, written: deque[bytes]) -> None:
    """Read a pseudo-terminal until nobody holds its other end, so that a writer never waits."""
    while True:
        try:
            if not (read := os.read(end, 65536)):
                return
            written.append(read)
        except OSError:
            return


def child(*arguments: str, piped: bool = False, limit: float | None = None, **environment: str) -> Child:
    """Run ``python ARGUMENTS`` under a terminal.

    Args:
        piped: take its standard output; the terminal gets its errors alone.
        limit: seconds that it may take, then it is killed; ``None``: as long as it takes.
        environment: variables beside those of this process.

    Raises:
        CalledProcessError: if it does not end well, with the end of what it said.
    """
    command = [sys.executable, "-W", "ignore", *arguments]
    with terminal() as (end, written):
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=end,
            stdout=subprocess.PIPE if piped else end,
            stderr=end,
            text=True,
        )
        killer = threading.Timer(limit or threading.TIMEOUT_MAX, process.kill)
        killer.daemon = True
        killer.start()
        out = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        killer.cancel()
        seconds, process.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
    if process.returncode:
        told = out + b"".join(written).decode(errors="replace")
        raise subprocess.CalledProcessError(process.returncode, command, told)
    return Child(seconds, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), out)
