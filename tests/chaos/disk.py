"""Let the disk fail at one operation after the other of each command, and see what is told and what is lost.

Every command runs within this process, a sweep's jobs too. Its n-th operation on the disk fails, whichever library
makes it, and so do all later ones, unless the fault is one that passes. Exactly one line must tell of it, and the
command that the line gives must come to the very results of an undisturbed one.
"""

import contextlib
import errno
import io
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tqdm import tqdm

from tests import command_line
from tests.chaos.faulty_disk import FaultyDisk
from tests.chaos.table import Row, Table
from tests.command_line import BARE, Outcome, drop_seconds, read_json

FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.EFBIG)
TINY = (*BARE, "trainer.max_epochs=2", "name=x")
SWEEP = ("-m", *TINY, "seed=0,1", "hydra.launcher.jobs=1")


class Command(NamedTuple):
    """A command whose disk fails.

    Attributes:
        name: what it is called in the table.
        arguments: of ``python -m``.
        before: commands that are done before it.
        results: the files, as patterns, that must come out as from an undisturbed command.
    """

    name: str
    arguments: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    results: tuple[str, ...] = ("**/metrics.json", "**/status.json", "**/history.csv", "**/results.csv")


TRAIN, REPORT = "src.train", ("src.report", "outputs/sweeps/x")
COMMANDS = (
    Command("run", (TRAIN, *TINY)),
    Command("run with events and pictures", (TRAIN, "trainer.max_epochs=1", "name=x")),
    Command("resume", (TRAIN, "resume=outputs/runs/x", "trainer.max_epochs=3"), ((TRAIN, *TINY),)),
    Command("evaluate", ("src.eval", "run=outputs/runs/x"), ((TRAIN, *TINY),), ("**/eval_val.json",)),
    Command("sweep, local", (TRAIN, *SWEEP)),
    Command("sweep, vectorized", (TRAIN, *SWEEP, "hydra/launcher=vectorized")),
    Command("search", (TRAIN, "-m", *TINY, "hydra/sweeper=optuna", "hydra.sweeper.trials=2", "optimizer.lr=0.01,0.1")),
    Command("report", REPORT, ((TRAIN, *SWEEP),), ("**/results.csv", "**/leaderboard.tex")),
    Command("compare", ("src.compare", "outputs/sweeps/x"), ((TRAIN, *SWEEP),), ("**/results.csv",)),
)


class Attempt(NamedTuple):
    """What came of a fault.

    Attributes:
        failed: the operation; ``None`` if the command has fewer.
        wrong: what was told wrongly, or not in one line.
        lost: what the command that goes on did not come to.
    """

    failed: str | None
    wrong: str | None = None
    lost: str | None = None


class Stage:
    """A folder in which a command starts from the same state as often as one likes.

    Args:
        command: which.
        folder: an empty one.
    """

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.start, self.place = command, folder / "start", folder / "place"
        self.start.mkdir()
        for each in command.before:
            outcome = start(each, self.start)
            assert outcome.code == 0, outcome.text
        self.reset()
        with FaultyDisk(self.place, None).at_work() as disk:
            outcome = start(command.arguments, self.place)
        assert outcome.code == 0, outcome.text
        self.operations, self.expected = disk.count, self.results()

    def reset(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.start, self.place)

    def results(self) -> dict[str, Any]:
        """Return what the command came to, times apart, by file."""
        paths = [path for pattern in self.command.results for path in self.place.glob(pattern)]
        return {str(path.relative_to(self.place)): read_result(path) for path in sorted(paths)}

    def attempt(self, number: int, fault: int) -> Attempt:
        """Let an operation fail, then go on as the command's line tells."""
        self.reset()
        with FaultyDisk(self.place, number, fault).at_work() as disk:
            try:
                outcome = start(self.command.arguments, self.place)
            except Exception as error:
                return Attempt(disk.failed, "".join(traceback.format_exception_only(error)).strip())
        if disk.failed is None:
            return Attempt(None)
        wrong = find_wrong(outcome)
        advised = re.search(r"(?:resume with|try again): python -m (.*)$", outcome.text.rstrip().splitlines()[-1])
        again = shlex.split(advised[1]) if advised else self.command.arguments
        if outcome.code:
            outcome = start(tuple(again), self.place)
        if outcome.code:
            return Attempt(disk.failed, wrong, f"going on ended with: {outcome.text.rstrip().splitlines()[-1]}")
        results = self.results()
        differ = [name for name in {**results, **self.expected} if results.get(name) != self.expected.get(name)]
        return Attempt(disk.failed, wrong, f"other results: {', '.join(differ)}" if differ else None)


