"""Row 8: the default CNN on CIFAR-10's test set; needs CIFAR-10 in the data folder."""

from tests.bench import evaluate
from tests.bench.measuring import Table


def measure(rounds: int = evaluate.ROUNDS) -> Table:
    return evaluate.table("the default CNN on CIFAR-10", rounds, "model=cnn", "data=cifar10")
