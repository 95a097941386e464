"""The examples of docs/extend.md, added to a copy of the project, and the choices that the README lists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT, read_json, run_folders


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project with the files that docs/extend.md shows."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("src", "conf", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    page = (ROOT / "docs" / "extend.md").read_text()
    blocks = re.findall(r"```(?:python|yaml)\n(# ((?:src|conf|tests)/\S+)\n.*?)```", page, re.S)
    for content, path in blocks:
        (copy / path).write_text(content)
    assert sorted(path for _, path in blocks) == [
        "conf/data/rings.yaml",
        "conf/model/rbf.yaml",
        "src/data/rings.py",
        "src/models/rbf.py",
        "tests/data/test_rings.py",
    ]
    return copy


TRAIN_EXAMPLE = """
from pathlib import Path
from tests.command_line import train

def test_model_learns():
    train("model=rbf", "data=rings", "optimizer.lr=0.01", "logger=none", cwd=Path.cwd())
"""


def test_examples_work(project: Path) -> None:
    """The example's own test passes, and its model learns its data."""
    (project / "tests" / "test_trained.py").write_text(TRAIN_EXAMPLE)
    files = ["tests/data/test_rings.py", "tests/test_trained.py"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    (folder,) = run_folders(project)
    metrics = read_json(folder / "metrics.json")
    assert metrics["test/acc"] > 0.95
    assert metrics["parameters"] == 20 * 2 + 20 + 1
    assert (folder / "figures" / "decision_regions.png").is_file()


def test_the_readme_names_every_choice() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| group | choices |") : text.index("    python -m src.train model=mlp data=mnist 'model")]
    for group in ("model", "data", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{group}`"))
        choices = {path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml")} - {"default"}
        named = set(re.findall(r"`([a-z0-9_]+)`", row)) - {group}
        assert named == choices | ({"default"} if group == "callbacks" else set()), group


def test_readme_names_every_preset() -> None:
    """The README names every choice of the groups `experiment` and `sweep`."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| about | `experiment=` | `sweep=` |") : text.index("A `sweep=` needs no `-m`")]
    rows = [line.split("|") for line in table.splitlines()[2:] if line.startswith("|")]
    general = re.findall(r"^\| `sweep=(\w+)`", text[text.index("\n## Sweep\n") : text.index("\n## What a run")], re.M)
    for column, group, others in ((2, "experiment", []), (3, "sweep", general)):
        named = [name for row in rows for name in re.findall(r"`(\w+)`", row[column])]
        assert sorted(named + others) == sorted(path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml"))


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_links_have_targets(page: Path) -> None:
    """Links in the pages lead to existing files and headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}, link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 250
