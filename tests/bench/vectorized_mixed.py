"""48 XOR networks of four widths, with and without batch norm, of two activations, trained as one."""

from tests.bench.measuring import Table
from tests.bench.vectorized import ROUNDS, measured

AXES = {
    "model.hidden_size": ("2", "4", "8", "16"),
    "model.batch_norm": ("true", "false"),
    "model.activation": ("relu", "tanh"),
    "seed": ("0", "1", "2"),
}


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds; the local launcher runs one and two of the three seeds, and the third is drawn out."""
    settings = ("data=xor", "trainer.max_epochs=100", "trainer=cpu")
    return measured("XOR, batch 10, 100 epochs", settings, AXES, sample=1, goal=6, rounds=rounds)
