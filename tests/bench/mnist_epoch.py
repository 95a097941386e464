"""Row 4: a whole MNIST epoch against the usual way with Lightning; needs MNIST in the data folder."""

import json
from functools import partial
from importlib.metadata import version

from tests.bench import steps
from tests.bench.measuring import OURS, Table, child, in_turns
from tests.bench.mnist_sides import BATCH, HELD_OUT, HIDDEN, LR

ROUNDS = 3
THREADS = 1  # what a run of ours takes for steps as small as these; two wait for each other on a busy machine
SETTINGS = (
    "data=mnist",
    f"data.batch_size={BATCH}",
    f"model.hidden_size={HIDDEN}",
    f"optimizer.lr={LR}",
    f"data.val_size={HELD_OUT}",
    "trainer.max_epochs=5",
)
WORKERS = (0, 2)


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds of each epoch, from its beginning to the next one's; the medians are over all epochs of all rounds."""
    sides = {OURS: ours} | {f"the usual way, {workers} workers": partial(usual, workers) for workers in WORKERS}
    title = (
        f"Seconds per MNIST epoch, MLP 784-{HIDDEN}-10, batch {BATCH}, everything on; "
        f"torch {version('torch')}, {steps.device()}, {THREADS} thread on each side"
    )
    goal = "the usual way takes 8 times as long without workers, 5 times with its best number of them"
    return Table(title, "s", in_turns(sides, rounds), OURS, goal=goal)


def ours(number: int) -> list[float]:
    return steps.ours(THREADS, *SETTINGS)["epochs"]


def usual(workers: int, number: int) -> list[float]:
    told = child("-m", "tests.bench.mnist_sides", "2", str(workers), piped=True, OMP_NUM_THREADS=str(THREADS)).out
    found: list[float] = json.loads(told.splitlines()[-1])
    return found