def find_wrong(outcome: Outcome) -> str | None:
    """Return what is wrong with the words of a command whose disk failed."""
    lines = [line for line in outcome.text.splitlines() if line.startswith(("error:", "note:"))]
    if "Traceback" in outcome.text or "Logging error" in outcome.text:
        return "a traceback"
    told = [line for line in outcome.text.splitlines() if " cannot be " in line]
    if len(lines) != 1 or not told:
        return f"status {outcome.code} and {len(lines)} lines: {' / '.join(lines)}"
    if lines[0].startswith("note:") != (outcome.code == 0):
        return f"status {outcome.code} with: {lines[0]}"
    return None


def read_result(path: Path) -> Any:
    """Return a file's content without times, which differ."""
    if path.suffix == ".json":
        return drop_seconds(read_json(path))
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("seconds") if rows and "seconds" in rows[0] else None
    return [[value for place, value in enumerate(row) if place != column] for row in rows]


# All in this process


def start(arguments: tuple[str, ...], cwd: Path) -> Outcome:
    """Run ``python -m`` with arguments, and the processes of a sweep one after the other, in this process."""
    with ExitStack() as patches:
        for module in ("local", "vectorized"):
            patches.enter_context(mock.patch(f"src.sweeps.launchers.{module}.get_mp_context", return_value=_Context()))
        patches.enter_context(mock.patch("src.sweeps.workers.worker.redirect_output", _open_log))
        return command_line.run(*arguments, cwd=cwd)


def _open_log(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a"):
        pass


class _Context:
    """Multiprocessing's, with processes that are none."""

    Pipe = staticmethod(multiprocessing.Pipe)

    def get_start_method(self) -> str:
        return "spawn"

    def Process(self, target: Callable[..., Any], args: tuple[Any, ...]) -> "_Process":  # noqa: N802
        return _Process(target, args)


class _Process:
    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.target, self.args, self.exitcode, self.pid = target, args, 0, 0
        self.sentinel, end = os.pipe()
        os.close(end)  # it is ready at once

    def start(self) -> None:
        log = io.StringIO()
        with own_state(), contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                self.target(*self.args)
            except SystemExit as stop:
                self.exitcode = stop.code if isinstance(stop.code, int) else 1
            except Exception:
                traceback.print_exc(file=sys.__stderr__)
                self.exitcode = 1

    def close(self) -> None:
        os.close(self.sentinel)

    def join(self) -> None:
        """It has ended."""

    terminate = kill = join


@contextmanager
def own_state() -> Iterator[None]:
    """What a process changes for itself alone."""
    arguments, handler = sys.orig_argv[:], signal.getsignal(signal.SIGINT)
    try:
        with mock.patch.dict(os.environ):
            yield
    finally:
        sys.orig_argv[:] = arguments
        signal.signal(signal.SIGINT, handler)


# The table


def run_command(command: Command, seed: int, count: int) -> tuple[list[Row], list[str]]:
    """Let the disk fail at operations of a command, drawn by a seed; return a row for each fault, and the findings."""
    chance, rows, findings = random.Random(seed), [], []
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(command, Path(folder))
        for fault in FAULTS:
            numbers = sorted(chance.sample(range(stage.operations), min(count, stage.operations)))
            attempts = [(number, stage.attempt(number, fault)) for number in numbers]
            lost, wrong = (sum(getattr(each, kind) is not None for _, each in attempts) for kind in ("lost", "wrong"))
            rows.append(Row(f"{command.name}: {os.strerror(fault)}", len(attempts), lost, wrong))
            findings += [
                f"{command.name}, {errno.errorcode[fault]} at operation {number} ({each.failed}): "
                f"{each.wrong or ''} {each.lost or ''}"
                for number, each in attempts
                if each.wrong or each.lost
            ]
    return rows, findings


def run(seed: int, count: int, names: tuple[str, ...] = ()) -> Table:
    """Let the disk fail so often, over all commands and faults."""
    commands = [each for each in COMMANDS if not names or each.name in names]
    share = max(1, count // (len(commands) * len(FAULTS)))
    parts = [run_command(command, seed, share) for command in tqdm(commands, "disk", disable=None)]
    return Table([row for rows, _ in parts for row in rows], [each for _, found in parts for each in found])
