"""Augmented CIFAR-10 batches: ours, torchvision's transforms in a DataLoader, kornia, whole epochs at once."""

import importlib.util
import json
from functools import partial
from importlib.metadata import version

from tests.bench.augment_sides import BATCH, CROP, CUTOUT
from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 5
THREADS = 1
SIDES = {  # what to call it: the arguments of `augment_sides`
    OURS: ("ours",),
    "transforms v2 per image, 0 workers": ("per_image", "0"),
    "transforms v2 per image, 2 workers": ("per_image", "2"),
    "whole epochs at once, by shift": ("by_shift",),
    "kornia, batch by batch": ("with_kornia",),
}


def measure(rounds: int = ROUNDS) -> Table:
    """Images per second of each side; kornia's is left out where kornia is not installed."""
    there = importlib.util.find_spec("kornia") is not None
    sides = {name: partial(rates, arguments) for name, arguments in SIDES.items() if there or "kornia" not in name}
    title = (
        f"Augmented CIFAR-10 images per second: flip, crop {CROP}, cutout {CUTOUT}, standardised, batch {BATCH}; "
        f"torch {version('torch')}, CPU, {THREADS} thread of each process"
    )
    note = f"kornia {version('kornia')}" if there else "kornia is left out; to have it: .venv/bin/pip install kornia"
    goal = "a tenth of ours or less for transforms per image, no more than ours for any other"
    return Table(title, "images/s", in_turns(sides, rounds), OURS, (note,), goal)


def rates(arguments: tuple[str, ...], number: int) -> list[float]:
    """Images per second of one side, in a process of its own."""
    told = child("-m", "tests.bench.augment_sides", *arguments, piped=True, OMP_NUM_THREADS=str(THREADS)).out
    found: list[float] = json.loads(told.splitlines()[-1])
    return found
