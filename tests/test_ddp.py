"""Several processes that train one model together, here two on the CPU."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.command_line import BARE, PATIENCE, Outcome, history, quick, read_json, run_folders, spawn, train, weights

# Plain gradient descent, so that only rounding may differ; odd numbers of validation and test points,
# so that the processes' shares of the last batch differ.
SETTINGS = (
    "optimizer=sgd",
    "model.hidden_size=16",
    "data.noise=0.3",
    "data.val_size=51",
    "data.test_size=1001",
    "trainer.max_epochs=3",
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Runs of two processes each, started side by side: one that is right and one that is not."""
    commands = {"right": SETTINGS, "uneven": (*SETTINGS, "data.batch_size=15")}
    folders = {name: tmp_path_factory.mktemp(name) for name in commands}
    started: dict[str, subprocess.Popen[str]] = {}
    outcomes = {}
    try:
        for name, settings in commands.items():
            started[name] = spawn("src.train", *BARE, *TWO, *settings, cwd=folders[name])
        for name, process in started.items():
            out, err = process.communicate(timeout=PATIENCE)
            outcomes[name] = Outcome(process.returncode, out, err, sorted(run_folders(folders[name])))
    finally:
        for process in started.values():
            process.kill()
    return outcomes


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same run in one process."""
    return quick(*SETTINGS, cwd=tmp_path_factory.mktemp("alone"))


def test_two_processes_share_one_folder(runs: dict[str, Outcome]) -> None:
    outcome = runs["right"]
    assert outcome.code == 0, outcome.text
    assert read_json(outcome.folder / "status.json")["status"] == "finished"
    assert {path.name for path in (outcome.folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.name for path in outcome.folder.parent.parent.iterdir()} == {"runs"}


def test_what_is_said_is_said_once(runs: dict[str, Outcome]) -> None:
    outcome = runs["right"]
    assert outcome.out.count("MLP on XOR") == 1
    assert outcome.out.count("train longer:") == 1
    assert "warning" not in outcome.text.lower()
    assert "sync_dist" not in outcome.text
    log = (outcome.folder / "train.log").read_text()
    assert [log.count(f"epoch {epoch}/3 ") for epoch in (1, 2, 3)] == [1, 1, 1]


def test_metrics_are_those_of_one_process(runs: dict[str, Outcome], alone: Outcome) -> None:
    for row, other in zip(history(runs["right"].folder), history(alone.folder), strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_weights_are_those_of_one_process(runs: dict[str, Outcome], alone: Outcome) -> None:
    for name in ("best", "last"):
        shared, single = weights(runs["right"].folder, name), weights(alone.folder, name)
        assert shared.keys() == single.keys()
        assert all(torch.allclose(shared[key], single[key], rtol=1e-4, atol=1e-6) for key in single)


def test_each_test_point_counts_once(runs: dict[str, Outcome], alone: Outcome) -> None:
    shared, single = runs["right"].metrics, alone.metrics
    assert shared["test/loss"] == pytest.approx(single["test/loss"], rel=1e-5)
    assert shared["test/acc"] == pytest.approx(single["test/acc"], rel=1e-6)
    assert round(shared["test/acc"] * 1001) == pytest.approx(shared["test/acc"] * 1001, abs=1e-3)
    assert shared["test/acc_per_class"] == pytest.approx(single["test/acc_per_class"], rel=1e-6)


def test_a_batch_that_does_not_divide_is_refused(runs: dict[str, Outcome]) -> None:
    error = runs["uneven"].error
    assert "data.batch_size=15" in error
    assert "2 processes" in error


def test_a_run_of_two_processes_can_go_on_in_one(runs: dict[str, Outcome], alone: Outcome, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(runs["right"].folder, tmp_path / "shared"))]
    folders.append(Path(shutil.copytree(alone.folder, tmp_path / "alone")))
    for folder in folders:
        one = ["trainer.strategy=auto", "trainer.devices=1", "trainer.max_epochs=5"]
        train(f"resume={folder}", *one, cwd=tmp_path)
    shared, single = [history(folder) for folder in folders]
    assert len(shared) == 5
    for row, other in zip(shared, single, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
