"""TensorBoard's events of a run that goes on: they come after those that its folder has, whatever the clock says."""

import math
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from src.core.devices import is_main_process
from src.storage.files import open_plain

EVENTS = "events.out.tfevents."  # how the name of an event file begins; the time it was made at follows
LATEST = 2.0**32  # seconds since 1970, in the year 2106; a later time is damage
WALL_TIME = 9  # the first byte of an event that has a time, which is the next eight


class _Clock:
    """The module ``time``, some seconds ahead."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def time(self) -> float:
        return time.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def events_after(folder: Path) -> Iterator[None]:
    """Let all events that are written while this lasts be later than those that a folder has.

    TensorBoard reads event files in the order of the times in their names, and draws points by their times. Where the
    clock was set back, or two starts fall within one second, those of the later start would come first.
    """
    ahead = find_latest(folder) - time.time()
    if ahead <= 0.0:
        yield
        return
    from tensorboard.summary.writer import event_file_writer
    from torch.utils.tensorboard import writer

    try:
        event_file_writer.time = writer.time = _Clock(ahead)  # type: ignore[assignment]
        yield
    finally:
        event_file_writer.time = writer.time = time


def find_latest(folder: Path) -> float:
    """Return the time, in seconds since 1970, from which on events come after all that a folder has."""
    return max((_find_end(path) for path in list_event_files(folder)), default=0.0)


def list_event_files(folder: Path) -> list[Path]:
    """Return the event files of the run in a folder."""
    return [path for path in folder.glob(f"{EVENTS}*") if path.is_file() and not path.is_symlink()]


def _find_end(path: Path) -> float:
    """Return the first second after the time in a file's name, or the time of its latest event if that is later."""
    digits = path.name.removeprefix(EVENTS).split(".")[0]
    times = [float(digits) + 1 if digits.isdecimal() else 0.0]
    with open_plain(path) as file:
        while len(header := file.read(12)) == 12:  # the record's size, and a checksum of it
            size = int.from_bytes(header[:8], "little")
            begin = file.read(min(size, 9))
            if len(begin) == 9 and begin[0] == WALL_TIME:
                times.append(struct.unpack("<d", begin[1:])[0])
            file.seek(min(size - len(begin) + 4, 2**62), 1)  # to the next record; there is another checksum
    return max((each for each in times if math.isfinite(each) and each < LATEST), default=0.0)


def flush_events(trainer: Trainer) -> None:
    """Write what has been logged so far to the event files, which libraries do every other minute."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and is_main_process():
            logger.experiment.flush()
