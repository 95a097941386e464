"""Kill processes at random moments, start the same command again, and compare what it comes to with an undisturbed one.

    python -m tests.chaos kills --seed 0 --count 200

Each attempt has a folder of its own and is killed a few times on its way: the whole group of processes, the one that
was started, or one of those that it has started. Weights, metrics and histories must be those of the same command that
nobody kills, bit for bit. The same seed draws the same victims and the same moments, as shares of the time that the
command takes; which statement a moment falls on, the machine decides.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from src.core.devices import count_cores
from src.storage.records import is_finished
from src.storage.status import read_status
from src.sweeps.search.halving import HALVING_FILE
from src.sweeps.search.space import SearchSpace
from src.sweeps.search.study import Study
from src.sweeps.store.jobs import read_jobs
from tests.chaos.table import Row, Table
from tests.command_line import BARE, PROCESS_TIMEOUT, ROOT, drop_seconds, is_identical, load_checkpoint, read_json

KILLS = 5  # of an attempt, at most
EARLY = 0.2  # share of the kills that fall on the imports, too; the others come after them
STARTS = 4  # without a kill, in which an attempt has to come to its end
SMALL = ("data.batch_size=10", "model.hidden_size=4", "logger=none")
GRID = ("-m", *BARE, *SMALL[:2], "optimizer.lr=0.01,0.03", "seed=0,1,2")
SEARCH = (
    *("-m", "hydra/sweeper=optuna", *BARE, *SMALL[:1], "model.hidden_size=interval(2,9)"),
    *("optimizer.lr=tag(log,interval(1e-3,1e-1))", "hydra.sweeper.trials=14", "hydra.sweeper.at_once=4"),
)
HALVED = (
    *("-m", "hydra/sweeper=halving", *BARE, *SMALL[:2], "trainer=cpu", "hydra.sweeper.min_epochs=10"),
    *("optimizer.lr=0.003,0.01,0.03", "model.dropout=0,0.2", "seed=0,1", "trainer.max_epochs=120"),
)
UNFINISHED = {"status": "unfinished"}
ALL, FIRST, ONE = "all processes", "the first", "one of the others"


class Case(NamedTuple):
    """A command to be killed.

    Attributes:
        name: for the table.
        arguments: of ``python -m src.train``.
        victims: what is killed.
    """

    name: str
    arguments: tuple[str, ...]
    victims: tuple[str, ...] = (ALL, FIRST, ONE)

    @property
    def folder(self) -> Path:
        return Path("outputs") / ("sweeps" if "-m" in self.arguments else "runs") / "tried"

    def command(self, cwd: Path) -> list[str]:
        """Return the arguments that begin, or go on with what there is."""
        begun = "-m" not in self.arguments and (cwd / self.folder / ".hydra" / "config.yaml").is_file()
        return [f"resume={self.folder}"] if begun else [*self.arguments, "name=tried"]


CASES = (
    Case("run, max_epochs", (*SMALL, "trainer.max_epochs=60"), (ALL,)),
    Case("run, early stopping", (*SMALL, "callbacks=early_stopping", "optimizer.lr=0.1"), (ALL,)),
    Case("run, max_steps", (*SMALL, "callbacks=none", "trainer.max_epochs=99", "trainer.max_steps=433"), (ALL,)),
    Case("sweep, local", (*GRID, "trainer.max_epochs=40")),
    Case("sweep, vectorized", (*GRID, "hydra/launcher=vectorized", "trainer=cpu", "trainer.max_epochs=300")),
    Case("search", (*SEARCH, "trainer.max_epochs=25")),
    Case("halving, local", HALVED),
    Case("halving, vectorized", (*HALVED, "hydra/launcher=vectorized")),
)


class Undisturbed(NamedTuple):
    """What a command comes to if nobody kills it; the seconds of its imports, and of what follows them."""

    results: dict[str, Any]
    imports: float
    seconds: float


@dataclass
class Tally:
    """What came of the attempts so far, of all cases; several threads add to it."""

    count: int
    progress: "tqdm[None]"
    kills: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[tuple[str, bool, str]] = field(default_factory=list)  # case, whether something is lost, and what
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, case: str, victim: str) -> None:
        with self.lock:
            self.kills.setdefault(case, Counter())[victim] += 1
            self.progress.update()

    @property
    def is_full(self) -> bool:
        with self.lock:
            return sum(each.total() for each in self.kills.values()) >= self.count


class FaultError(Exception):
    """Something that should not have come of a kill; ``lost``: work that was done is gone."""

    def __init__(self, what: str, lost: bool = False) -> None:
        super().__init__(what)
        self.lost = lost


def run(seed: int, count: int) -> Table:
    """Kill as often, over all cases in turn, and return what came of it."""
    with (
        tempfile.TemporaryDirectory() as place,
        ThreadPoolExecutor(count_cores()) as pool,
        tqdm(None, "kills", count, disable=None) as progress,
    ):
        tally = Tally(count, progress)
        whole = dict(zip(CASES, pool.map(lambda case: undisturbed(case, Path(place)), CASES), strict=True))
        attempts = attempts_of(tally)
        list(pool.map(lambda _: attack_in_turn(attempts, whole, seed, Path(place), tally), range(count_cores())))
    rows = []
    for case in CASES:
        kills = tally.kills.get(case.name, Counter())
        lost = Counter(lost for name, lost, _ in tally.findings if name == case.name)
        note = ", ".join(f"{number} of {victim}" for victim, number in kills.items())
        rows.append(Row(case.name, kills.total(), lost[True], lost[False], note))
    return Table(rows, [f"{case}: {what}" for case, _, what in tally.findings])


def attempts_of(tally: Tally) -> Iterator[tuple[int, Case]]:
    """Give the cases in turn until there were enough kills."""
    lock = threading.Lock()
    numbered = itertools.count()

    def take() -> tuple[int, Case] | None:
        with lock:
            number = next(numbered)
        return None if tally.is_full else (number, CASES[number % len(CASES)])

    return iter(take, None)


def attack_in_turn(
    attempts: Iterator[tuple[int, Case]], whole: dict[Case, Undisturbed], seed: int, place: Path, tally: Tally
) -> None:
    for number, case in attempts:
        cwd = place / str(number)
        cwd.mkdir()
        try:
            attack(case, whole[case], random.Random(f"{seed} {number}"), cwd, tally)
        except FaultError as fault:
            tally.findings.append((case.name, fault.lost, f"{fault} (seed {seed}, attempt {number})"))


def attack(case: Case, whole: Undisturbed, chance: random.Random, cwd: Path, tally: Tally) -> None:
    """Begin, kill and go on until the command comes to its end.

    Raises:
        FaultError: if it does not, or comes to something else.
    """
    for _ in range(KILLS):
        victim, early, share = chance.choice(case.victims), chance.random() < EARLY, chance.random()
        with Process(case, cwd) as process:
            process.wait(whole.imports * share if early else None)
            if not early:
                process.wait(whole.seconds * share)
            if process.kill(victim, chance):
                tally.add(case.name, victim)
            process.wait_for_the_end()
        if is_over(case, cwd, process):
            break
    for _ in range(STARTS):
        if is_over(case, cwd, process):
            break
        with Process(case, cwd) as process:
            process.wait_for_the_end()
    else:
        raise FaultError(f"it does not come to its end: {process.told[-600:]}")
    compare(whole.results, results(case, cwd))


class Process:
    """A started command with all its processes, which are one group.

    Args:
        case: what is started, or gone on with.
        cwd: where.
    """

    def __init__(self, case: Case, cwd: Path) -> None:
        self.folder, self.out, self.killed = cwd / case.folder, cwd / "out.txt", False
        self.before = self.stamps()
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "src.train", *case.command(cwd)],
                cwd=cwd,
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        if self.others():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def told(self) -> str:
        return self.out.read_text(errors="replace").strip()

    def stamps(self) -> set[tuple[Path, int]]:
        """The versions of the status files that are there."""
        found = [self.folder / "status.json", *self.folder.glob("*/status.json")]
        return {(path, path.stat().st_mtime_ns) for path in found if path.exists()}

    def wait(self, seconds: float | None) -> None:
        """Wait so long, or until the imports are done and a run begins; no longer than the process lives."""
        until = time.monotonic() + (PROCESS_TIMEOUT if seconds is None else seconds)
        while self.process.poll() is None and time.monotonic() < until:
            if seconds is None and self.stamps() - self.before:
                return
            time.sleep(0.005)

    def others(self) -> list[int]:
        """The group's processes that live, but for the first one and for what Python starts to clean up."""
        told = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat=,args="], capture_output=True, text=True).stdout
        lines = [line.split(maxsplit=3) for line in told.splitlines()]
        group = [line for line in lines if line[1] == str(self.process.pid) and not line[2].startswith("Z")]
        return sorted(int(line[0]) for line in group if line[0] != line[1] and "resource_tracker" not in line[3])

    def kill(self, victim: str, chance: random.Random) -> bool:
        """Kill some of the processes; return whether there was one to kill."""
        if self.process.poll() is not None:
            return False
        if victim == ALL:
            os.killpg(self.process.pid, signal.SIGKILL)
        elif victim == FIRST:
            self.process.kill()
        elif others := self.others():
            os.kill(chance.choice(others), signal.SIGKILL)
        else:
            return False
        self.killed = True
        return True

    def wait_for_the_end(self) -> None:
        """Wait until the process has ended and all that it has started.

        Raises:
            FaultError: if that takes too long.
        """
        until = time.monotonic() + PROCESS_TIMEOUT
        while self.process.poll() is None or self.others():
            if time.monotonic() > until:
                raise FaultError(f"it hangs: {self.told[-600:]}")
            time.sleep(0.05)


