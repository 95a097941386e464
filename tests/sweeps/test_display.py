"""What a sweep tells while it runs where there is no terminal."""

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from src.core.formatting import format_duration
from src.sweeps.progress.live import Display

NAMES = {number: f"hidden size {size}, seed {number % 2}" for number, size in enumerate(["3", "3", "[4,4]", "[4,4]"])}


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def metrics(best: float | None, monitor: str = "val/loss", mode: str = "min", **more: Any) -> dict[str, Any]:
    """The content of a ``metrics.json``."""
    return {"val/acc": 0.5, monitor: best, "test/acc": 0.25, **more, "monitor": monitor, "mode": mode, "best": best}


def record_and_read_line(
    display: Display, number: int, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> str:
    """The line on a job that ends well."""
    display.record_end(number, "finished", None, None, result)
    return capsys.readouterr().out


def test_each_job_end_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Each job that has ended is reported in one line."""
    clock, folder = Clock(), Path.cwd() / "outputs" / "sweeps" / "x"
    with Display(NAMES, finished_before=0, parallel_jobs=2, clock=clock) as display:
        display.record_start(0, folder / "0")
        display.record_start(1, folder / "1_seed-1")
        clock.now = 30.0
        display.record_end(0, "finished", None, None, metrics(0.0123, seconds=2.13))
        display.record_start(2, folder / "2")
        clock.now = 50.0
        display.record_end(1, "failed", "diverged", "the loss became NaN\n  in epoch 1", {})
        display.record_start(3, folder / "3")
        clock.now = 60.0
        display.record_end(2, "finished", None, None, metrics(0.0101, seconds=3661.2))
        display.record_end(3, "interrupted", "killed", "Ctrl-C after 3 epochs", metrics(0.001))
        display.redraw()
    assert capsys.readouterr().out.splitlines() == [
        # 30 s per job: 0 for the one that runs for 30 s already, 60 for the two that wait, two at once
        "[1/4] 0 hidden size 3, seed 0: val/loss 0.0123, val/acc 50.00% (2.1 s)"
        " · best: 0 hidden size 3, seed 0, val/loss 0.0123 · about 0:30 left",
        "[2/4] 1 hidden size 3, seed 1: FAILED, diverged: the loss became NaN in epoch 1"
        " · log: outputs/sweeps/x/1_seed-1/train.log",
        # (30 + 50 + 30) / 3 s per job, of which 10 have passed
        "[3/4] 2 hidden size [4,4], seed 0: val/loss 0.0101, val/acc 50.00% (1:01:01)"
        " · best: 2 hidden size [4,4], seed 0, val/loss 0.0101 · about 0:27 left",
        "[4/4] 3 hidden size [4,4], seed 1: interrupted: Ctrl-C after 3 epochs",
    ]


def test_time_left_covers_latest_job(capsys: pytest.CaptureFixture[str]) -> None:
    """The time left is at least that of the job that started last."""
    clock = Clock()
    with Display({0: "a", 1: "b", 2: "c"}, 0, parallel_jobs=2, clock=clock) as display:
        display.record_start(0, Path("0"))
        clock.now = 1.0
        display.record_start(1, Path("1"))
        clock.now = 10.0
        display.record_start(2, Path("2"))
        assert record_and_read_line(display, 0, metrics(0.5), capsys).endswith(" · about 0:10 left\n")
        clock.now = 21.0  # (10 + 20) / 2 s per job, of which 11 have passed
        assert record_and_read_line(display, 1, metrics(0.75), capsys).endswith("val/loss 0.5 · about 0:04 left\n")
        assert record_and_read_line(display, 2, metrics(0.75), capsys).endswith("val/loss 0.5\n")


def test_earlier_jobs_count_and_can_win(capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs that had finished before are counted and can be the best."""
    with Display({**NAMES, 10: "late"}, finished_before=1, parallel_jobs=1, clock=Clock()) as display:
        display.add_finished(3, metrics(0.001))
        line = record_and_read_line(display, 10, metrics(0.002), capsys)
    assert line.startswith("[2/5] 10 late: val/loss 0.002, ")
    assert line.endswith(" · best: 3 hidden size [4,4], seed 1, val/loss 0.001\n")


def test_counts_are_as_wide_as_their_total(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(dict.fromkeys(range(1000), "job"), finished_before=7, parallel_jobs=1, clock=Clock()) as display:
        assert record_and_read_line(display, 0, metrics(0.5), capsys).startswith("[   8/1000] 0 job: ")


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [("min", [0.3, 0.1, 0.2], 1), ("max", [0.1, 0.3, 0.2], 1), ("min", [0.2, 0.2, None], 0), ("max", [None, 0.0], 1)],
)
def test_best_follows_mode_and_first_tie(
    mode: str, values: list[float | None], best: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best job has the lowest or highest value, depending on the mode; in a tie the first one wins."""
    with Display(NAMES, 0, 1, Clock()) as display:
        for number in reversed(range(len(values))):
            line = record_and_read_line(display, number, metrics(values[number], "val/f1", mode), capsys)
    assert f" · best: {best} {NAMES[best]}, val/f1 {values[best]:.4g}" in line


def test_each_monitored_metric_has_its_best(capsys: pytest.CaptureFixture[str]) -> None:
    with Display({0: "a", 1: "b", 2: "c"}, 0, 1, Clock()) as display:
        record_and_read_line(display, 0, metrics(0.5), capsys)
        record_and_read_line(display, 1, metrics(0.875, "val/acc", "max"), capsys)
        line = record_and_read_line(display, 2, metrics(0.25, "val/acc", "max"), capsys)
    assert line == "[3/3] 2 c: val/acc 25.00% · best: 0 a, val/loss 0.5; 1 b, val/acc 87.50%\n"


def test_only_finished_jobs_can_be_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    with Display({0: "a", 1: "b"}, 0, 1, Clock()) as display:
        display.record_end(0, "failed", "error", None, metrics(0.1))
        assert "best: 1 b, val/loss 0.2\n" in record_and_read_line(display, 1, metrics(0.2), capsys)


def test_without_validation_training_metrics_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without validation, the training metrics are printed and no job is the best."""
    result = {"train/loss": 0.25, "test/acc": 1.0, "monitor": None, "mode": None, "best": None, "seconds": 59.96}
    with Display({0: "a", 1: "b"}, 0, 1, Clock()) as display:
        assert record_and_read_line(display, 0, result, capsys) == "[1/2] 0 a: train/loss 0.25 (60.0 s)\n"
        assert record_and_read_line(display, 1, {}, capsys) == "[2/2] 1 b: finished\n"


def test_messages_become_short_printable_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A message becomes one line of limited length without control characters."""
    with Display({0: "\x1b[1mbold\x1b[0m", 1: "b", 2: "c"}, 0, 1, Clock()) as display:
        display.record_end(0, "failed", None, "one\x07\n\n  two", {})
        display.record_end(1, "failed", "out of memory", "x" * 301, {})
        display.record_end(2, "failed", "killed", None, {})
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] 0  [1mbold [0m: FAILED: one  two",
        f"[2/3] 1 b: FAILED, out of memory: {'x' * 299}…",
        "[3/3] 2 c: FAILED, killed",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.6, "1:00:00"), (100000, "27:46:40")]
)
def test_durations_show_minutes_and_hours(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_a_thousand_jobs_leave_nothing_in_memory(tmp_path: Path) -> None:
    names = dict.fromkeys(range(1100), "hidden size 3")

    def run(display: Display, numbers: range) -> int:
        for number in numbers:
            display.record_start(number, Path(f"outputs/sweeps/x/{number}"))
            display.record_end(number, "finished", None, None, metrics(1 / (number + 1), seconds=1.0))
        return tracemalloc.get_traced_memory()[0]

    log = tmp_path / "log"
    with log.open("w") as file, contextlib.redirect_stdout(file), Display(names, 0, 1) as display:
        tracemalloc.start()
        try:
            first = run(display, range(100))
            grown = run(display, range(100, 1100)) - first
        finally:
            tracemalloc.stop()
    assert len(log.read_text().splitlines()) == 1100
    assert grown < 20_000  # bytes: 20 per job
