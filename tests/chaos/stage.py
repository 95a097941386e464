"""Put the disk into the states that crashes leave, and let the next start plan from each.

A planner reads the state as the next start of the same command does. It returns what is wrong: a file that is read
and is not whole, finished work that would be done again, more lost than the epoch in flight, a folder that no command
takes.
"""

import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from src.storage import files
from src.storage.files import Operation
from tests.chaos.crash import Crash, State, draw_crash
from tests.chaos.recording import Recorded

Planner = Callable[[Crash], str | None]  # returns what is wrong; None: nothing


class Found(NamedTuple):
    """What came of the states that crashes of a command leave.

    Attributes:
        tries: crashes that were drawn.
        states: a digest of each different state that they left.
        wrong: what was wrong, and how often.
        examples: for each of ``wrong`` the first crash: its kind, and how many operations were made before it.
    """

    tries: int
    states: set[bytes]
    wrong: Counter[str]
    examples: dict[str, tuple[str, int]]


class Stage:
    """A folder in which states are laid out one after the other; only what differs is written.

    Args:
        folder: where the recorded command ran; what lies there is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.laid: State = {}
        shutil.rmtree(folder, ignore_errors=True)

    def lay_out(self, state: State) -> None:
        """Make the folder hold a state and nothing else."""
        kept = set(state)
        for path in state:
            while (path := path.parent) not in kept:
                kept.add(path)
        for path in _walk(self.folder):
            if path not in kept:
                _remove(path)
        for path, content in sorted(state.items() - self.laid.items()):
            folder = path if content is None else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_bytes(content)
        self.laid = dict(state)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is written or removed here, so that the next state is laid out right."""

        def forget(operation: Operation) -> None:
            self.laid.pop(operation.path, None)
            if operation.other:
                self.laid.pop(operation.other, None)

        files.OBSERVERS.append(forget)
        try:
            yield
        finally:
            files.OBSERVERS.remove(forget)


def explore(recording: Sequence[Recorded], folder: Path, planner: Planner, seed: int, count: int) -> Found:
    """Draw crashes of a recorded command and plan from each state that they leave.

    Args:
        recording: what the command did.
        folder: where it ran; all of the recording's paths lie below it.
        planner: plans from the state that lies there.
        seed: of the crashes.
        count: how many.
    """
    chance, stage = random.Random(seed), Stage(folder)
    crashes = [draw_crash(recording, chance) for _ in range(count)]
    found = Found(count, set(), Counter(), {})
    for crash in sorted(crashes, key=lambda each: each.done):  # neighbours differ little
        digest = _digest(crash.state, folder)
        if digest in found.states:
            continue
        found.states.add(digest)
        stage.lay_out(crash.state)
        with stage.watch():
            fault = _plan(planner, crash)
        if fault:
            found.wrong[fault] += 1
            found.examples.setdefault(fault, (crash.what, crash.done))
    return found


def _plan(planner: Planner, crash: Crash) -> str | None:
    try:
        return planner(crash)
    except Exception as error:  # the next start would end so
        return f"{type(error).__name__}: {error}"


def _digest(state: State, folder: Path) -> bytes:
    """Return what tells a state from others."""
    parts = sorted(f"{path.relative_to(folder)} {content and zlib.crc32(content)}" for path, content in state.items())
    return blake2b("\n".join(parts).encode(), digest_size=16).digest()


def _walk(folder: Path) -> list[Path]:
    """Return all that lies below a folder, what lies in a folder before the folder itself."""
    found = []
    for place, folders, names in os.walk(folder, topdown=False):
        found += [Path(place, name) for name in (*names, *folders)]
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