def is_over(case: Case, cwd: Path, process: Process) -> bool:
    """Return whether a command has come to its end.

    Raises:
        FaultError: if it has ended as no kill explains.
    """
    if "Traceback" in process.told:
        raise FaultError(f"a traceback: {process.told[-600:]}")
    if "-m" not in case.arguments and is_finished(cwd / case.folder):
        return True
    code = process.process.returncode
    if code == 0:
        return True
    if code != -signal.SIGKILL and not process.killed:
        raise FaultError(f"status {code}: {process.told[-600:]}", lost=True)
    return False


# What it came to


def undisturbed(case: Case, place: Path) -> Undisturbed:
    """Run a command to its end."""
    cwd = place / case.name
    cwd.mkdir()
    began = time.monotonic()
    with Process(case, cwd) as process:
        process.wait(None)
        imports = time.monotonic() - began
        process.wait_for_the_end()
    assert process.process.returncode == 0, process.told
    return Undisturbed(results(case, cwd), imports, time.monotonic() - began - imports)


def results(case: Case, cwd: Path) -> dict[str, Any]:
    """Return all that must be the same: of each run metrics, history and weights, and a search's trials or rungs."""
    folder = cwd / case.folder
    if "-m" not in case.arguments:
        return {"the run": left(folder)}
    found: dict[str, Any] = {job.folder.name: left(job.folder) for job in read_jobs(folder)}
    journal = folder / "study.journal"
    if journal.exists():
        trials = Study(journal, SearchSpace([]), "tpe", 0).trials
        found["trials"] = [(trial.number, trial.state.name, trial.params, trial.value) for trial in trials]
    rungs = folder / HALVING_FILE
    if rungs.exists():
        found["rungs"] = read_json(rungs)
    return found


