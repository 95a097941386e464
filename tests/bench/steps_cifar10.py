"""Row 3: the default CNN on CIFAR-10, batch 128, flipped and cropped; needs CIFAR-10 in the data folder."""

from tests.bench import steps
from tests.bench.measuring import Table

GOAL = "no bare loop takes less than 1 / 1.02 = 0.98× as long"
SETTINGS = ("model=cnn", "data=cifar10", "data.train_size=6400", "data.val_size=1000", "trainer.max_epochs=4")


def measure(rounds: int = steps.ROUNDS) -> Table:
    return steps.table("the default CNN on CIFAR-10, batch 128", 50, 2, GOAL, rounds, *SETTINGS)
