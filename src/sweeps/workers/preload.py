"""The module that the fork server imports, so that forked workers find everything imported."""

import pickle
import sys
from types import TracebackType

from src.sweeps.workers.worker import import_heavy_modules


def _report_uncaught_error(
    error_type: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught error, unless it only means that the parent was killed while it sent a worker's data."""
    if not issubclass(error_type, (EOFError, pickle.UnpicklingError)):
        sys.__excepthook__(error_type, error, traceback)


import_heavy_modules()
sys.excepthook = _report_uncaught_error
