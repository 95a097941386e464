"""Every state that a crash may leave the disk in: the next start plans from each.

Runs, sweeps by each launcher and a search are recorded once, operation by operation. Of each recording crashes are
drawn: a kill, a kill in the midst of a write, a loss of power, the workers each anywhere near the moment. What they
leave is laid out, and the next start plans from it as far as its first training step.
"""

import importlib.util
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from src.core.processes import count_cores
from src.storage.files import Operation
from tests.chaos.planners import plan_run, plan_search, plan_sweep
from tests.chaos.recording import Recorded, record_command
from tests.chaos.stage import Found, Planner, explore
from tests.chaos.table import Row, Table

MEMORY = Path("/dev/shm")  # where files are made quickly
CHUNK = 2_000  # crashes of a task
LONG = 2_000  # bytes of a file that is only looked at by people, of which more would but take time
BARE = ("callbacks=none", "logger=none", "name=x")
STOPPING = (
    "callbacks=early_stopping",
    "~callbacks.curves",
    "callbacks.early_stopping.monitor=val/loss",
    "+callbacks.early_stopping.mode=min",
    "callbacks.early_stopping.patience=1",
    "logger=none",
    "name=x",
)
SWEEP = ("-m", *BARE, "trainer.max_epochs=2", "seed=range(4)")


class Scenario(NamedTuple):
    """A command that crashes: its arguments, its folder below outputs, its planner, its share of the crashes."""

    arguments: tuple[str, ...]
    folder: str
    planner: Callable[[Path], Planner]
    share: float


SCENARIOS = {
    "run": Scenario((*BARE, "trainer.max_epochs=3"), "runs/x", plan_run, 0.01),
    "run, early stopping": Scenario((*STOPPING, "optimizer.lr=0.3", "trainer.max_epochs=9"), "runs/x", plan_run, 0.01),
    "run, max_steps within an epoch": Scenario((*BARE, "trainer.max_steps=25"), "runs/x", plan_run, 0.01),
    "sweep, local": Scenario((*SWEEP, "hydra.launcher.jobs=4"), "sweeps/x", plan_sweep, 0.3),
    "sweep, vectorized": Scenario((*SWEEP, "hydra/launcher=vectorized"), "sweeps/x", plan_sweep, 0.04),
    "sweep, slurm (stood in for)": Scenario(
        (*SWEEP, "hydra/launcher=slurm", "hydra.launcher.cluster=local"), "sweeps/x", plan_sweep, 0.1
    ),
    "sweep, ray": Scenario((*SWEEP, "hydra/launcher=ray"), "sweeps/x", plan_sweep, 0.2),
    "search": Scenario(
        (
            *("-m", *BARE, "trainer.max_epochs=2", "hydra/sweeper=optuna", "hydra.launcher.jobs=4"),
            *("hydra.sweeper.trials=8", "hydra.sweeper.at_once=4", "optimizer.lr=tag(log,interval(0.001,0.1))"),
        ),
        "sweeps/x",
        plan_search,
        0.33,
    ),
}
if importlib.util.find_spec("ray") is None:
    del SCENARIOS["sweep, ray"]  # an extra, which need not be installed


class Task(NamedTuple):
    """A part of the crashes of a scenario; the recording's paths are relative to where the command ran."""

    name: str
    recording: list[Recorded]
    seed: int
    crashes: int


def run(seed: int, count: int, names: tuple[str, ...] = tuple(SCENARIOS)) -> Table:
    """Draw crashes, as many as are asked for over all scenarios, and return what came of them."""
    tasks = [task for name in names for task in _make_tasks(name, seed, count)]
    found: dict[str, list[Found]] = {name: [] for name in names}
    with ProcessPoolExecutor(count_cores(), multiprocessing.get_context("spawn")) as pool:
        for task, result in tqdm(zip(tasks, pool.map(do, tasks), strict=True), "states", len(tasks), disable=None):
            found[task.name].append(result)
    rows, findings = [], []
    for name, parts in found.items():
        states: set[bytes] = set().union(*(part.states for part in parts))
        wrong: Counter[str] = sum((part.wrong for part in parts), Counter())
        lost = sum(times for fault, times in wrong.items() if "lost" in fault or "again" in fault)
        tries = sum(part.tries for part in parts)
        rows.append(Row(name, len(states), lost, wrong.total() - lost, f"different states, of {tries:,} crashes"))
        examples = {fault: each for part in parts for fault, each in part.examples.items()}
        findings += [f"{name}: {times}× {fault} (first: {examples[fault]})" for fault, times in wrong.items()]
    return Table(rows, findings)


def _make_tasks(name: str, seed: int, count: int) -> list[Task]:
    """Record a scenario, and part its crashes."""
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory(dir=_quick_place()) as place:
        recording = [_shorten(each, Path(place)) for each in record_command(list(scenario.arguments), Path(place))]
    share = max(1, round(count * scenario.share))
    sizes = [CHUNK] * (share // CHUNK) + [share % CHUNK] * bool(share % CHUNK)
    return [Task(name, recording, seed * 1_000_000 + number, size) for number, size in enumerate(sizes)]


def _shorten(recorded: Recorded, place: Path) -> Recorded:
    """Return an operation with paths relative to a place, and no more of a report's content than is looked at."""
    operation = recorded.operation
    content = operation.content[:LONG] if ".report.html" in operation.path.name else operation.content
    other = operation.other and operation.other.relative_to(place)
    path = operation.path.relative_to(place) if operation.path.is_relative_to(place) else operation.path
    return recorded._replace(operation=Operation(operation.kind, path, content, other))


def do(task: Task) -> Found:
    """Do a part, in a process of its own."""
    from src.cli.names import register_resolvers
    from src.cli.startup import patch_hydra_speed

    register_resolvers()
    patch_hydra_speed()
    scenario = SCENARIOS[task.name]
    with tempfile.TemporaryDirectory(dir=_quick_place()) as place:
        outputs = Path(place) / "outputs"
        recording = [_place(each, Path(place)) for each in task.recording]
        return explore(recording, outputs, scenario.planner(outputs / scenario.folder), task.seed, task.crashes)


def _place(recorded: Recorded, place: Path) -> Recorded:
    operation = recorded.operation
    moved = operation._replace(path=place / operation.path, other=operation.other and place / operation.other)
    return recorded._replace(operation=moved)


def _quick_place() -> Path | None:
    return MEMORY if MEMORY.is_dir() else None
