"""What is shown of a sweep while it runs: a live area in a terminal, elsewhere a line for each job that ended."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from src.storage.records import spelled
from src.sweeps.progress.tracker import Best, Tally

WIDTH, BAR, SHOWN = 120, 40, 8  # cells of a line and of the bar at most; running jobs with a line of their own
TIMES = 38  # cells beside the bar
LONGEST = 300  # characters of a message; the log has all of it
# Each kind of jobs: its mark, also where there is nothing but ASCII, and its colour.
MARKS = {
    "done": ("█", "#", "green"),
    "running": ("▒", "=", "cyan"),
    "failed": ("×", "x", "red"),
    "interrupted": ("/", "/", "magenta"),
    "left": ("·", ".", "dim"),
}


class Display:
    """Shows a sweep while it runs.

    In a terminal an area below the rest of the output has a bar, counts, the time left, the best job by the
    monitored metric and the running jobs; failures are told above it as they happen. Elsewhere each job that
    ended is told in a line. The metrics of the test are not shown: they must not choose.

    Args:
        names: the title of each job of the sweep by its number, those finished earlier included.
        finished_before: how many of them earlier starts have finished.
        at_once: how many run at once.
        clock: seconds that only grow.
    """

    def __init__(
        self, names: dict[int, str], finished_before: int, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tally = Tally(names, finished_before, at_once, clock)
        self.console = Console(highlight=False)
        self.drawn: list[int] = []  # cells of each line of the area as it stands
        live = sys.stdout.isatty() and self.console.is_interactive
        self.live = Live(console=self.console, get_renderable=self.area, auto_refresh=False) if live else None

    def __enter__(self) -> Self:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a sign that the terminal lacks must not end a sweep
        if self.live:
            self.live.start()
            self.console.show_cursor(True)  # a process that is killed could not bring it back
            self.refresh()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.tally.running.clear()
            self.refresh()
            self.live.stop()

    def known(self, number: int, metrics: dict[str, Any]) -> None:
        """A job that an earlier start finished may be the best; ``metrics`` as in ``metrics.json``."""
        self.tally.rate(number, metrics)

    def started(self, number: int, folder: Path) -> None:
        """A job has started in its folder."""
        self.tally.start(number, folder)
        self.refresh()

    def ended(self, number: int, status: str, reason: str | None, message: str | None, metrics: dict[str, Any]) -> None:
        """A job has ended; ``status``, ``reason``, ``message`` as in ``status.json``, ``metrics`` ``{}`` if none."""
        job, label = self.tally.end(number, status, metrics), self.tally.label(number)
        if status == "finished":
            line = " · ".join([f"{label}: {outcome(metrics)}", *self.prospects()])
        elif status == "interrupted":
            line = f"{label}: interrupted{because(message)}"
        else:
            log = f" · log: {as_typed(job.folder / 'train.log')}" if job else ""
            line = f"{label}: {', '.join(filter(None, ['FAILED', reason]))}{because(message)}{log}"
        if not self.live:
            self.say(f"{self.count()} {line}")
        elif status not in ("finished", "interrupted"):
            self.say(line, style="red")
        self.refresh()

    def say(self, text: str, style: str = "") -> None:
        """Tell something in a line, in a terminal above the area."""
        if self.live:
            self.take_back_broken_lines()
            self.console.print(Text(printable(text), style=style), soft_wrap=True)
        else:
            print(printable(text), flush=True)

    def refresh(self) -> None:
        """Draw the area as things stand; to be called a few times a second."""
        if self.live:
            self.take_back_broken_lines()
            self.live.refresh()

    # Lines

    def count(self) -> str:
        width = len(str(self.tally.total))
        return f"[{self.tally.ended:{width}}/{self.tally.total}]"

    def prospects(self) -> list[str]:
        """The best so far, and the time left."""
        bests = [f"{self.tally.label(best.number)}, {score(best)}" for best in self.tally.bests.values()]
        return [*([f"best: {'; '.join(bests)}"] if bests else []), *self.time_left()]

    def time_left(self) -> list[str]:
        seconds = round(self.tally.time_left() or 0)
        return [f"about {clock_time(seconds)} left"] if seconds else []

    # The area

    def area(self) -> Text:
        """All of the area; no line is as wide as the terminal."""
        width = min(self.console.width - 1, WIDTH)
        lines = [self.bar(width), self.counts(), *self.bests()]
        lines += self.jobs(width, most=min(SHOWN, max(1, self.console.height - len(lines) - 2)))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        self.drawn = [line.cell_len for line in lines]
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def bar(self, width: int) -> Text:
        """Each kind of jobs with its share of the bar, and the times."""
        cells, bar, counted, at = max(min(BAR, width - TIMES), 10), Text(), 0, 0
        for kind, count in self.tally.parts.items():
            counted += count
            end = round(cells * counted / max(self.tally.total, 1))
            bar.append(self.mark(kind) * (end - at), style=MARKS[kind][2])
            at = end
        return bar.append("  " + ", ".join([f"{clock_time(self.tally.seconds)} elapsed", *self.time_left()]))

    def counts(self) -> Text:
        """How many there are of each kind; interrupted ones are left out where there are none."""
        parts = {kind: count for kind, count in self.tally.parts.items() if count or kind != "interrupted"}
        counts = [Text(f"{self.mark(kind)} {count} {kind}", style=MARKS[kind][2]) for kind, count in parts.items()]
        return Text("   ").join(counts)

    def mark(self, kind: str) -> str:
        return MARKS[kind][0 if self.console.encoding.startswith("utf") else 1]

    def bests(self) -> list[Text]:
        bests = [f"best {score(best)}: {self.tally.label(best.number)}" for best in self.tally.bests.values()]
        return [Text(printable(best), style="bold") for best in bests]

    def jobs(self, width: int, most: int) -> list[Text]:
        """At most so many lines on running jobs, the oldest first."""
        running, now = list(self.tally.running.items()), self.tally.clock()
        shown = running if len(running) <= most else running[: most - 1]
        for _, job in shown:
            job.look(now)
        lines = [Text(printable(f"  {self.tally.label(number)}")) for number, _ in shown]
        times = [f"  {clock_time(now - job.began):>7}  {job.epochs}".rstrip() for _, job in shown]
        room = width - max(map(len, times), default=0)
        title = min(max((line.cell_len for line in lines), default=0), max(room, 1))
        for line, words in zip(lines, times, strict=True):
            line.truncate(title, overflow="ellipsis", pad=True)
            line.append(words, style="dim")
        more = len(running) - len(shown)
        return [*lines, *([Text(f"  and {more} more", style="dim")] if more else [])]

    def take_back_broken_lines(self) -> None:
        """Where the terminal became narrower it has broken lines in two: begin further up."""
        broken, self.drawn = sum(max(cells - 1, 0) // self.console.width for cells in self.drawn), []
        up = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        self.console.control(*[up] * broken)


# Words


def outcome(metrics: dict[str, Any]) -> str:
    """What came out of a job: the monitored metric, the others of its stage, and the time that training took."""
    monitor, seconds = metrics.get("monitor"), metrics.get("seconds")
    stage = "val/" if any(name.startswith("val/") for name in metrics) else "train/"
    names = sorted((name for name in metrics if name.startswith(stage)), key=lambda name: name != monitor)
    numbers = {name: metrics[name] for name in names if isinstance(metrics[name], (int, float))}
    took = [] if seconds is None else [f"({seconds:.1f} s)" if seconds < 60 else f"({clock_time(seconds)})"]
    return " ".join([spelled(numbers) or "finished", *took])


def because(message: str | None) -> str:
    text = " ".join((message or "").split())
    return f": {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}" if text else ""


def score(best: Best) -> str:
    return spelled({best.monitor: best.value})


def clock_time(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are some: 3661 → 1:01:01."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def printable(text: str) -> str:
    """Text as a single line without control characters."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def as_typed(path: Path) -> str:
    """A path as one would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
