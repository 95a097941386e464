"""The rooms of src/ import only downwards, as docs/architecture.md says, also inside functions."""

import ast
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.command_line import ROOT

ROOMS = (  # a room may import from the rooms above it in this list
    "core",
    "storage",
    "data",
    "cli",
    "optimizers",
    "models",
    "loggers",
    "callbacks",
    "callbacks.figures",
    "training.validation",
    "training.checkpointing",
    "training",
    "vectorized",
    "sweeps.store",
    "sweeps.workers",
    "sweeps.figures",
    "sweeps.report",
    "sweeps.progress",
    "sweeps.launchers",
    "sweeps.search",
    "plugins.hydra_plugins",
    "",  # the commands
)
FILES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts): path
    for path in sorted((ROOT / "src").rglob("*.py"))
    if path.name != "__init__.py"
}
COMMANDS = {"train", "eval", "report", "compare", "runs"}
MOST_FILES = 13  # in a folder


def imports(name: str) -> Iterator[str]:
    """Yield the files of src/ that one of them imports, at its top or in a function."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        found: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        yield from (other for each in found if (other := each.removeprefix("src.")) in FILES and each != other)


def room(name: str) -> str:
    return name.rpartition(".")[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_rooms_below(name: str) -> None:
    below = ROOMS[: ROOMS.index(room(name)) + 1]
    assert {other for other in imports(name) if room(other) not in below} == set()
    if room(name) in ("data", "cli"):  # they do not know each other
        assert {room(other) for other in imports(name)} <= {"core", "storage", room(name)}


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: set(imports(name)) for name in FILES}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert left == {}


def test_folders_are_small_and_only_commands_lie_loose() -> None:
    counts = Counter(map(room, FILES))
    too_full = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert too_full == {}, f"divide a folder that has more than {MOST_FILES} files"
    assert {name for name in FILES if not room(name)} == COMMANDS


def test_the_page_on_the_architecture_names_the_rooms() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in {each.split(".")[0] for each in ROOMS if each}:
        assert f"`src/{name}/`" in page
