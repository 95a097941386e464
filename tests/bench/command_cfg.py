"""Row 6: ``--cfg job``."""

from tests.bench import commands
from tests.bench.measuring import Table


def measure(rounds: int = commands.ROUNDS) -> Table:
    return commands.table("--cfg job", "--cfg", "job", rounds=rounds)
