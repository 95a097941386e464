"""Row 8: the default MLP on MNIST's test set; needs MNIST in the data folder."""

from tests.bench import evaluate
from tests.bench.measuring import Table


def measure(rounds: int = evaluate.ROUNDS) -> Table:
    return evaluate.table("the default MLP on MNIST", rounds, "model=mlp", "data=mnist")
