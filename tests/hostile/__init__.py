"""Folders of runs and sweeps that came from a stranger: whatever is in them, nothing in them runs or leads elsewhere.

A run is trained once, and its copies are spoiled. Beside them lie modules and files that leave a mark if any of them
is imported, called or unpickled.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.storage.files import format_yaml
from src.storage.plain import read_yaml
from tests.command_line import run, train_bare

RUN = "outputs/runs/trained"
CONFIG = f"{RUN}/.hydra/config.yaml"
EVAL = ("src.eval", f"run={RUN}", "trust=null")
RESUME = ("src.train", f"resume={RUN}", "trainer.max_epochs=2", "trust=null")
MARK = "ran"  # the file that tells that something of the stranger's has run
SECRET = "what is nobody's business"

# A package that is there to be imported: all of its classes are of the right kind.
CANARY = f"""
from pathlib import Path
from lightning.pytorch.profilers import SimpleProfiler
from torch.optim import Adam
from torch.optim.lr_scheduler import ConstantLR
from src.callbacks.figures.learning_curves import Curves
from src.data.toy import XOR
from src.training.redraw import TensorBoardFigures
from src.models.mlp import MLP
from src.sweeps.figures.base import Scores

Path({MARK!r}).touch()
class Model(MLP): ...
class Data(XOR): ...
class Optimizer(Adam): ...
class Scheduler(ConstantLR): ...
class Callback(Curves): ...
class Logger(TensorBoardFigures): ...
class Profiler(SimpleProfiler): ...
class Picture(Scores): ...
def touch(*args, **settings): Path({MARK!r}).touch()
"""
LOOKALIKES = ("canary", "src_", "srcx", "lightningx", "lightning_", "torchvisionx")


class Bomb:
    """Leaves the mark when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (MARK,)


def make_scene(cwd: Path) -> None:
    """Train a run in a working directory, and lay all that lies in wait beside it."""
    train_bare("trainer.max_epochs=1", "model.hidden_size=2", "name=trained", cwd=cwd)
    for name in LOOKALIKES:
        (cwd / f"{name}.py").write_text(CANARY)
    (cwd / "hubconf.py").write_text(f"open({MARK!r}, 'w')\n\ndef model(): ...\n")
    (cwd / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    np.save(cwd / "bomb.npy", np.array([Bomb()]), allow_pickle=True)
    (cwd / "secret").mkdir()
    (cwd / "secret" / "file").write_text(SECRET)


def edit_config(cwd: Path, settings: dict[str, Any], path: str = CONFIG) -> None:
    """Set settings in a config, by their full names."""
    config = read_yaml(cwd / path)
    for name, value in settings.items():
        *above, last = name.split(".")
        holder = config
        for part in above:
            if not isinstance(holder.get(part), dict):
                holder[part] = {}
            holder = holder[part]
        holder[last] = value
    (cwd / path).write_text(format_yaml(config))


def list_files(cwd: Path) -> dict[str, bytes]:
    """All files that there are, but Python's own, with their content."""
    files = [path for path in cwd.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(cwd)): path.read_bytes() for path in files}


def expect_refusal(cwd: Path, *command: str) -> str:
    """Give a command that is refused: the line that says why; nothing has run, and no file has changed but the log."""
    before = list_files(cwd)
    error = run(*command, cwd=cwd).error
    assert not (cwd / MARK).exists()
    after = list_files(cwd)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed <= {f"{RUN}/train.log", f"{RUN}/.lock"}
    return error
