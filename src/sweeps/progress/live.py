"""The display of a running sweep: a live area in a terminal, elsewhere a line for each job that ends."""

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

WIDTH, BAR, SHOWN = 120, 40, 8  # maximum cells of a line, cells of the bar and lines for running jobs
TIMES = 38  # cells for the times, right of the bar
LONGEST = 300  # characters of a message; the log has the whole text
# For each kind of job: its mark, the mark for terminals without UTF-8, and its colour.
MARKS = {
    "done": ("█", "#", "green"),
    "running": ("▒", "=", "cyan"),
    "failed": ("×", "x", "red"),
    "interrupted": ("/", "/", "magenta"),
    "left": ("·", ".", "dim"),
}


class Display:
    """The display of a sweep while it runs.

    In a terminal, an area below the rest of the output shows a bar, counts, the time left, the best job by the
    monitored metric and the running jobs; failures are printed above it as they happen. Elsewhere one line is
    printed for each job that ends. Test metrics are not shown, as they must not be used to choose a model.

    Args:
        names: the title of each job of the sweep by its number, including jobs that finished earlier.
        finished_before: the number of jobs that earlier starts of the sweep finished.
        at_once: the number of jobs that run at the same time.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, names: dict[int, str], finished_before: int, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tally = Tally(names, finished_before, at_once, clock)
        self.console = Console(highlight=False)
        self.drawn: list[int] = []  # cells of each line of the area on the screen
        live = sys.stdout.isatty() and self.console.is_interactive
        self.live = Live(console=self.console, get_renderable=self.area, auto_refresh=False) if live else None

    def __enter__(self) -> Self:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # an unprintable character must not stop a sweep
        if self.live:
            self.live.start()
            self.console.show_cursor(True)  # a killed process could not show it again
            self.refresh()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.tally.running.clear()
            self.refresh()
            self.live.stop()

    def known(self, number: int, metrics: dict[str, Any]) -> None:
        """Consider a job that an earlier start finished as the best one; ``metrics`` as in ``metrics.json``."""
        self.tally.rate(number, metrics)

    def started(self, number: int, folder: Path) -> None:
        """Add a job that has started in its folder."""
        self.tally.start(number, folder)
        self.refresh()

    def ended(self, number: int, status: str, reason: str | None, message: str | None, metrics: dict[str, Any]) -> None:
        """Count a job that has ended, and print a line about it where needed.

        ``status``, ``reason`` and ``message`` are those of ``status.json``; ``metrics`` is ``{}`` if there are none.
        """
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
        """Print a message as one line; in a terminal, above the area."""
        if self.live:
            self.take_back_broken_lines()
            self.console.print(Text(printable(text), style=style), soft_wrap=True)
        else:
            print(printable(text), flush=True)

    def refresh(self) -> None:
        """Redraw the area; to be called a few times a second."""
        if self.live:
            self.take_back_broken_lines()
            self.live.refresh()

    # Lines

    def count(self) -> str:
        width = len(str(self.tally.total))
        return f"[{self.tally.ended:{width}}/{self.tally.total}]"

    def prospects(self) -> list[str]:
        """Return the best job so far and the time left, each as a text, where they are known."""
        bests = [f"{self.tally.label(best.number)}, {score(best)}" for best in self.tally.bests.values()]
        return [*([f"best: {'; '.join(bests)}"] if bests else []), *self.time_left()]

    def time_left(self) -> list[str]:
        seconds = round(self.tally.time_left() or 0)
        return [f"about {clock_time(seconds)} left"] if seconds else []

    # The area

    def area(self) -> Text:
        """Return the whole area; every line is narrower than the terminal."""
        width = min(self.console.width - 1, WIDTH)
        lines = [self.bar(width), self.counts(), *self.bests()]
        lines += self.jobs(width, most=min(SHOWN, max(1, self.console.height - len(lines) - 2)))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        self.drawn = [line.cell_len for line in lines]
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def bar(self, width: int) -> Text:
        """Return the bar, divided between the kinds of jobs, followed by the times."""
        cells, bar, counted, at = max(min(BAR, width - TIMES), 10), Text(), 0, 0
        # Round the running total, not each count: the parts of the bar then add up to its whole width.
        for kind, count in self.tally.parts.items():
            counted += count
            end = round(cells * counted / max(self.tally.total, 1))
            bar.append(self.mark(kind) * (end - at), style=MARKS[kind][2])
            at = end
        return bar.append("  " + ", ".join([f"{clock_time(self.tally.seconds)} elapsed", *self.time_left()]))

    def counts(self) -> Text:
        """Return the number of jobs of each kind in a line; "interrupted" is left out if it is 0."""
        parts = {kind: count for kind, count in self.tally.parts.items() if count or kind != "interrupted"}
        counts = [Text(f"{self.mark(kind)} {count} {kind}", style=MARKS[kind][2]) for kind, count in parts.items()]
        return Text("   ").join(counts)

    def mark(self, kind: str) -> str:
        return MARKS[kind][0 if self.console.encoding.startswith("utf") else 1]

    def bests(self) -> list[Text]:
        bests = [f"best {score(best)}: {self.tally.label(best.number)}" for best in self.tally.bests.values()]
        return [Text(printable(best), style="bold") for best in bests]

    def jobs(self, width: int, most: int) -> list[Text]:
        """Return at most ``most`` lines for running jobs, the oldest job first."""
        running, now = list(self.tally.running.items()), self.tally.clock()
        shown = running if len(running) <= most else running[: most - 1]
        for _, job in shown:
            job.look(now)
        # All titles get the same width, so that the times after them line up.
        lines = [Text(printable(f"  {self.tally.label(number)}")) for number, _ in shown]
        times = [f"  {clock_time(now - job.began):>7}  {job.epochs}".rstrip() for _, job in shown]
        free = width - max(map(len, times), default=0)
        title_width = min(max((line.cell_len for line in lines), default=0), max(free, 1))
        for line, text in zip(lines, times, strict=True):
            line.truncate(title_width, overflow="ellipsis", pad=True)
            line.append(text, style="dim")
        more = len(running) - len(shown)
        return [*lines, *([Text(f"  and {more} more", style="dim")] if more else [])]

    def take_back_broken_lines(self) -> None:
        """Erase the extra lines that appear when the terminal becomes narrower and wraps the lines of the area.

        Rich moves the cursor up by the number of lines it has drawn; each wrapped line needs more than that.
        """
        broken, self.drawn = sum(max(cells - 1, 0) // self.console.width for cells in self.drawn), []
        up = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        self.console.control(*[up] * broken)


# Texts


def outcome(metrics: dict[str, Any]) -> str:
    """Return a job's result: the monitored metric, the other metrics of its stage, and the training time."""
    monitor, seconds = metrics.get("monitor"), metrics.get("seconds")
    stage = "val/" if any(name.startswith("val/") for name in metrics) else "train/"
    names = sorted((name for name in metrics if name.startswith(stage)), key=lambda name: name != monitor)
    numbers = {name: metrics[name] for name in names if isinstance(metrics[name], (int, float))}
    duration = [] if seconds is None else [f"({seconds:.1f} s)" if seconds < 60 else f"({clock_time(seconds)})"]
    return " ".join([spelled(numbers) or "finished", *duration])


def because(message: str | None) -> str:
    text = " ".join((message or "").split())
    return f": {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}" if text else ""


def score(best: Best) -> str:
    return spelled({best.monitor: best.value})


def clock_time(seconds: float) -> str:
    """Return seconds as ``minutes:seconds``, with hours if there are any: 3661 → 1:01:01."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def printable(text: str) -> str:
    """Replace each control character and line break of a text with a space."""
    return "".join(char if char.isprintable() else " " for char in text)


def as_typed(path: Path) -> str:
    """Return a path relative to the current directory if it lies in it, else unchanged."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
