"""Row 7: a first run, from start to finish, against importing what it stands on."""

import tempfile
from importlib.metadata import version

from tests.bench.measuring import OURS, Table, child, in_turns

ROUNDS = 5
IMPORTS = "importing torch, torchvision and lightning"


def measure(rounds: int = ROUNDS) -> Table:
    """Seconds of ``python -m src.train`` as it stands, with pictures, TensorBoard, checkpoints and test."""
    with tempfile.TemporaryDirectory() as folder:

        def run(number: int) -> list[float]:
            return [child("-m", "src.train", f"paths.outputs={folder}").seconds]

        def imports(number: int) -> list[float]:
            return [child("-c", "import torch, torchvision, lightning").seconds]

        values = in_turns({OURS: run, IMPORTS: imports}, rounds)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "lightning"))
    title = f"Seconds of python -m src.train, 50 epochs of XOR and everything on; {packages}"
    return Table(title, "s", values, OURS, goal="at most 1.5 times as long as the imports, which have 0.67× or more")