def left(folder: Path) -> dict[str, Any]:
    """Return what a run leaves when it has finished or, at a rung, was pruned."""
    status = read_status(folder)["status"]
    if status not in ("finished", "pruned"):
        return UNFINISHED
    kept = {path.stem: load_checkpoint(path) for path in folder.glob("checkpoints/*.ckpt")}
    last = kept.get("last", {})  # a stack that has pruned a job keeps its weights
    return {
        "status": status,
        "metrics": drop_seconds(read_json(folder / "metrics.json")),
        "history": (folder / "history.csv").read_text(),
        "weights": {name: content["state_dict"] for name, content in kept.items()},
        "state": [last.get(name) for name in ("state_dict", "optimizer_states", "global_step", "epoch")],
    }


def compare(whole: dict[str, Any], found: dict[str, Any]) -> None:
    """Compare results with undisturbed ones.

    Raises:
        FaultError: naming what is missing or not the same.
    """
    if missing := [name for name in whole if name not in found or found[name] == UNFINISHED]:
        raise FaultError(f"missing: {', '.join(missing)}", lost=True)
    for name, expected in whole.items():
        parts = expected if isinstance(expected, dict) else {"": expected}
        others = found[name] if isinstance(expected, dict) else {"": found[name]}
        if wrong := [part for part in parts if not is_identical(parts[part], others[part])]:
            raise FaultError(f"not the same: {name} {', '.join(wrong)}")
    if more := set(found) - set(whole):
        raise FaultError(f"more than there should be: {', '.join(sorted(more))}")
