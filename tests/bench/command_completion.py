"""Row 6: what the shell asks for when one types a space and the completion's key, to which all is an answer."""

from tests.bench import commands
from tests.bench.measuring import Table

LINE = "train "  # the command's name, as the shell's script hands it over, and nothing more


def measure(rounds: int = commands.ROUNDS) -> Table:
    asked = {"COMP_LINE": LINE, "COMP_POINT": str(len(LINE)), "COMP_CWORD": "1"}
    return commands.table("shell completion of an empty word", "-sc", "query=bash", rounds=rounds, **asked)
