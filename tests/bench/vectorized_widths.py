"""48 perceptrons on MNIST of two widths, two rates, with and without dropout and batch norm; needs MNIST."""

from tests.bench.measuring import Table
from tests.bench.vectorized import ROUNDS, measured

AXES = {
    "model.hidden_size": ("64", "256"),
    "optimizer.lr": ("0.001", "0.01"),
    "model.dropout": ("0", "0.5"),
    "model.batch_norm": ("true", "false"),
    "seed": ("0", "1", "2"),
}


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds; the local launcher runs one and two of the three seeds, and the third is drawn out."""
    settings = ("data=mnist", "model=mlp", "trainer.max_epochs=2", "trainer=cpu")
    return measured("MLPs 784-64-10 and 784-256-10 on MNIST, batch 64, 2 epochs", settings, AXES, 1, 3, rounds)
