"""The spec of a stack: everything that its worker needs to train it."""

from pathlib import Path
from typing import NamedTuple


class StackJobSpec(NamedTuple):
    """A job of a stack.

    Attributes:
        config: the config as Hydra composed it, pickled.
        folder: the job's folder.
    """

    config: bytes
    folder: Path


class StackSpec(NamedTuple):
    """The spec of a stack to be trained; implements `src.sweeps.workers.worker.Spec`.

    Attributes:
        jobs: the jobs of the stack.
        path: the file for the stack's state during training.
        eval_batch: largest number of samples in a batch of an evaluation.
        environment: the process's environment.
        command: the command that started the sweep, for the records.
    """

    jobs: list[StackJobSpec]
    path: Path
    eval_batch: int
    environment: dict[str, str]
    command: list[str]

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    def run(self) -> bool:
        """Train the stack and return True; the outcome of each job is in its folder."""
        from src.vectorized.entry import train_stack  # imports torch, which the sweep's main process does not need

        train_stack(self)
        return True

    def refuse(self, error: Exception) -> None:
        """Record in the jobs' folders why they cannot be run."""
        from src.sweeps.workers.worker import record_failure

        for part in self.jobs:
            record_failure(part.folder, error)
