"""What a sweep shows while it runs: its area in a terminal, and that processes' logs have lines at once."""

import json
import subprocess
import threading
from pathlib import Path

import pytest

from tests.command_line import PROCESS_TIMEOUT
from tests.sweeps.terminal import Terminal, run_on_terminal, spawn_script

SETUP = """
import os, signal, sys, termios
from pathlib import Path
from src.sweeps.progress.live import Display

now = [0.0]
titles = ["hidden size 3, seed 0", "hidden size [4,4], seed 0", "[red]lr[/red] 0.1 :smile:", "lr 1e+30"]
display = Display(dict(enumerate(titles * 3)), finished_before=1, parallel_jobs=3, clock=lambda: now[0])

def finish(number, best):
    result = {"val/loss": best, "monitor": "val/loss", "mode": "min", "best": best, "seconds": 2.0}
    display.record_end(number, "finished", None, None, result)

def fail(number):
    display.record_end(number, "failed", "diverged", "the loss became NaN [in epoch 1]", {})
"""
SAMPLE_SWEEP = """
with display:
    for number in (1, 2, 3):
        display.record_start(number, Path(f"jobs/{number}"))
    now[0] = 60.0
    finish(1, 0.25)
    display.record_start(4, Path("jobs/4"))
    now[0] = 75.0
    fail(3)
    display.record_start(5, Path("jobs/5"))
    display.redraw()
"""
EXIT_ABRUPTLY = "    os._exit(0)\n"  # as a process that is killed, without tidying up
FAILURE = "3 lr 1e+30: FAILED, diverged: the loss became NaN [in epoch 1] · log: jobs/3/train.log"
COUNTS = "2 done   3 running   1 failed   6 left"
BEST = "best val/loss 0.25: 1 hidden size [4,4], seed 0"


def run_display(script: str, cwd: Path, columns: int = 80, rows: int = 24, **environment: str) -> Terminal:
    return run_on_terminal(SETUP + script, cwd, columns, rows, **environment)


def wrap_text(text: str, columns: int) -> list[str]:
    """The rows that a terminal breaks a line of text into."""
    return [text[at : at + columns].rstrip() for at in range(0, len(text), columns)]


def test_terminal_shows_failures_above_progress(tmp_path: Path) -> None:
    """Failures are printed above the area with the sweep's progress."""
    for number, epochs in ((2, 7), (4, 12)):
        folder = tmp_path / "jobs" / str(number)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"epochs": epochs}))
    job = {"number": 4, "identity": "0" * 16, "overrides": [], "choices": {}, "settings": {"trainer.max_epochs": 50}}
    (folder / "job.json").write_text(json.dumps(job))
    terminal = run_display(SAMPLE_SWEEP + EXIT_ABRUPTLY, tmp_path, columns=100)
    # A job took (60 + 75) / 2 s: two running ones need 67.5 - 15 and 67.5 s more, six wait, three at once.
    assert terminal.shown == [
        FAILURE,
        "━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  1:15 elapsed, about 2:55 left",
        COUNTS,
        BEST,
        "  2 [red]lr[/red] 0.1 :smile:  1:15  epoch 7",
        "  4 hidden size 3, seed 0      0:15  epoch 12/50",
        "  5 hidden size [4,4], seed 0  0:00",
    ]
    assert terminal.cursor_shown and {"31", "32", "36"} <= terminal.colours


def test_final_area_stays_without_jobs(tmp_path: Path) -> None:
    """At the end the area stays without its jobs, and later output follows below it."""
    terminal = run_display(SAMPLE_SWEEP + "print('a table')", tmp_path, columns=100)
    assert terminal.shown[0] == FAILURE
    assert terminal.shown[2:] == ["2 done   0 running   1 failed   9 left", BEST, "a table"]


def test_ctrl_c_leaves_a_clean_terminal(tmp_path: Path) -> None:
    script = "    signal.signal(signal.SIGINT, signal.default_int_handler)\n    os.kill(os.getpid(), signal.SIGINT)\n"
    terminal = run_display(SAMPLE_SWEEP + script, tmp_path, columns=100)
    assert terminal.shown[3:] == [BEST]
    assert (terminal.row, terminal.column, terminal.cursor_shown) == (4, 0, True)


def test_time_left_requires_a_finished_job(tmp_path: Path) -> None:
    """Until a job has finished, no time left is shown."""
    terminal = run_display("with display:\n    display.record_start(1, Path('1'))\n" + EXIT_ABRUPTLY, tmp_path)
    assert terminal.shown[0].endswith("  0:00 elapsed")
    assert terminal.shown[1] == "1 done   1 running   0 failed   10 left"


def test_interrupted_jobs_are_not_failures(tmp_path: Path) -> None:
    """Interrupted jobs are counted separately and not listed as failures."""
    script = "with display:\n    display.record_end(1, 'interrupted', 'killed', 'Ctrl-C', {})\n"
    terminal = run_display(script, tmp_path)
    assert terminal.shown[1:] == ["1 done   0 running   0 failed   1 interrupted   10 left"]


