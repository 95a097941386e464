"""A whole MNIST epoch, the project's way and the conventional one; needs MNIST in the data folder."""

import json
from functools import partial
from importlib.metadata import version

from tests.bench.measuring import Table, child, in_turns

ROUNDS = 3
THREADS = 1  # what a run of ours takes for steps as small as these; two wait for each other on a busy machine
OURS = "this project"
SIDES = {  # what to call it: the arguments of `mnist_sides` (epochs to run; the last is not counted)
    OURS: ("ours", "5"),
    "conventional, 0 workers": ("conventional", "2", "0"),
    "conventional, 2 workers": ("conventional", "2", "2"),
}


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds of each epoch; the medians are over all epochs of all rounds."""
    values = in_turns({name: partial(seconds, arguments) for name, arguments in SIDES.items()}, rounds)
    title = (
        "Seconds per MNIST epoch, MLP 784-100-10, batch 64, everything on; "
        f"torch {version('torch')}, CPU, {THREADS} thread on each side"
    )
    return Table(title, "s", values, OURS)


def seconds(arguments: tuple[str, ...], number: int) -> list[float]:
    """Seconds per epoch of one side, in a process of its own."""
    told = child("-m", "tests.bench.mnist_sides", *arguments, piped=True, OMP_NUM_THREADS=str(THREADS)).out
    found: list[float] = json.loads(told.splitlines()[-1])
    return found
