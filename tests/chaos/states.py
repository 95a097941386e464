"""Put the disk into the states that crashes leave, and let the next start plan from each.

A planner reads the state as the next start of the same command does. It returns what is wrong: a file that is read
and is not whole, finished work that would be done again, more lost than the epoch in flight, a folder that no command
takes.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from src.core import files
from src.core.files import Operation
from tests.chaos.crash import Crash, State, draw_crash
from tests.chaos.recording import Recorded

Planner = Callable[[Crash], str | None]  # returns what is wrong; None: nothing


class Found(NamedTuple):
    """What came of the states that crashes of a command leave.

    Attributes:
        tries: crashes that were drawn.
        states: how many of them left different states.
        wrong: what was wrong and how often; the first crash of each is in ``examples``.
        examples: for each of ``wrong`` its kind, the number of operations before it, and the files that it left.
    """

    tries: int
    states: int
    wrong: Counter[str]
    examples: dict[str, tuple[str, int, list[str]]]


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
        kept = {*state, *(folder for path in state for folder in path.parents)}
        for path in _walk(self.folder):
            if path not in kept:
                _remove(path)
        for path, content in sorted(state.items()):
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
            elif path not in self.laid or self.laid[path] != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self.laid = dict(state)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is written or removed here, so that the next state is laid out right."""

        def forget(operation: Operation) -> None:
            for path in (operation.path, operation.other):
                self.laid = {each: content for each, content in self.laid.items() if each != path}

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
    seen: set[int] = set()
    wrong: Counter[str] = Counter()
    examples: dict[str, tuple[str, int, list[str]]] = {}
    for crash in sorted(crashes, key=lambda each: each.done):  # neighbours differ little
        key = hash(frozenset(crash.state.items()))
        if key in seen:
            continue
        seen.add(key)
        stage.lay_out(crash.state)
        with stage.watch():
            fault = planner(crash)
        if fault:
            wrong[fault] += 1
            left = sorted(str(path.relative_to(folder)) for path in crash.state)
            examples.setdefault(fault, (crash.what, crash.done, left))
    return Found(count, len(seen), wrong, examples)


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
