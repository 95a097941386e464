"""128 XOR networks by the course's recipe, trained as one: 500 epochs of single points."""

from tests.bench.measuring import Table
from tests.bench.vectorized import ROUNDS, measured

AXES = {"optimizer.lr": ("0.03", "0.1", "0.3", "1.0"), "seed": tuple(map(str, range(32)))}


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds; of the local launcher those of one and two seeds, drawn out."""
    settings = ("experiment=xor", "trainer=cpu")
    return measured("XOR 2-3-1, batch 1, 500 epochs", settings, AXES, sample=1, goal=30, rounds=rounds)
