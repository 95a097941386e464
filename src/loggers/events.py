"""Write a resumed run's TensorBoard events with later times than the existing ones, even if the clock was set back."""

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
from src.storage.files import open_regular_file

EVENT_FILE_PREFIX = "events.out.tfevents."  # start of an event file's name; the file's creation time follows
MAX_TIME = 2.0**32  # seconds since 1970, in the year 2106; a later time means that the file is damaged
WALL_TIME_TAG = 9  # first byte of an event with a wall time, which is in the next eight bytes


class _ShiftedClock:
    """A replacement for the module ``time`` with a clock that is some seconds ahead."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def time(self) -> float:
        return time.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def ensure_later_events(folder: Path) -> Iterator[None]:
    """Give all events written in this context later times than the events in a folder.

    TensorBoard reads event files in the order of the times in their names and draws points by their times. If the clock
    was set back, or two starts were within one second, the events of the later start would come first.
    """
    ahead = _find_latest_time(folder) - time.time()
    if ahead <= 0.0:
        yield
        return
    # Both modules read the clock by their global name `time`: one for files' names, the other for events.
    from tensorboard.summary.writer import event_file_writer
    from torch.utils.tensorboard import writer

    try:
        event_file_writer.time = writer.time = _ShiftedClock(ahead)  # type: ignore[assignment]
        yield
    finally:
        event_file_writer.time = writer.time = time


def _find_latest_time(folder: Path) -> float:
    """Return a time, in seconds since 1970, that is not before any event in a folder."""
    return max((_find_end_time(path) for path in find_event_files(folder)), default=0.0)


def find_event_files(folder: Path) -> list[Path]:
    """Return the event files in a run's folder, without links."""
    return [path for path in folder.glob(f"{EVENT_FILE_PREFIX}*") if path.is_file() and not path.is_symlink()]


def _find_end_time(path: Path) -> float:
    """Return the first second after the time in a file's name, or the time of its latest event if that is later."""
    digits = path.name.removeprefix(EVENT_FILE_PREFIX).split(".")[0]
    times = [float(digits) + 1 if digits.isdecimal() else 0.0]
    with open_regular_file(path) as file:
        while len(header := file.read(12)) == 12:  # the record's size and its checksum
            size = int.from_bytes(header[:8], "little")
            start = file.read(min(size, 9))
            if len(start) == 9 and start[0] == WALL_TIME_TAG:
                times.append(struct.unpack("<d", start[1:])[0])
            file.seek(min(size - len(start) + 4, 2**62), 1)  # to the next record, after a checksum of 4 bytes
    return max((moment for moment in times if math.isfinite(moment) and moment < MAX_TIME), default=0.0)


def write_pending_events(trainer: Trainer) -> None:
    """Write all logged values to the event files now; TensorBoard's writer does so only every two minutes."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and is_main_process():
            logger.experiment.flush()
