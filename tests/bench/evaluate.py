"""Row 8: testing on 10,000 images, as a run does it, against nothing but the forward pass and the accuracy."""

import json
from importlib.metadata import version

from tests.bench import steps
from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 3
GOAL = "ours takes at most 1.1 times as long, so the others have 0.91× or more"


def table(what: str, rounds: int, *arguments: str) -> Table:
    """Milliseconds of an evaluation; in each round the sides take turns in one process."""
    found: dict[str, list[float]] = {}

    def measured(number: int) -> list[float]:
        told = json.loads(
            child("-m", "tests.bench.evaluate_sides", "trainer=cpu", *arguments, piped=True).out.splitlines()[-1]
        )
        for side, seconds in told.items():
            found.setdefault(side, []).extend(1e3 * value for value in seconds)
        return found[OURS]

    in_turns({what: measured}, rounds)
    title = f"Milliseconds of evaluating 10,000 test images, {what}; torch {version('torch')}, {steps.device()}"
    return Table(title, "ms", found, OURS, goal=GOAL)
