"""A callback that makes trouble in chosen jobs of a sweep, and notes what all of them do.

It is the same for every job, so that a job stays the same when its trouble is over.
"""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from lightning import Callback, LightningModule, Trainer

from tests.command_line import wait_for

FOLDER = Path("trouble")  # in the working directory: the notes, and for each job in trouble a file
EVENTS_FILE = "notes.txt"


class FaultInjector(Callback):
    """Does to a job, as its second epoch begins, what the file named by its number says.

    "raise" an error, run out of "memory", "exit" without a word, "kill" its own process, "diverge" by a learning rate
    of 1e30, "hold" still for as long as the file is there, "defy" the request to stop, too.
    """

    SETTING = "+callbacks.trouble._target_=tests.trouble.FaultInjector"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number = record_event(trainer, f"{trainer.current_epoch + 1}")
        file = FOLDER / number
        what = file.read_text() if trainer.current_epoch == 1 and file.exists() else ""
        if what == "raise":
            raise RuntimeError("this job is in trouble")
        if what == "memory":
            raise MemoryError("there is no more")
        if what == "exit":
            os._exit(7)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "diverge":
            trainer.optimizers[0].param_groups[0]["lr"] = 1e30
        if what == "defy":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while what in ("hold", "defy") and file.exists() and not trainer.received_sigterm:
            time.sleep(0.01)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        record_event(trainer, "test")


def record_event(trainer: Trainer, event: str) -> str:
    """Note what a job does; returns its number."""
    number = Path(trainer.default_root_dir).name.split("_")[0]
    with (FOLDER / EVENTS_FILE).open("a") as file:
        file.write(f"{number} {event} {os.getpid()} {os.getppid()} {os.environ.get('THUNDERHEAD_CORES')}\n")
    return number


class JobEvent(NamedTuple):
    """What a job did: an epoch that began or "test", in which process of which parent, on how many cores."""

    number: int
    event: str
    process: int
    parent: int
    cores: int


def read_events(cwd: Path) -> list[JobEvent]:
    """All that the jobs did, in its order."""
    path = cwd / FOLDER / EVENTS_FILE
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [JobEvent(int(number), event, *map(int, rest)) for number, event, *rest in lines]


def inject_faults(cwd: Path, jobs: dict[int, str]) -> None:
    """Let jobs be in trouble from now on, by their numbers, and no others."""
    folder = cwd / FOLDER
    folder.mkdir(exist_ok=True)
    for file in folder.glob("[0-9]*"):
        if int(file.name) not in jobs:  # a job that holds must find its file at any time
            file.unlink()
    for number, what in jobs.items():
        (folder / str(number)).write_text(what)


def wait_for_second_epoch(cwd: Path, *numbers: int) -> list[int]:
    """Wait until jobs have begun their second epoch; returns their processes."""

    def found() -> dict[int, int]:
        return {note.number: note.process for note in read_events(cwd) if note.event == "2"}

    wait_for(lambda: set(numbers) <= set(found()), f"jobs {numbers}")
    return [found()[number] for number in numbers]
