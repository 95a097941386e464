"""Testing on 10,000 images, `Trainer.test` as a run does it, against nothing but the forward pass and the accuracy."""

import json
from functools import partial
from importlib.metadata import version

from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 3
SETTINGS = {"cnn": ("model=cnn", "data=cifar10"), "mlp": ("model=mlp", "data=mnist")}


def measure(rounds: int = ROUNDS) -> Table:
    """Milliseconds of an evaluation; in each round a process per model, in which the sides take turns."""
    found: dict[str, list[float]] = {}

    def seconds(model: str, number: int) -> list[float]:
        told = json.loads(child("-m", "tests.bench.evaluate_sides", *SETTINGS[model], piped=True).out.splitlines()[-1])
        for side, values in told.items():
            found.setdefault(f"{model}: {side}", []).extend(1e3 * value for value in values)
        return []

    in_turns({model: partial(seconds, model) for model in SETTINGS}, rounds)
    table = Table(
        f"Milliseconds of evaluating 10,000 test images; torch {version('torch')}, CPU, threads as a run takes them",
        "ms",
        found,
        f"cnn: {OURS}",
        goal="ours takes at most 1.1 times as long as the best of the bare passes",
    )
    return table._replace(notes=tuple(compared(table, model) for model in SETTINGS))


def compared(table: Table, model: str) -> str:
    """In a line: ours against the best bare pass of a model."""
    ours = f"{model}: {OURS}"
    best = min((name for name in table.values if name.startswith(f"{model}: ") and name != ours), key=table.ratio)
    return f"{ours} takes {table.ratio(ours) / table.ratio(best):.2f} times as long as {best}"
