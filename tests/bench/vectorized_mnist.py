"""32 perceptrons 784-32-10 on MNIST, trained as one; needs MNIST in the data folder."""

from tests.bench.measuring import Table
from tests.bench.vectorized import ROUNDS, measured

AXES = {"optimizer.lr": ("0.001", "0.003"), "seed": tuple(map(str, range(16)))}


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds; of the local launcher those of two and four seeds, drawn out."""
    settings = ("data=mnist", "model.hidden_size=32", "trainer.max_epochs=5", "trainer=cpu")
    return measured("MNIST 784-32-10, batch 64, 5 epochs", settings, AXES, sample=2, goal=2, rounds=rounds)
