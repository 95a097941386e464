"""50,000 small pictures as files: decoded once and streamed or kept in memory, against torchvision's ImageFolder."""

import json
import statistics
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.image_folder_sides import BATCH, WORKERS, write_pictures
from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 3
THREADS = 1
SIDES = {  # what to call it: the arguments of `image_folder_sides`
    "this project, first run": ("ours", "decoded"),
    OURS: ("ours", "streamed"),
    "this project, in memory": ("ours", "in_memory"),
    f"torchvision's ImageFolder, {WORKERS} workers": ("theirs",),
}


def measure(rounds: int = ROUNDS) -> Table:
    return compare("50,000 PNGs of 32×32 pixels (CIFAR-10)", 50_000, (32, 32), "png", 64, rounds)


def compare(what: str, count: int, size: tuple[int, int], suffix: str, side: int, rounds: int) -> Table:
    """Images per second over an epoch; seconds to the first step and peak memory below.

    Args:
        what: the pictures, in words.
        count: how many of CIFAR-10's training images to write.
        size: their width and height as files.
        suffix: their format.
        side: pixels to which they are scaled.
        rounds: how often the sides take turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "pictures", count, size, suffix)
        found: list[dict[str, Any]] = []
        sides = {name: partial(rate, name, Path(folder), side, found) for name in SIDES}
        values = in_turns(sides, rounds)
    title = (
        f"Images per second, {what} scaled to {side} pixels, over an epoch with a small network, batch {BATCH}; "
        f"torch {version('torch')}, torchvision {version('torchvision')}, CPU, {THREADS} thread of each process"
    )
    notes = tuple(_describe(name, [each for each in found if each["name"] == name]) for name in SIDES)
    return Table(title, "images/s", values, OURS, notes, "as fast as in memory, and ten times torchvision's or more")


def rate(name: str, folder: Path, side: int, found: list[dict[str, Any]], number: int) -> list[float]:
    """Images per second of one side, in a process of its own; ``found`` gets all that it measured."""
    arguments = ("-m", "tests.bench.image_folder_sides", *SIDES[name], str(folder), str(side))
    run = child(*arguments, piped=True, OMP_NUM_THREADS=str(THREADS))
    found.append({"name": name, **json.loads(run.out.splitlines()[-1])})
    return [found[-1]["rate"]]


def _describe(name: str, found: list[dict[str, Any]]) -> str:
    first, before, peak = (statistics.median(each[key] for each in found) for key in ("first", "before", "peak"))
    memory = f"; {peak - before:.0f} MB above the {before:.0f} MB after the imports" if OURS.split()[0] in name else ""
    return f"{name}: {first:.2f} s to the first step{memory}"
