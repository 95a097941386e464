"""Row 6: ``--help``."""

from tests.bench import commands
from tests.bench.measuring import Table


def measure(rounds: int = commands.ROUNDS) -> Table:
    return commands.table("--help", "--help", rounds=rounds)
