"""The display of a running sweep: a live area in a terminal, elsewhere a line for each job that ends."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment, SegmentLines
from rich.table import Column, Table
from rich.text import Text

from src.core.formatting import format_duration, format_metrics, to_relative_path
from src.sweeps.progress.tracker import BestJob, SweepProgress

MAX_BAR_WIDTH, MAX_SHOWN_JOBS = 40, 8  # cells of the bar, lines for running jobs
MAX_MESSAGE_LENGTH = 300  # characters of a message; the log has the whole text
STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "magenta",
    "pruned": "yellow",
    "left": "dim",
}


class Display:
    """The display of a sweep while it runs.

    In a terminal, an area below the rest of the output shows a bar, counts, the time left, the best job by the
    monitored metric and the running jobs; failures are printed above it as they happen. Elsewhere one line is
    printed for each job that ends. Test metrics are not shown, as they must not be used to choose a model.

    Args:
        titles: the title of each job of the sweep by its number, including jobs that finished earlier.
        finished_before: the number of jobs that earlier starts of the sweep finished.
        parallel_jobs: the number of jobs that run at the same time.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        titles: dict[int, str],
        finished_before: int,
        parallel_jobs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = SweepProgress(titles, finished_before, parallel_jobs, clock)
        self.console = Console(highlight=False)
        self.drawn_widths: list[int] = []  # cells of each line of the area on the screen
        live = sys.stdout.isatty() and self.console.is_interactive
        self.live = Live(console=self.console, get_renderable=self.render_area, auto_refresh=False) if live else None

    def __enter__(self) -> Self:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # an unprintable character must not stop a sweep
        if self.live:
            self.live.start()
            self.console.show_cursor(True)  # a killed process could not show it again
            self.redraw()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.progress.running.clear()
            self.redraw()
            self.live.stop()

    def add_finished(self, number: int, metrics: dict[str, Any]) -> None:
        """Consider a job that an earlier start finished as the best one; ``metrics`` as in ``metrics.json``."""
        self.progress.update_best(number, metrics)

    def record_start(self, number: int, folder: Path) -> None:
        """Add a job that has started in its folder."""
        self.progress.record_start(number, folder)
        self.redraw()

    def record_end(
        self, number: int, status: str, reason: str | None, message: str | None, metrics: dict[str, Any]
    ) -> None:
        """Count a job that has ended, and print a line about it where needed.

        ``status``, ``reason`` and ``message`` are those of ``status.json``; ``metrics`` is ``{}`` if there are none.
        """
        job, label = self.progress.record_end(number, status, metrics), self.progress.get_label(number)
        if status == "finished":
            line = " · ".join([f"{label}: {_format_outcome(metrics)}", *self.format_best_and_time()])
        elif status == "paused":
            line = f"{label}: {_format_outcome(metrics)} · {message}"
        elif status == "interrupted":
            line = f"{label}: interrupted{_format_reason(message)}"
        else:
            log = f" · log: {to_relative_path(job.folder / 'train.log')}" if job else ""
            line = f"{label}: {', '.join(filter(None, ['FAILED', reason]))}{_format_reason(message)}{log}"
        if not self.live:
            self.print_message(f"{self.format_progress()} {line}")
        elif status not in ("finished", "paused", "interrupted"):
            self.print_message(line, style="red")
        self.redraw()

    def print_message(self, text: str, style: str = "") -> None:
        """Print a message as one line; in a terminal, above the area."""
        if self.live:
            self.remove_wrapped_lines()
            self.console.print(Text(_replace_control_characters(text), style=style), soft_wrap=True)
        else:
            print(_replace_control_characters(text), flush=True)

    def redraw(self) -> None:
        """Redraw the area; to be called a few times a second."""
        if self.live:
            self.remove_wrapped_lines()
            self.live.refresh()

    # Lines

    def format_progress(self) -> str:
        width = len(str(self.progress.total))
        return f"[{self.progress.ended_count:{width}}/{self.progress.total}]"

    def format_best_and_time(self) -> list[str]:
        """Return the best job so far and the time left, each as a text, where they are known."""
        bests = [
            f"{self.progress.get_label(best.number)}, {_format_score(best)}"
            for best in self.progress.best_jobs.values()
        ]
        return [*([f"best: {'; '.join(bests)}"] if bests else []), *self.format_time_left()]

    def format_time_left(self) -> list[str]:
        seconds = round(self.progress.estimate_time_left() or 0)
        return [f"about {format_duration(seconds)} left"] if seconds else []

    # The area

    def render_area(self) -> SegmentLines:
        """Return the whole area; no line of it is wider than the terminal."""
        top: list[RenderableType] = [self._render_bar(), self._render_counts(), *self._render_bests()]
        max_jobs = min(MAX_SHOWN_JOBS, max(1, self.console.height - len(top) - 2))
        lines = self.console.render_lines(Group(*top, self._render_jobs(max_jobs)), pad=False)
        self.drawn_widths = [Segment.get_line_length(line) for line in lines]
        return SegmentLines(lines, new_lines=True)

    def _render_bar(self) -> Table:
        times = [f"{format_duration(self.progress.elapsed_seconds)} elapsed", *self.format_time_left()]
        row = Table.grid(Column(max_width=MAX_BAR_WIDTH), Column(no_wrap=True), padding=(0, 2))
        total, ended = max(self.progress.total, 1), self.progress.ended_count
        row.add_row(ProgressBar(total, ended, complete_style="green", finished_style="green"), ", ".join(times))
        return row

    def _render_counts(self) -> Text:
        """Return the number of jobs of each kind in a line; "interrupted" and "pruned" are left out if they are 0."""
        rare = ("interrupted", "pruned")
        counts = {kind: count for kind, count in self.progress.counts_by_kind.items() if count or kind not in rare}
        return _make_line("   ").join(Text(f"{count} {kind}", style=STYLES[kind]) for kind, count in counts.items())

    def _render_bests(self) -> list[Text]:
        found = [(_format_score(best), best.number) for best in self.progress.best_jobs.values()]
        return [_make_line(f"best {score}: {self.progress.get_label(number)}", "bold") for score, number in found]

    def _render_jobs(self, max_lines: int) -> Table:
        """Return at most ``max_lines`` lines for running jobs, the oldest job first; long titles are cut."""
        running, now = list(self.progress.running.items()), self.progress.clock()
        shown = running if len(running) <= max_lines else running[: max_lines - 1]
        time_columns = Column(justify="right", no_wrap=True, style="dim"), Column(no_wrap=True, style="dim")
        table = Table.grid(Column(), *time_columns, padding=(0, 2))
        for number, job in shown:
            job.read_epochs(now)
            title = _make_line(f"  {self.progress.get_label(number)}")
            table.add_row(title, format_duration(now - job.started_at), job.epochs)
        if more := len(running) - len(shown):
            table.add_row(_make_line(f"  and {more} more", "dim"))
        return table

    def remove_wrapped_lines(self) -> None:
        """Erase the extra lines that appear when the terminal becomes narrower and wraps the lines of the area.

        Rich moves the cursor up by the number of lines it has drawn; each wrapped line needs more than that.
        """
        broken, self.drawn_widths = sum(max(cells - 1, 0) // self.console.width for cells in self.drawn_widths), []
        up = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        self.console.control(*[up] * broken)


# Texts


def _make_line(text: str, style: str = "") -> Text:
    """Return a text as one line of the area, which is cut where it is too wide."""
    return Text(_replace_control_characters(text), style=style, no_wrap=True, overflow="ellipsis")


def _format_outcome(metrics: dict[str, Any]) -> str:
    """Return a job's result: the monitored metric, the other metrics of its stage, and the training time."""
    monitor, seconds = metrics.get("monitor"), metrics.get("seconds")
    stage = "val/" if any(name.startswith("val/") for name in metrics) else "train/"
    names = sorted((name for name in metrics if name.startswith(stage)), key=lambda name: name != monitor)
    numbers = {name: metrics[name] for name in names if isinstance(metrics[name], (int, float))}
    duration = [] if seconds is None else [f"({seconds:.1f} s)" if seconds < 60 else f"({format_duration(seconds)})"]
    return " ".join([format_metrics(numbers) or "finished", *duration])


def _format_reason(message: str | None) -> str:
    text = " ".join((message or "").split())
    return f": {text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + '…'}" if text else ""


def _format_score(best: BestJob) -> str:
    return format_metrics({best.monitor: best.value})


def _replace_control_characters(text: str) -> str:
    """Replace each control character and line break of a text with a space."""
    return "".join(char if char.isprintable() else " " for char in text)
