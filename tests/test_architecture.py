"""The rooms of src/ import only downwards, as docs/architecture.md says, also inside functions."""

import ast
from collections import Counter
from collections.abc import Iterator

from tests.command_line import ROOT

LAYERS = (  # a room may import from the rooms above it in this list
    "core",
    "storage",
    "data.published",
    "data.own",
    "data.tables",
    "data.loading",
    "data",
    "cli",
    "optimizers",
    "models.published",
    "models.supervision",
    "models",
    "loggers",
    "callbacks",
    "callbacks.figures",
    "callbacks.explanations",
    "training.validation",
    "training.checkpointing",
    "training",
    "inference",
    "inference.exporting",
    "vectorized.networks",
    "vectorized",
    "sweeps.store",
    "sweeps.workers",
    "sweeps.figures",
    "sweeps.report",
    "sweeps.progress",
    "sweeps.launchers",
    "sweeps.preview",
    "sweeps.search",
    "sweeps.checklist",
    "plugins.hydra_plugins",
    "",  # the commands, and the API beside them
)
FILES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts): path
    for path in sorted((ROOT / "src").rglob("*.py"))
    if path.name != "__init__.py"
}
COMMANDS = {"train", "eval", "predict", "export", "report", "compare", "runs", "repeat", "api"}
MAX_FILES = 13  # in a folder


def find_imports(name: str) -> Iterator[str]:
    """Yield the files of src/ that one of them imports, at its top or in a function."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        found: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        yield from (other for each in found if (other := each.removeprefix("src.")) in FILES and each != other)


def get_folder(name: str) -> str:
    return name.rpartition(".")[0]


def list_forbidden_imports(name: str) -> set[str]:
    """Return the imports of a file from above its own layer; data and cli do not know each other, either."""
    below = LAYERS[: LAYERS.index(get_folder(name)) + 1]
    room = get_folder(name).partition(".")[0]
    allowed = {"core", "storage", room} if room in ("data", "cli") else {each.partition(".")[0] for each in below}
    return {
        f"{name} imports {other}"
        for other in find_imports(name)
        if get_folder(other) not in below or get_folder(other).partition(".")[0] not in allowed
    }


def test_imports_point_downwards() -> None:
    """A file imports only from the layers below its own."""
    assert set().union(*map(list_forbidden_imports, FILES)) == set()


def test_imports_have_no_cycles() -> None:
    left = {name: set(find_imports(name)) for name in FILES}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert left == {}


def test_folders_are_small() -> None:
    """No folder has too many files, and only the commands and the API lie directly in src/."""
    counts = Counter(map(get_folder, FILES))
    too_full = {folder: count for folder, count in counts.items() if count > MAX_FILES}
    assert too_full == {}, f"divide a folder that has more than {MAX_FILES} files"
    assert {name for name in FILES if not get_folder(name)} == COMMANDS


def test_architecture_page_names_folders() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in {each.split(".")[0] for each in LAYERS if each}:
        assert f"`src/{name}/`" in page
