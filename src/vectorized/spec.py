"""The spec of a stack: everything that its worker needs to train it."""

from pathlib import Path
from typing import Any, NamedTuple


class StackJobSpec(NamedTuple):
    """A job of a stack.

    Attributes:
        config: the config as Hydra composed it, pickled.
        folder: the job's folder.
        settings: the config's values by their full names, with references resolved.
    """

    config: bytes
    folder: Path
    settings: dict[str, Any]


class StackSpec(NamedTuple):
    """The spec of a stack to be trained.

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
