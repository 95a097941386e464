"""Model what a disk may hold after a crash, from a recording of what was done to it.

A process that is killed leaves all that it has written. A machine that loses power may lose whatever was not forced to
the disk: the content of a file, a new name, a removed one, each by itself and in any order.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.storage.files import Operation
from tests.chaos.recording import Recorded

State = dict[Path, bytes | None]  # what lies on the disk: files with their content; None: a folder


@dataclass
class _Node:
    """A file's content, which renaming keeps; ``safe`` is as much of it as a loss of power leaves for sure."""

    content: bytes | None
    safe: bytes | None = None


_Change = dict[Path, _Node | None]  # the nodes that paths get; None: no more


@dataclass
class Disk:
    """A disk as operations leave it.

    Attributes:
        names: what processes see, by path.
        safe: what a loss of power leaves for sure, by path.
        pending: changes of names that it may take back, in order, each with its folder.
    """

    names: dict[Path, _Node] = field(default_factory=dict)
    safe: dict[Path, _Node] = field(default_factory=dict)
    pending: list[tuple[Path, _Change]] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)

    def apply(self, operation: Operation) -> None:
        """Do an operation."""
        kind, path, other = operation.kind, operation.path, operation.other
        if kind == "write":
            self._rename({path: _Node(operation.content)})
        elif kind == "mkdir":
            self.folders.add(path)
            self._rename({path: _Node(None)})
        elif kind == "append":
            self._append(path, operation.content)
        elif kind == "replace" and other:
            self._rename({path: self.names[other], other: None})
        elif kind == "link" and other:
            self._rename({path: self.names[other]})
        elif kind == "remove":
            self._rename({path: None})
        else:
            self._sync(operation)

    def _append(self, path: Path, content: bytes) -> None:
        if path not in self.names:
            self._rename({path: _Node(b"")})
        node = self.names[path]
        self.names[path].content = (node.content or b"") + content

    def _rename(self, change: _Change) -> None:
        self.pending.append((next(iter(change)).parent, change))
        _put(self.names, change)

    def _sync(self, operation: Operation) -> None:
        """Force content or names to the disk."""
        if operation.kind == "sync":
            self.names[operation.path].safe = self.names[operation.path].content
            return
        everything = operation.kind == "sync_all"
        if everything:
            for node in self.names.values():
                node.safe = node.content
        for folder, change in self.pending:
            if everything or folder == operation.path:
                _put(self.safe, change)
        self.pending = [each for each in self.pending if not (everything or each[0] == operation.path)]

    def after_kill(self) -> State:
        """Return what a killed process leaves."""
        return {path: node.content for path, node in self.names.items()}

    def certain(self) -> State:
        """Return what a loss of power leaves for sure."""
        return {path: node.safe for path, node in self.safe.items()}

    def after_power_loss(self, chance: random.Random) -> State:
        """Return what a loss of power may leave: of all that is not certain a part, in any order."""
        names, share = dict(self.safe), chance.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for _, change in self.pending:
            if chance.random() < share:
                _put(names, change)
        state = {path: _lose_content(node, chance) for path, node in names.items()}
        lost = {folder for folder in self.folders if folder not in state}
        return {path: content for path, content in state.items() if lost.isdisjoint(path.parents)}


def _put(names: dict[Path, _Node], change: _Change) -> None:
    for path, node in change.items():
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def _lose_content(node: _Node, chance: random.Random) -> bytes | None:
    """Return a file's content after a loss of power: of what is not certain a part, zeros, or nothing."""
    if node.content is None or node.content == node.safe:
        return node.content
    safe = node.safe or b""
    new = node.content[len(safe) :]
    cut = chance.randrange(len(new) + 1)
    return safe + chance.choice((b"", new[:cut], bytes(len(new)), new[:cut] + bytes(len(new) - cut), new))


@dataclass
class Crash:
    """A crash, what it left, and what it cannot have taken.

    Attributes:
        what: "kill", "torn write" or "power loss".
        state: what lies on the disk.
        certain: what was on it for sure.
        done: how many operations were made before.
    """

    what: str
    state: State
    certain: State
    done: int


def draw_crash(recording: Sequence[Recorded], chance: random.Random) -> Crash:
    """Draw a crash from a recording: all processes end at one moment, the workers each anywhere near it."""
    done, torn = _cut(recording, chance)
    disk = Disk()
    for operation in done:
        disk.apply(operation)
    what = chance.choice(("kill", "torn write", "power loss", "power loss"))
    if what != "kill" and torn is not None and torn.kind in ("write", "append"):
        size = chance.randrange(len(torn.content) + 1)
        disk.apply(torn._replace(content=torn.content[:size]))
    if what == "power loss":
        return Crash(what, disk.after_power_loss(chance), disk.certain(), len(done))
    state = disk.after_kill()
    return Crash(what, state, state, len(done))


def _cut(recording: Sequence[Recorded], chance: random.Random) -> tuple[list[Operation], Operation | None]:
    """Return the operations made before a crash, and the one in whose midst it came.

    Workers do not wait for each other. Between two operations of the process that commands them each may be ahead or
    behind of where the recording has it.
    """
    main = recording[0].process
    moment = chance.randrange(len(recording) + 1)
    first = max((place for place in range(moment) if recording[place].process == main), default=-1) + 1
    last = next((place for place in range(moment, len(recording)) if recording[place].process == main), len(recording))
    workers: dict[int, list[Operation]] = {}
    for each in recording[first:last]:
        workers.setdefault(each.process, []).append(each.operation)
    done, torn = [each.operation for each in recording[:first]], None
    for operations in workers.values():
        count = chance.randrange(len(operations) + 1)
        done += operations[:count]
        torn = operations[count] if count < len(operations) else torn
    if torn is None and last < len(recording) and not workers:
        torn = recording[last].operation
    return done, torn
