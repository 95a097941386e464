"""A sweep of short jobs, three ways: a process for each job, Hydra's basic launcher, the local launcher."""

import itertools
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from src.core.devices import count_cores
from src.storage.files import read_json
from src.storage.records import is_finished
from tests.bench.measuring import Table, child, in_turns

ROUNDS = 4
PARTS = 4  # in each round one of so many parts of the jobs runs one by one: their time is taken times so many
AXES = {"model.hidden_size": "2,4,8", "optimizer.lr": "0.003,0.01,0.03,0.1", "seed": "0,1"}
SHARED = ("model.activation=relu", "trainer=cpu")  # 50 epochs, the data set's own number
THREADS = 1  # of each process
SEPARATE, BASIC, LOCAL = "one process after another", "hydra/launcher=basic", "hydra/launcher=local"
GOALS = {SEPARATE: 6.0, BASIC: 1.5}
Metrics = dict[int, dict[str, Any]]  # by the job's number


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds of a sweep over `AXES`, with pictures, TensorBoard and checkpoints as always."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        sides = {
            SEPARATE: partial(separate, outputs),
            BASIC: partial(together, outputs, "basic"),
            LOCAL: partial(together, outputs, "local"),
        }
        values = in_turns(sides, rounds)
        compare(outputs)
    title = (
        f"Seconds of a sweep of {len(jobs())} XOR jobs, {THREADS} thread per process, {count_cores()} cores, "
        "everything on"
    )
    part = f"{SEPARATE}: measured on {len(jobs()) // PARTS} of the jobs, others in each round, taken times {PARTS}"
    same = "all jobs that ran have finished, with the same metrics to the last digit on each way"
    table = Table(title, "s", values, LOCAL, (part, same))
    goals = "; ".join(f"{goal:g}× {name}, reached {table.ratio(name):.2f}×" for name, goal in GOALS.items())
    return table._replace(notes=(*table.notes, f"goals on two cores: {goals}"))


def jobs() -> list[list[str]]:
    """The overrides of each job, in Hydra's order."""
    axes = [[f"{key}={value}" for value in values.split(",")] for key, values in AXES.items()]
    return [list(job) for job in itertools.product(*axes)]


def train(*overrides: str) -> float:
    return child("-m", "src.train", *SHARED, *overrides, OMP_NUM_THREADS=str(THREADS)).seconds


def separate(folder: Path, number: int) -> list[float]:
    """One ``python -m src.train`` after another, for a part of the jobs."""
    chosen = range(number % PARTS, len(jobs()), PARTS)
    outputs = folder / f"separate{number}"
    return [PARTS * sum(train(*jobs()[job], f"paths.outputs={outputs}", f"name={job}") for job in chosen)]


def together(folder: Path, launcher: str, number: int) -> list[float]:
    """One command for all jobs."""
    axes = [f"{key}={values}" for key, values in AXES.items()]
    outputs = folder / f"{launcher}{number}"
    return [train("-m", f"hydra/launcher={launcher}", *axes, f"paths.outputs={outputs}", "name=all")]


def compare(folder: Path) -> None:
    """Make sure that the sides did the same work.

    Raises:
        RuntimeError: if a job is missing or unfinished, or came to other metrics than elsewhere.
    """
    expected: Metrics = {}
    for side in sorted(folder.iterdir()):
        found = metrics([*side.glob("runs/*"), *side.glob("sweeps/all/[0-9]*")])
        wanted = len(jobs()) // (PARTS if side.name.startswith("separate") else 1)
        if len(found) != wanted:
            raise RuntimeError(f"{side.name}: {len(found)} of {wanted} jobs have finished")
        for job, values in found.items():
            if expected.setdefault(job, values) != values:
                raise RuntimeError(f"{side.name}: job {job} came to {values}, elsewhere to {expected[job]}")


def metrics(folders: Iterable[Path]) -> Metrics:
    """What the finished jobs came to, the seconds apart; a folder's name begins with its job's number."""
    read = {folder: read_json(folder / "metrics.json") or {} for folder in folders if is_finished(folder)}
    return {
        int(folder.name.split("_")[0]): {key: value for key, value in found.items() if key != "seconds"}
        for folder, found in read.items()
    }
