"""What the process of a stack is told."""

from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """A job of a stack.

    Attributes:
        config: as Hydra composed it, pickled.
        folder: the job's.
    """

    config: bytes
    folder: Path


class StackOrder(NamedTuple):
    """A stack to be trained; see `src.sweeps.workers.worker.Task`.

    Attributes:
        parts: its jobs.
        path: where its state is kept while it lasts.
        eval_batch: samples of an evaluation's batch, at most.
        environment: the process's environment.
        command: the command that started the sweep, for the records.
    """

    parts: list[Part]
    path: Path
    eval_batch: int
    environment: dict[str, str]
    command: list[str]

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    def do(self) -> bool:
        """Train the stack; how its jobs went is in their folders."""
        from src.vectorized.entry import train  # it imports torch, which the sweep's own process does without

        train(self)
        return True

    def refuse(self, error: Exception) -> None:
        """Note in the jobs' folders why they cannot be done."""
        from src.sweeps.workers.worker import note_failure

        for part in self.parts:
            note_failure(part.folder, error)
