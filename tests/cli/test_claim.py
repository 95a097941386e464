"""A folder is a run's once it has ``.hydra/config.yaml``: whenever a start is killed, the next one takes the folder."""

from pathlib import Path

import pytest

import src.cli.main
import src.storage.files
from src.storage.files import Operation
from tests.command_line import Outcome, read_json, run, train, train_bare
from tests.training.test_ends import Killed
from tests.training.test_resume import assert_the_same_run

SETTINGS = ("trainer.max_epochs=2", "name=mine")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_bare(*SETTINGS, cwd=tmp_path_factory.mktemp("straight")).folder


def test_folder_of_killed_start_is_reused(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "runs" / "mine"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {}\n")
    (folder / ".hydra" / ".config.yaml.0123.partial").write_text("model:")
    (folder / ".lock").touch()
    (folder / "train.log").touch()
    train_bare(*SETTINGS, cwd=tmp_path)
    assert_the_same_run(folder, straight)
    assert {path.name for path in (folder / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert (folder / ".hydra" / "overrides.yaml").read_text().splitlines()[-1] == "- name=mine"


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/best.ckpt"])
def test_folder_with_other_files_is_refused(name: str, tmp_path: Path) -> None:
    """The folder is unchanged."""
    path = tmp_path / "outputs" / "runs" / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    error = run("src.train", *SETTINGS, cwd=tmp_path).error
    assert "outputs/runs/mine already exists and contains" in error
    assert [each for each in (tmp_path / "outputs").rglob("*") if each.is_file()] == [path]


@pytest.mark.parametrize(
    ("name", "told"), [(".", "mine already exists"), (".hydra", "mine/.hydra is a link that leads out of")]
)
def test_link_to_other_folder_is_refused(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "outputs" / "runs" / "mine" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    assert told in run("src.train", *SETTINGS, cwd=tmp_path).error
    assert not any((tmp_path / "elsewhere").iterdir())


def test_only_one_concurrent_start_succeeds(straight: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second one begins when the first one has looked at the folder and is about to make it."""
    inner: list[Outcome] = []

    def look(folder: Path) -> None:
        monkeypatch.undo()
        inner.append(train_bare(*SETTINGS, cwd=tmp_path))

    monkeypatch.setattr("src.cli.folders.find_foreign_file", look)
    error = run("src.train", *SETTINGS, "seed=1", cwd=tmp_path).error
    assert "already exists: choose another name=…, or resume it: resume=outputs/runs/mine" in error
    assert_the_same_run(inner[0].folder, straight)
    assert "seed: 0" in (inner[0].folder / ".hydra" / "config.yaml").read_text()


class KillAfter:
    """Kills this process, as far as that can be done, once a file with a name is written so many times."""

    def __init__(self, name: str, times: int = 1) -> None:
        self.name, self.times = name, times

    def __call__(self, operation: Operation) -> None:
        if operation.kind in ("mkdir", "replace", "link") and operation.path.name == self.name:
            self.times -= 1
            if self.times == 0:
                raise Killed


def start_and_kill(after: KillAfter, monkeypatch: pytest.MonkeyPatch, cwd: Path) -> Path:
    monkeypatch.setattr(src.storage.files, "OBSERVERS", [after])
    with pytest.raises(Killed):
        run("src.train", "callbacks=none", "logger=none", *SETTINGS, cwd=cwd)
    monkeypatch.undo()
    return cwd / "outputs" / "runs" / "mine"


@pytest.mark.parametrize("name", ["mine", ".hydra"])
def test_start_killed_before_claim_is_repeated(
    name: str, straight: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If a start is killed before it has claimed its folder, the next one takes the folder."""
    folder = start_and_kill(KillAfter(name), monkeypatch, tmp_path)
    train_bare(*SETTINGS, cwd=tmp_path)
    assert_the_same_run(folder, straight)


@pytest.mark.parametrize(
    ("name", "times"),
    [("config.yaml", 1), ("status.json", 1), ("best.ckpt", 1), ("last.ckpt", 2), ("metrics.json", 2)],
)
def test_start_killed_after_claim_is_resumed(
    name: str, times: int, straight: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If a start is killed once it has claimed its folder, the run can only be resumed."""
    folder = start_and_kill(KillAfter(name, times), monkeypatch, tmp_path)
    assert "resume=outputs/runs/mine" in run("src.train", *SETTINGS, cwd=tmp_path).error
    train("resume=outputs/runs/mine", cwd=tmp_path)
    assert_the_same_run(folder, straight)
    assert read_json(folder / "status.json")["status"] == "finished"
