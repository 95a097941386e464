"""A sweep whose jobs are trained as one, beside the local launcher, which runs a sample of them."""

import math
import statistics
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from src.core.devices import count_cores
from src.sweeps.store.jobs import read_jobs
from tests.bench.measuring import Table, child, in_turns

ROUNDS = 2
THREADS = 1  # of each process
NEAR = 0.005  # float32 rounds differently, and of epochs that validate alike another may be kept
LOCAL, TOGETHER = "hydra/launcher=local", "hydra/launcher=vectorized"


def measured(
    what: str, settings: tuple[str, ...], axes: Mapping[str, tuple[str, ...]], sample: int, goal: float, rounds: int
) -> Table:
    """Seconds of a sweep, everything on.

    Args:
        what: in words.
        settings: what all jobs have in common.
        axes: the values of each swept setting; the last one's are its jobs' seeds.
        sample: of how many of the last axis's values the jobs run through the local launcher, and of twice as many.
        goal: how many times as long that should take.
        rounds: how often the sides take turns.
    """
    count = math.prod(map(len, axes.values()))
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            LOCAL: partial(extrapolated, Path(folder), settings, axes, sample),
            TOGETHER: partial(sweep, Path(folder), "vectorized", settings, axes),
        }
        found = in_turns(sides, rounds)
        stacked = len(list(Path(folder).glob("vectorized0/sweeps/all/*/stack.json")))
        compare(Path(folder), count)
    title = (
        f"Seconds of a sweep of {count} jobs, {what}; {THREADS} thread per process, {count_cores()} cores, "
        "everything on"
    )
    some = count * sample // len(axes[list(axes)[-1]])
    notes = (
        f"{LOCAL}: measured on {some} and on {2 * some} of the jobs, and drawn out in a straight line",
        f"{stacked} of {count} jobs were trained in stacks; mean test accuracies of both ways are within {NEAR:.1%}",
    )
    return Table(title, "s", found, TOGETHER, notes, f"{goal:g}× {LOCAL}")


def extrapolated(
    folder: Path, settings: tuple[str, ...], axes: Mapping[str, tuple[str, ...]], sample: int, number: int
) -> list[float]:
    """What all jobs would take one by one, from a few and twice as many of them."""
    seeds = list(axes)[-1]
    few, more = (
        sweep(folder / str(size), "local", settings, {**axes, seeds: axes[seeds][:size]}, number)[0]
        for size in (sample, 2 * sample)
    )
    return [more + (len(axes[seeds]) / sample - 2) * (more - few)]


def sweep(
    folder: Path, launcher: str, settings: tuple[str, ...], axes: Mapping[str, tuple[str, ...]], number: int
) -> list[float]:
    """One command for all jobs."""
    swept = [f"{key}={','.join(values)}" for key, values in axes.items()]
    where = (f"hydra/launcher={launcher}", f"paths.outputs={folder / f'{launcher}{number}'}", "name=all")
    return [child("-m", "src.train", "-m", *settings, *swept, *where, OMP_NUM_THREADS=str(THREADS)).seconds]


def compare(folder: Path, count: int) -> None:
    """Make sure that the sides did the same work.

    Raises:
        RuntimeError: if a job is missing, or the jobs that ran both ways came to another mean accuracy.
    """
    found = accuracies(folder / "vectorized0" / "sweeps" / "all")
    if len(found) != count:
        raise RuntimeError(f"{len(found)} of {count} jobs have finished")
    for alone in folder.glob("*/local0/sweeps/all"):
        wanted = accuracies(alone)
        mean, own = statistics.mean(wanted.values()), statistics.mean(found[job] for job in wanted)
        if abs(mean - own) > NEAR:
            raise RuntimeError(f"a mean test accuracy of {own:.2%}, alone {mean:.2%}")


def accuracies(folder: Path) -> dict[str, float]:
    """The test accuracy of each finished job, by the job's identity."""
    jobs = [job for job in read_jobs(folder) if job.status["status"] == "finished"]
    return {job.identity: job.metrics["test/acc"] for job in jobs}
