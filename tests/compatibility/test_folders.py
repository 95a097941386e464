"""Folders written by earlier code: they are evaluated, resumed, reported and continued, and no job changes.

``folders.tar.xz`` holds what the commands of `RUNS` and `SWEEPS` left at commit 7794959, without events, figures and
reports.
"""

import csv
import tarfile
from pathlib import Path

import pytest

from tests.command_line import read_json, run, train

ARCHIVE = Path(__file__).parent / "folders.tar.xz"
RUNS = {
    "perceptron": "name=perceptron data=xor optimizer=muon scheduler=warmup_cosine trainer.max_epochs=40 seed=1 "
    "callbacks=plane trainer=cpu",
    "longer": "name=longer data=xor optimizer=muon trainer.max_epochs=30 seed=1 callbacks=plane trainer=cpu",
}
SWEEPS = {
    "local": "name=local data=xor model.hidden_size=2,3 optimizer.lr=0.1,0.3 seed=1 trainer.max_epochs=20 trainer=cpu",
    "stacked": "name=stacked hydra/launcher=vectorized data=xor callbacks=plane seed=1,2,3 trainer.max_epochs=20 "
    "trainer=cpu",
    "search": "name=search sweep=search data=xor trainer.max_epochs=5 seed=1 trainer=cpu hydra.sweeper.trials=3",
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_old_run_is_evaluated_as_it_was_tested(name: str, folders: Path) -> None:
    before = read_json(folders / f"outputs/runs/{name}/metrics.json")
    outcome = run("src.eval", f"run=outputs/runs/{name}", "split=test", cwd=folders)
    assert outcome.code == 0, outcome.text
    after = read_json(folders / f"outputs/runs/{name}/eval_test.json")
    assert (after["test/loss"], after["test/acc"]) == (before["test/loss"], before["test/acc"])


@pytest.mark.parametrize("name", RUNS)
def test_run_has_the_metrics_that_it_had(name: str, folders: Path) -> None:
    before = read_json(folders / f"outputs/runs/{name}/metrics.json")
    train(*RUNS[name].replace(f"name={name}", "name=again").split(), cwd=folders)
    assert read_json(folders / "outputs/runs/again/metrics.json") | {"seconds": before["seconds"]} == before


def test_old_run_is_resumed(folders: Path) -> None:
    train("resume=outputs/runs/longer", "trainer.max_epochs=35", cwd=folders)
    assert read_json(folders / "outputs/runs/longer/metrics.json")["epochs"] == 35
    assert (folders / "outputs/runs/longer/figures/decision_regions").is_dir()


def test_finished_old_run_with_a_schedule_is_known(folders: Path) -> None:
    outcome = run("src.train", "resume=outputs/runs/perceptron", "trainer.max_epochs=45", cwd=folders)
    assert "schedule was made for the run's number of steps" in outcome.error


@pytest.mark.parametrize("name", SWEEPS)
def test_nothing_of_an_old_sweep_runs_again(name: str, folders: Path) -> None:
    sweep = folders / "outputs/sweeps" / name
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/checkpoints/last.ckpt")}
    train("-m", *SWEEPS[name].split(), cwd=folders)
    assert before
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/checkpoints/last.ckpt")} == before


def test_old_sweep_takes_new_jobs_and_tells_old_and_new_by_what_is_swept(folders: Path) -> None:
    train("-m", *SWEEPS["stacked"].replace("seed=1,2,3", "seed=3,4").split(), cwd=folders)
    with (folders / "outputs/sweeps/stacked/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["1", "2", "3", "4"]
    jobs = [read_json(path)["settings"] for path in (folders / "outputs/sweeps/stacked").glob("*/job.json")]
    assert len(jobs) == 4


def test_old_sweeps_are_reported(folders: Path) -> None:
    outcome = run("src.report", "outputs/sweeps/local", "outputs/sweeps/stacked", cwd=folders)
    assert outcome.code == 0, outcome.text
    page = (folders / "outputs/sweeps/local/report.html").read_text()
    assert "hidden size" in page and "decision_regions" in page
