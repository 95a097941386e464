"""The same space searched with losers stopped early: this project's halving, Optuna's Hyperband, Ray Tune's ASHA.

Needs MNIST, and of the other libraries those that are installed: Optuna, and Ray with ``ray[tune]``.
"""

import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from src.core.devices import count_cores
from src.sweeps.store.jobs import read_jobs
from tests.bench.halving_sides import AXES, EPOCHS, FACTOR, TRAIN, VAL, count_settings
from tests.bench.measuring import Table, child, in_turns, tell

ROUNDS = 3
GRID = "all epochs of all settings, vectorized"
HALVED, HALVED_STACKS = "halved, local launcher", "halved, vectorized launcher"
OPTUNA, RAY = "Optuna's HyperbandPruner", "Ray Tune's ASHAScheduler"
MODULES = {OPTUNA: "optuna", RAY: "pydantic"}  # Ray Tune needs it, and the other parts of Ray do not


class Search(NamedTuple):
    """What a search came to: the best validation accuracy, and the epochs that were trained."""

    best: float
    epochs: int


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds of a search, each round with another seed of the networks."""
    found: dict[str, list[Search]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Callable[[int], list[float]]] = {
            HALVED_STACKS: partial(sweep, found, HALVED_STACKS, Path(folder), ("hydra/sweeper=halving", *STACKED)),
            HALVED: partial(sweep, found, HALVED, Path(folder), ("hydra/sweeper=halving",)),
            GRID: partial(sweep, found, GRID, Path(folder), STACKED),
        }
        for name, module in MODULES.items():
            if importlib.util.find_spec(module):
                sides[name] = partial(other, found, name)
            else:
                tell(f"{name}: left out, {module} is not installed")
        values = in_turns(sides, rounds)
    title = (
        f"Seconds of a search among {count_settings()} settings of an MLP on {TRAIN:,} MNIST images, {EPOCHS} epochs, "
        f"factor {FACTOR}, 2 processes of one thread on {count_cores()} cores"
    )
    return Table(title, "s", values, HALVED_STACKS, tuple(describe(name, found[name]) for name in sides))


STACKED = ("hydra/launcher=vectorized",)


def describe(name: str, searches: list[Search]) -> str:
    """Return a line on the quality and the cost of a side's searches."""
    best = [100 * each.best for each in searches]
    spread = statistics.stdev(best) if len(best) > 1 else 0.0
    epochs = statistics.mean(each.epochs for each in searches)
    whole = EPOCHS * count_settings()
    return (
        f"{name}: best validation accuracy {statistics.mean(best):.2f} ± {spread:.2f}% (n = {len(best)}), "
        f"{epochs:,.0f} epochs, {epochs / whole:.0%} of all"
    )


def sweep(
    found: dict[str, list[Search]], name: str, folder: Path, settings: tuple[str, ...], number: int
) -> list[float]:
    """Run a sweep of this project."""
    axes = [f"{setting}={','.join(map(str, values)).lower()}" for setting, values in AXES.items()]
    fixed = ("model=mlp", "data=mnist", f"data.train_size={TRAIN}", f"data.val_size={VAL}", "data.batch_size=64")
    outputs = folder / f"{number} {name}"
    where = ("trainer=cpu", f"paths.outputs={outputs}", "name=all", "callbacks=none", "logger=none")
    run = (f"seed={number}", f"trainer.max_epochs={EPOCHS}", "hydra.launcher.jobs=2")
    took = child("-m", "src.train", "-m", *settings, *fixed, *axes, *run, *where, OMP_NUM_THREADS="1")
    jobs = [job.metrics for job in read_jobs(outputs / "sweeps" / "all")]
    best = max(each.get("best") or 0.0 for each in jobs)
    found.setdefault(name, []).append(Search(best, sum(each.get("epochs", 0) for each in jobs)))
    return [took.seconds]


def other(found: dict[str, list[Search]], name: str, number: int) -> list[float]:
    """Run another library's search, with the plain loop of `halving_sides`."""
    took = child("-m", "tests.bench.halving_sides", MODULES[name], str(number), piped=True, OMP_NUM_THREADS="1")
    content = json.loads(took.out.strip().splitlines()[-1])
    found.setdefault(name, []).append(Search(content["best"], content["epochs"]))
    return [took.seconds]
