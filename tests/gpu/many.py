"""Sweeps of small networks: trained as one model, one after another, and side by side on the GPU."""

import math
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from src.storage.files import read_json
from tests.bench.measuring import Table, tell
from tests.gpu.stage import MissingError, Stage

TOGETHER, ALONE = "hydra/launcher=vectorized", "one command after another"
SHARED = "hydra/launcher=local, {} per GPU"
PER_GPU = 8
BARE = ("callbacks=none", "logger=none")
CURVE = (2, 16, 128, 1024)  # jobs of a stack


class Sweep(NamedTuple):
    """Jobs: their data set (``None``: made on the spot), how many, tried out how many, settings."""

    data: str | None
    jobs: int
    tiny: int
    settings: tuple[str, ...]


SWEEPS = {
    "XOR": Sweep(None, 1024, 8, ("data=xor",)),
    "MNIST MLPs 784-100-10": Sweep("mnist", 64, 4, ("trainer.max_epochs=2",)),
    "small CNNs on CIFAR-10": Sweep("cifar10", 16, 4, ("model=cnn", "model.channels=[16,32]", "trainer.max_epochs=2")),
}
TRAINED_ON = 10_000  # images of each job
GOAL = "more than the best published, 15× over one job per GPU (HFTA: Wang et al., 2021)"


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Seconds of whole sweeps, then the curve over the number of stacked jobs."""
    for what, sweep in SWEEPS.items():
        try:
            yield what, compare(stage, what, sweep)
        except MissingError as error:
            tell(f"{what}: left out: {error}")
    values: dict[str, list[float]] = {}
    for jobs in CURVE[: stage.size(len(CURVE), 2)]:
        values[f"{jobs} jobs"] = [jobs / train(stage, SWEEPS["XOR"], "vectorized", range(jobs)).training]
        title = (
            f"XOR jobs trained per second of training, 50 epochs each, by the size of their stack; {torch_version()}"
        )
        yield "curve", Table(title, "jobs/s", values, "2 jobs")


class Took(NamedTuple):
    """Seconds of a whole command, and of training alone: the sum over its jobs."""

    command: float
    training: float


def compare(stage: Stage, what: str, sweep: Sweep) -> Table:
    """Seconds of all jobs each way; some ways are measured on a few of the jobs and drawn out."""
    count, few = stage.size(sweep.jobs, sweep.tiny), stage.size(PER_GPU, 2)
    together = train(stage, sweep, "vectorized", range(count))
    alone = train(stage, sweep, None, range(1))
    first, more = (train(stage, sweep, "local", range(jobs)) for jobs in (few, 2 * few))
    shared = more.command + (count / few - 2) * max(0.0, more.command - first.command)
    name = SHARED.format(few)
    values = {TOGETHER: [together.command], ALONE: [alone.command * count], name: [shared]}
    notes = (
        f"{ALONE}: one job, times {count}; {name}: {few} and {2 * few} jobs, drawn out in a straight line",
        f"training alone, of all jobs: {together.training:.2f} s as one, {alone.training * count:.2f} s one by one",
    )
    title = f"Seconds of a sweep of {count} jobs, {what}; {torch_version()}"
    return Table(title, "s", values, TOGETHER, notes, GOAL)


def train(stage: Stage, sweep: Sweep, launcher: str | None, seeds: range) -> Took:
    """Train jobs that differ in their seeds; without a launcher it is one run."""
    images = []
    if sweep.data is not None:
        sizes = (f"data.val_size={stage.size(1000, 100)}", f"data.train_size={stage.size(TRAINED_ON, 64)}")
        images = [*stage.images(sweep.data), *sizes]
    settings = [stage.trainer, *BARE, *sweep.settings, *images]
    chosen = ["seed=0"] if launcher is None else ["-m", f"hydra/launcher={launcher}", f"seed=range({len(seeds)})"]
    if launcher == "local":
        chosen.append(f"hydra.launcher.jobs_per_gpu={stage.size(PER_GPU, 2)}")
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = stage.run("-m", "src.train", *chosen, *settings, f"paths.outputs={folder}", "name=all")
        found = [read_json(path) or {} for path in Path(folder).rglob("metrics.json")]
    if len(found) != len(seeds):
        raise RuntimeError(f"{len(found)} of {len(seeds)} jobs have finished")
    return Took(seconds, math.fsum(metrics["seconds"] for metrics in found))


def torch_version() -> str:
    return f"torch {version('torch')}"
