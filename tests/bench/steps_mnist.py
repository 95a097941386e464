"""Row 1: an MLP 784-100-10 on MNIST, batch 64; needs MNIST in the data folder."""

from tests.bench import steps
from tests.bench.measuring import Table

GOAL = "no bare loop is faster"


def measure(rounds: int = steps.ROUNDS) -> Table:
    return steps.table("MLP 784-100-10 on MNIST, batch 64", 860, 1, GOAL, rounds, "data=mnist", "trainer.max_epochs=4")
