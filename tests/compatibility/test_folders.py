"""Folders written by earlier code: they are evaluated, resumed, reported and continued, and no job changes.

``folders.tar.xz`` holds what the commands of `RUNS` and `SWEEPS` left at commit 7794959, without events, figures and
reports. At that time ``model.widths`` was ``model.channels``. The run ``stopped`` is ``airbench``, ended by SIGTERM.
"""

import csv
import tarfile
from pathlib import Path

import pytest

from src.models.airbench import Airbench
from src.models.cnn import CNN
from tests.command_line import is_identical, load_checkpoint, read_history, read_json, run, train
from tests.small_data import write_cifar10

QUIET = "callbacks=none logger=none trainer=cpu"
IMAGES = f"data.verify=false paths.data=data data.batch_size=20 data.train_size=60 {QUIET}"
AIRBENCH = f"experiment=cifar10_fast model.widths=[4,6] trainer.precision=32-true {IMAGES}"
ARCHIVE = Path(__file__).parent / "folders.tar.xz"
RUNS = {
    "perceptron": "name=perceptron data=xor optimizer=muon scheduler=warmup_cosine trainer.max_epochs=40 seed=1 "
    "callbacks=plane trainer=cpu",
    "longer": "name=longer data=xor optimizer=muon trainer.max_epochs=30 seed=1 callbacks=plane trainer=cpu",
    "airbench": f"name=airbench {AIRBENCH} trainer.max_epochs=20 seed=1",
    "cnn": "name=cnn model=cnn data=cifar10 model.channels=[4,6] model.hidden_size=8 data.val_size=40 "
    f"trainer.max_epochs=3 {IMAGES} seed=1",
}
SWEEPS = {
    "local": "name=local data=xor model.hidden_size=2,3 optimizer.lr=0.1,0.3 seed=1 trainer.max_epochs=20 trainer=cpu",
    "stacked": "name=stacked hydra/launcher=vectorized data=xor callbacks=plane seed=1,2,3 trainer.max_epochs=20 "
    "trainer=cpu",
    "search": "name=search sweep=search data=xor trainer.max_epochs=5 seed=1 trainer=cpu hydra.sweeper.trials=3",
    "networks": f"name=networks {AIRBENCH} trainer.max_epochs=2 seed=1,2",
    "neighbors": f"name=neighbors model=nearest_neighbor data=xor {QUIET} model.k=1,3",
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    write_cifar10(tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_old_run_keeps_test_metrics(name: str, folders: Path) -> None:
    """An evaluation of an old run gives the metrics of its own test."""
    before = read_json(folders / f"outputs/runs/{name}/metrics.json")
    outcome = run("src.eval", f"run=outputs/runs/{name}", "split=test", cwd=folders)
    assert outcome.code == 0, outcome.text
    after = read_json(folders / f"outputs/runs/{name}/eval_test.json")
    assert (after["test/loss"], after["test/acc"]) == (before["test/loss"], before["test/acc"])


@pytest.mark.parametrize("name", ["perceptron", "airbench", "cnn"])
def test_old_run_predicts_its_test_set(name: str, folders: Path) -> None:
    """Predictions of an old run, whose checkpoint does not describe its data, have the accuracy of its own test."""
    outcome = run("src.predict", f"run=outputs/runs/{name}", "split=test", "out=all.csv", cwd=folders)
    assert outcome.code == 0, outcome.text
    assert "does not describe its data" in outcome.out
    with (folders / "all.csv").open() as file:
        right = [row["target"] == row["prediction"] for row in csv.DictReader(file)]
    measured = read_json(folders / f"outputs/runs/{name}/metrics.json")["test/acc"]
    assert sum(right) / len(right) == pytest.approx(measured, abs=1e-7)  # which is a float32


@pytest.mark.parametrize("name", RUNS)
def test_old_command_gives_same_metrics(name: str, folders: Path) -> None:
    """The command of an old run, given again, gives the same metrics."""
    before = read_json(folders / f"outputs/runs/{name}/metrics.json")
    train(*RUNS[name].replace(f"name={name}", "name=again").split(), cwd=folders)
    assert read_json(folders / "outputs/runs/again/metrics.json") | {"seconds": before["seconds"]} == before


def test_old_run_is_resumed(folders: Path) -> None:
    train("resume=outputs/runs/longer", "trainer.max_epochs=35", cwd=folders)
    assert read_json(folders / "outputs/runs/longer/metrics.json")["epochs"] == 35
    assert (folders / "outputs/runs/longer/figures/decision_regions").is_dir()


def test_stopped_old_network_resumes_bit_for_bit(folders: Path) -> None:
    """A stopped old run, once resumed, equals the uninterrupted old run to the last bit."""
    train("resume=outputs/runs/stopped", cwd=folders)
    straight, resumed = (folders / "outputs/runs" / name for name in ("airbench", "stopped"))
    one, two = (load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (straight, resumed))
    assert all(is_identical(one[part], two[part]) for part in ("state_dict", "optimizer_states", "lr_schedulers"))
    assert read_history(straight) == read_history(resumed)


@pytest.mark.parametrize(("name", "kind"), [("airbench", Airbench), ("cnn", CNN)])
def test_old_checkpoint_is_loaded_by_its_class(name: str, kind: type[Airbench | CNN], folders: Path) -> None:
    path = folders / "outputs/runs" / name / "checkpoints/last.ckpt"
    weights = kind.load_from_checkpoint(path, weights_only=True).state_dict()
    assert is_identical(weights, load_checkpoint(path)["state_dict"])


def test_removed_setting_at_another_value_is_refused(folders: Path) -> None:
    config = folders / "outputs/runs/cnn/.hydra/config.yaml"
    config.write_text(config.read_text().replace("convolutions: 1", "convolutions: 2"))
    outcome = run("src.eval", "run=outputs/runs/cnn", cwd=folders)
    assert outcome.code == 1
    assert "model.convolutions: src.models.cnn.CNN has no such setting" in outcome.error


def test_longer_old_schedule_is_refused(folders: Path) -> None:
    """A finished old run with a learning-rate schedule cannot be given more epochs."""
    outcome = run("src.train", "resume=outputs/runs/perceptron", "trainer.max_epochs=45", cwd=folders)
    assert "schedule was made for the run's number of steps" in outcome.error


@pytest.mark.parametrize("name", SWEEPS)
def test_old_sweep_reruns_no_job(name: str, folders: Path) -> None:
    sweep = folders / "outputs/sweeps" / name
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/checkpoints/last.ckpt")}
    train("-m", *SWEEPS[name].split(), cwd=folders)
    assert before
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/checkpoints/last.ckpt")} == before


def test_old_sweep_accepts_new_jobs(folders: Path) -> None:
    """Jobs added to an old sweep join its table; those with an existing identity do not run again."""
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
