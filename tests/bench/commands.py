"""Row 6: what answers without a run, against an empty Hydra application that is asked the same."""

from functools import partial
from importlib.metadata import version

from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 4
TIMES = 4  # in each round
SIDES = {OURS: "src.train", "an empty Hydra app": "tests.bench.empty_app"}


def table(what: str, *arguments: str, rounds: int, **environment: str) -> Table:
    """Seconds from start to end of ``python -m src.train ARGUMENTS`` and of the empty application's.

    Args:
        what: the command in words.
        arguments: its own.
        rounds: how often the sides take turns.
        environment: variables that it needs.
    """

    def measured(module: str, number: int) -> list[float]:
        return [child("-m", module, *arguments, **environment).seconds for _ in range(TIMES)]

    values = in_turns({name: partial(measured, module) for name, module in SIDES.items()}, rounds)
    title = f"Seconds of {what}, {TIMES} times in each round; hydra-core {version('hydra-core')}"
    return Table(title, "s", values, OURS, goal="at most 1.3 times as long as an empty app, which has 0.77× or more")
