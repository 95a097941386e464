"""Imported by the process that workers are forked from: what they need is then there already."""

import pickle
import sys
from types import TracebackType

from src.sweeps.workers.worker import prepare


def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Tell of an error, unless it is that whoever wanted a worker was killed while it said what for."""
    if not issubclass(kind, (EOFError, pickle.UnpicklingError)):
        sys.__excepthook__(kind, error, traceback)


prepare()
sys.excepthook = tell