def test_printed_lines_appear_above_area(tmp_path: Path) -> None:
    """Lines that are printed during the sweep appear above the area."""
    script = "with display:\n    print('[red]printed')\n    display.print_message('[red]said')\n"
    terminal = run_display(script, tmp_path)
    assert terminal.shown[:2] == ["[red]printed", "[red]said"] and terminal.shown[3].startswith("1 done")


def test_excess_jobs_are_summarised(tmp_path: Path) -> None:
    """With many jobs or few terminal rows, some jobs are only counted."""
    start = "with display:\n    for number in range(1, 11): display.record_start(number, Path(str(number)))\n"
    tall, low = (run_display(start + EXIT_ABRUPTLY, tmp_path, rows=rows).shown for rows in (24, 8))
    assert len(tall) == 2 + 8 and tall[-2].startswith("  7 ") and tall[-1] == "  and 3 more"
    assert len(low) == 2 + 4 and low[-2].startswith("  3 ") and low[-1] == "  and 7 more"


def test_narrow_terminal_truncates_titles(tmp_path: Path) -> None:
    """In a narrow terminal titles are truncated, so that no line of the area wraps."""
    script = "display.progress.titles[2] = 'hidden size 3, ' * 9\n" + SAMPLE_SWEEP + EXIT_ABRUPTLY
    rows = run_display(script, tmp_path, columns=60).shown
    assert rows[:2] == wrap_text(FAILURE, 60)
    assert rows[2] == "━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━  1:15 elapsed, about 2:55 left"
    assert rows[3:5] == [COUNTS, BEST]
    assert rows[5].startswith("  2 hidden size 3, hidden size 3, hidden size") and rows[5].endswith("…  1:15")
    assert len(rows) == 8 and max(map(len, rows[2:])) <= 60


def test_narrowed_terminal_clears_old_area(tmp_path: Path) -> None:
    """A terminal that becomes narrower keeps no remains of the old area."""
    resize = "    termios.tcsetwinsize(1, (24, 30))\n    os.write(1, b'\\x1b]columns 30\\x07')\n"
    after = {"refresh": "    display.redraw()\n", "failure": "    display.print_message('x')\n    display.redraw()\n"}
    for what, then in after.items():
        rows = run_display(SAMPLE_SWEEP + resize + then + EXIT_ABRUPTLY, tmp_path, columns=100).shown
        above = wrap_text(FAILURE, 30) + ["x"] * (what == "failure")
        assert rows[: len(above)] == above
        assert [row[:9] for row in rows[len(above) :]] == [
            " 1:15 ela",
            "2 done   ",
            "best val/",
            "  2 [red]",
            "  4 hidde",
            "  5 hidde",
        ]


def test_progress_is_readable_without_colours(tmp_path: Path) -> None:
    terminal = run_display(SAMPLE_SWEEP + EXIT_ABRUPTLY, tmp_path, columns=100, NO_COLOR="1")
    assert terminal.shown[1].startswith("━━━━━━━━━━   ") and terminal.shown[2] == COUNTS
    assert not {"31", "32", "36"} & terminal.colours


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path) -> None:
    rows = run_display(SAMPLE_SWEEP + EXIT_ABRUPTLY, tmp_path, columns=100, PYTHONIOENCODING="ascii").shown
    assert rows[1].startswith("---------- -----------------------------  1:15 elapsed")
    assert rows[2] == COUNTS


def test_a_dumb_terminal_gets_lines(tmp_path: Path) -> None:
    rows = run_display(SAMPLE_SWEEP, tmp_path, columns=200, TERM="dumb").shown
    assert [row[:8] for row in rows] == ["[ 2/12] ", "[ 3/12] "]


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_log_is_unbuffered_and_printable(environment: dict[str, str], tmp_path: Path) -> None:
    """A log gets each line immediately and contains no control characters."""
    script = (
        "with display:\n    finish(1, 0.5)\n    sys.stdin.readline()\n    fail(3)\nassert 'torch' not in sys.modules\n"
    )
    with spawn_script(SETUP + script, tmp_path, subprocess.PIPE, **environment) as process:
        patience = threading.Timer(PROCESS_TIMEOUT, process.kill)
        patience.start()
        first = process.stdout.readline()  # while the process waits for us
        rest, errors = process.communicate("\n")
        patience.cancel()
    assert first.startswith("[ 2/12] 1 hidden size [4,4], seed 0: val/loss 0.5 (2.0 s) ")
    assert rest == "[ 3/12] 3 lr 1e+30: FAILED, diverged: the loss became NaN [in epoch 1]\n"
    assert errors == "" and process.returncode == 0 and first.rstrip().isprintable()
