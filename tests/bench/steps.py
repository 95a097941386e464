"""Training steps of a fully featured run against the loop that one writes by hand (`bare`), plain and fused.

What is measured is the training part of an epoch, with progress bar, logs and metrics; a line below each table compares
whole epochs, with validation, checkpoint, pictures and what else comes between two epochs' steps.
"""

import json
import statistics
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.bench import times
from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 3
PLAIN, FUSED = "bare loop, plain optimiser", "bare loop, fused optimiser"
Seconds = dict[str, list[float]]


def table(what: str, steps: int, threads: int, goal: str, rounds: int, *arguments: str) -> Table:
    """Microseconds of a training step, epoch by epoch but for the first.

    Args:
        what: the model, the data and the batch size, in words.
        steps: of an epoch.
        threads: of each side.
        goal: of the ratio.
        rounds: how often the sides take turns.
        arguments: the run's settings.
    """
    found: dict[str, list[Seconds]] = {OURS: [], PLAIN: [], FUSED: []}

    def side(name: str, run: Any, number: int) -> list[float]:
        seconds = run()
        found[name].append(seconds)
        return [1e6 * epoch / steps for epoch in seconds["training"][1:]]

    sides = {
        OURS: partial(side, OURS, partial(ours, threads, *arguments)),
        PLAIN: partial(side, PLAIN, partial(bare, "plain", threads, *arguments)),
        FUSED: partial(side, FUSED, partial(bare, "fused", threads, *arguments)),
    }
    values = in_turns(sides, rounds)
    return Table(
        f"Microseconds per training step, {what}; torch {version('torch')}, {device()}, {threads} threads on each side",
        "µs",
        values,
        OURS,
        notes=(whole_epochs(found),),
        goal=goal,
    )


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def whole_epochs(found: dict[str, list[Seconds]]) -> str:
    """How the sides compare over whole epochs, in a line."""
    medians = {
        name: statistics.median(seconds for each in rounds for seconds in each["epochs"][1:])
        for name, rounds in found.items()
    }
    ratios = [f"{name} {medians[name] / medians[OURS]:.2f}×" for name in (PLAIN, FUSED)]
    return f"whole epochs, with all that comes between: {', '.join(ratios)}"


def ours(threads: int, *arguments: str) -> Seconds:
    """A run of the project with its default callbacks, from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        child("-m", "src.train", *arguments, times.SETTING, f"paths.outputs={folder}", OMP_NUM_THREADS=str(threads))
        found: Seconds = json.loads(next(Path(folder).glob(f"runs/*/{times.FILE}")).read_text())
        return found


def bare(optimizer: str, threads: int, *arguments: str) -> Seconds:
    told = child("-m", "tests.bench.bare", optimizer, *arguments, piped=True, OMP_NUM_THREADS=str(threads)).out
    found: Seconds = json.loads(told.splitlines()[-1])[optimizer]
    return found
