"""Record what a command and all of its processes do to the disk, operation by operation."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from src.storage import files
from src.storage.files import Operation

ROOT = Path(__file__).resolve().parents[2]
RECORDER = Path(__file__).parent / "recorder"


class Recorded(NamedTuple):
    """An operation, and the process that made it."""

    process: int
    operation: Operation


def record_to(path: str) -> None:
    """Append each operation of this process, and of those forked from it, to a file."""
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def observe(operation: Operation) -> None:
        content = pickle.dumps(Recorded(os.getpid(), make_absolute(operation)))
        os.write(target, len(content).to_bytes(8, "big") + content)  # one write: processes do not mix theirs

    files.OBSERVERS.append(observe)


def make_absolute(operation: Operation) -> Operation:
    """Return an operation with the paths that it has from everywhere."""
    return operation._replace(path=operation.path.absolute(), other=operation.other and operation.other.absolute())


def read_recording(path: Path) -> list[Recorded]:
    """Read a recording: the operations in the order in which they were made."""
    content, found, place = path.read_bytes(), [], 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "big")
        found.append(pickle.loads(content[place + 8 : place + 8 + size]))
        place += 8 + size
    return found


def record_command(arguments: list[str], cwd: Path) -> list[Recorded]:
    """Run ``python -m src.train`` with arguments in a folder and return what it did there, down to its workers."""
    recording = cwd / "operations"
    recording.unlink(missing_ok=True)
    environment = os.environ | {
        "CHAOS_RECORD": str(recording),
        "PYTHONPATH": os.pathsep.join([str(RECORDER), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "src.train", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return read_recording(recording)
