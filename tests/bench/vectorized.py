"""A sweep whose jobs are trained as one, beside the local launcher, which runs a sample of them."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from src.devices import cores
from src.records import finished, read_json
from tests.bench.measuring import Table, child, in_turns

ROUNDS = 2
THREADS = 1  # of each process
NEAR = 0.05  # float32 rounds differently, and of epochs that validate alike another may be kept
LOCAL, TOGETHER = "hydra/launcher=local", "hydra/launcher=vectorized"


def measured(
    what: str, settings: tuple[str, ...], axes: Mapping[str, tuple[str, ...]], sample: int, goal: float, rounds: int
) -> Table:
    """Seconds of a sweep, everything on.

    Args:
        what: in words.
        settings: what all jobs have in common.
        axes: the values of each swept setting; the last one's are its jobs' seeds.
        sample: of how many of the last axis's values the jobs run through the local launcher.
        goal: how many times as long that should take.
        rounds: how often the sides take turns.
    """
    seeds = list(axes)[-1]
    whole = 1
    for values in axes.values():
        whole *= len(values)
    share = len(axes[seeds]) // sample
    with tempfile.TemporaryDirectory() as folder:
        part = dict(axes) | {seeds: axes[seeds][:sample]}
        sides = {
            LOCAL: partial(sweep, Path(folder), "local", settings, part, share),
            TOGETHER: partial(sweep, Path(folder), "vectorized", settings, axes, 1),
        }
        found = in_turns(sides, rounds)
        stacked = len(list(Path(folder).glob("vectorized0/sweeps/all/*/stack.json")))
        compare(Path(folder), whole)
    title = f"Seconds of a sweep of {whole} jobs, {what}; {THREADS} thread per process, {cores()} cores, everything on"
    notes = (
        f"{LOCAL}: measured on {whole // share} of the jobs, taken times {share}",
        f"{stacked} of {whole} jobs were trained in stacks; the test losses of both ways are within {NEAR:.0%}",
    )
    return Table(title, "s", found, TOGETHER, notes, f"{goal:g}× {LOCAL}")


def sweep(
    folder: Path, launcher: str, settings: tuple[str, ...], axes: Mapping[str, tuple[str, ...]], times: int, number: int
) -> list[float]:
    """One command for all jobs."""
    swept = [f"{key}={','.join(values)}" for key, values in axes.items()]
    where = (f"hydra/launcher={launcher}", f"paths.outputs={folder / f'{launcher}{number}'}", "name=all")
    done = child("-m", "src.train", "-m", *settings, *swept, *where, OMP_NUM_THREADS=str(THREADS))
    return [times * done.seconds]


def compare(folder: Path, count: int) -> None:
    """Make sure that the sides did the same work.

    Raises:
        RuntimeError: if a job is missing, or came to another test loss than elsewhere.
    """
    found = {side: losses(folder / f"{side}0" / "sweeps" / "all") for side in ("local", "vectorized")}
    if len(found["vectorized"]) != count:
        raise RuntimeError(f"{len(found['vectorized'])} of {count} jobs have finished")
    for job, loss in found["local"].items():
        if abs(loss - found["vectorized"][job]) > NEAR * loss:
            raise RuntimeError(f"job {job} came to {found['vectorized'][job]}, alone to {loss}")


def losses(folder: Path) -> dict[str, float]:
    """The test loss of each finished job, by what it was asked for with."""
    jobs = [path.parent for path in folder.glob("*/job.json") if finished(path.parent)]
    return {job.name.split("_", 1)[1]: (read_json(job / "metrics.json") or {})["test/loss"] for job in jobs}
