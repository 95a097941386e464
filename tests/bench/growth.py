"""Row 9: how the time of a run grows with its steps, its data and its network, and a sweep's with its jobs.

Memory is the most that the run's process had at once. Needs MNIST in the data folder.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from src.storage.files import read_json
from tests.bench.measuring import Table, child, in_turns

ROUNDS = 3
BARE = ("callbacks=none", "logger=none", "trainer=cpu")
AXES: Mapping[str, tuple[int, ...]] = {
    "epochs": (1, 2, 4, 8, 16),
    "samples": (3200, 6400, 12800, 25600, 51200),
    "hidden units": (16, 64, 256, 1024, 4096),
    "jobs": (2, 4, 8, 16, 32),
    "jobs as one": (2, 8, 32, 128, 512),
}
LAUNCHERS = {"jobs": "local", "jobs as one": "vectorized"}
MEMORY = "MB at most, "


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds by axis and value: of training, of a sweep those of the whole command."""
    memory: dict[str, list[float]] = {}
    sides = {f"{axis} {value}": side(axis, value, memory) for axis, values in AXES.items() for value in values}
    values = in_turns(sides, rounds, pause=0.5)
    title = (
        "How cost grows: seconds of training an MLP on MNIST (batch 64; else 1 epoch, 6,400 samples, 100 units), and "
        f"of a whole sweep of XOR jobs; torch {version('torch')}, CPU, 1 thread"
    )
    notes = [f"{axis}: {exponent(axis, values):.2f} (1 is a straight line through 0)" for axis in AXES]
    return Table(title, "s, or MB", values | memory, None, ("the last doubling's exponent of growth:", *notes))


def side(axis: str, value: int, memory: dict[str, list[float]]) -> Callable[[int], list[float]]:
    settings = {
        "epochs": ("data.train_size=6400", f"trainer.max_epochs={value}"),
        "samples": (f"data.train_size={value}", "trainer.max_epochs=1"),
        "hidden units": (f"model.hidden_size={value}", "data.train_size=6400", "trainer.max_epochs=1"),
    }

    def run(number: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            if axis in LAUNCHERS:
                many = ("-m", f"hydra/launcher={LAUNCHERS[axis]}", f"seed=range({value})", "trainer.max_epochs=10")
                return [child("-m", "src.train", *many, *BARE, f"paths.outputs={folder}", OMP_NUM_THREADS="1").seconds]
            one = ("data=mnist", *settings[axis], *BARE, f"paths.outputs={folder}")
            memory.setdefault(f"{MEMORY}{axis} {value}", []).append(
                child("-m", "src.train", *one, OMP_NUM_THREADS="1").memory
            )
            return [(read_json(next(Path(folder).glob("runs/*/metrics.json"))) or {})["seconds"]]

    return run


def exponent(axis: str, values: Mapping[str, list[float]]) -> float:
    """p of t ∝ xᵖ between the last two values of an axis."""
    x, y = AXES[axis][-2:]
    before, after = (statistics.median(values[f"{axis} {value}"]) for value in (x, y))
    return math.log(after / before) / math.log(y / x)
