"""The module that the fork server imports, so that forked workers find everything imported."""

import pickle
import sys
from types import TracebackType

from src.sweeps.workers.worker import prepare


def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print an uncaught error, unless it only means that the parent was killed while it sent a worker's data."""
    if not issubclass(kind, (EOFError, pickle.UnpicklingError)):
        sys.__excepthook__(kind, error, traceback)


prepare()
sys.excepthook = tell
