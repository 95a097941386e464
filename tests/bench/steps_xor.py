"""Row 2: XOR one point at a time, 500 epochs, as its preset has it."""

from tests.bench import steps
from tests.bench.measuring import Table

GOAL = "no bare loop is faster"


def measure(rounds: int = steps.ROUNDS) -> Table:
    return steps.table("XOR's preset, MLP 2-3-1, batch 1", 100, 1, GOAL, rounds, "experiment=xor")
