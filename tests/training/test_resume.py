"""Going on with a run: exactly as if nothing had stopped it, in its own folder, with its own settings."""

import itertools
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.command_line import (
    BARE,
    NO_FIGURES,
    PROCESS_TIMEOUT,
    Outcome,
    SignalSender,
    drop_seconds,
    get_image_settings,
    is_identical,
    load_checkpoint,
    read_history,
    read_json,
    run,
    spawn,
    train,
    train_bare,
)

# All that remembers something from step to step: momentum, dropout, running statistics, a schedule.
STATEFUL_SETTINGS = (
    "model.hidden_size=[8,8]",
    "model.dropout=0.2",
    "model.batch_norm=true",
    "optimizer=sgd",
    "scheduler=cosine",
    "data.noise=0.3",
)


def assert_the_same_run(first: Path, second: Path) -> None:
    """Weights, optimizer, schedule, metrics of each epoch, kept and tested ones: all equal bit for bit."""
    for name in ("best", "last"):
        one, two = [load_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for folder in (first, second)]
        assert (one["epoch"], one["global_step"]) == (two["epoch"], two["global_step"])
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert is_identical(one[part], two[part]), f"{part} of {name}.ckpt"
    assert read_history(first) == read_history(second)
    assert drop_seconds(read_json(first / "metrics.json")) == drop_seconds(read_json(second / "metrics.json"))


# Runs that were stopped from outside


class StoppedRun(NamedTuple):
    """How a run of its own process ended in its third epoch."""

    status: int
    out: str
    err: str
    folder: Path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoppedRun]:
    """The same run stopped in the middle of its third epoch, by each signal; they run side by side."""
    cwd = tmp_path_factory.mktemp("stopped")
    settings = ["callbacks=none", *STATEFUL_SETTINGS, "trainer=cpu", "trainer.max_epochs=6"]
    started = {
        name: spawn("src.train", *settings, f"name={name}", SignalSender.setting(name, epoch=3), cwd=cwd)
        for name in ("SIGINT", "SIGTERM", "SIGKILL")
    }
    try:
        return {name: wait_for_run(process, cwd / "outputs" / "runs" / name) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()


def wait_for_run(process: "subprocess.Popen[str]", folder: Path) -> StoppedRun:
    out, err = process.communicate(timeout=PROCESS_TIMEOUT)
    return StoppedRun(process.returncode, out, err, folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run that nothing stopped."""
    cwd = tmp_path_factory.mktemp("straight")
    return train_bare(*STATEFUL_SETTINGS, "trainer=cpu", "trainer.max_epochs=6", cwd=cwd)


@pytest.fixture
def copy(stopped: dict[str, StoppedRun], tmp_path: Path) -> Path:
    """The killed run's folder, moved to another place."""
    return Path(shutil.copytree(stopped["SIGKILL"].folder, tmp_path / "outputs" / "runs" / "moved"))


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted_run_ends_cleanly(name: str, status: int, stopped: dict[str, StoppedRun]) -> None:
    """A run stopped by SIGINT or SIGTERM ends without a traceback and prints how to resume it."""
    run = stopped[name]
    assert run.status == status
    assert run.err == ""
    assert "Traceback" not in run.out
    assert f"stopped after 2 epochs; resume with: python -m src.train resume=outputs/runs/{name}" in run.out
    written = read_json(run.folder / "status.json")
    assert (written["status"], written["reason"]) == ("interrupted", "killed")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_run_keeps_finished_epochs(name: str, stopped: dict[str, StoppedRun], straight: Outcome) -> None:
    folder = stopped[name].folder
    metrics = read_json(folder / "metrics.json")
    assert metrics["epochs"] == 2
    assert read_history(folder) == read_history(straight.folder)[:2]
    assert metrics["best"] == max(row["val/acc"] for row in read_history(folder))
    assert "test/acc" not in metrics
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] == 1


def test_a_killed_run_leaves_whole_files(stopped: dict[str, StoppedRun], straight: Outcome) -> None:
    run = stopped["SIGKILL"]
    assert run.status == -signal.SIGKILL
    assert read_history(run.folder) == read_history(straight.folder)[:2]
    assert read_json(run.folder / "metrics.json")["epochs"] == 2
    assert read_json(run.folder / "status.json")["status"] == "running"
    assert not [path for path in run.folder.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_run_resumes_exactly(
    name: str, stopped: dict[str, StoppedRun], straight: Outcome, tmp_path: Path
) -> None:
    """An interrupted run resumes with the result of an uninterrupted one."""
    folder = Path(shutil.copytree(stopped[name].folder, tmp_path / name))
    train(f"resume={folder}", cwd=tmp_path)
    assert_the_same_run(folder, straight.folder)


def test_killed_run_resumes_exactly_elsewhere(
    copy: Path, straight: Outcome, stopped: dict[str, StoppedRun], tmp_path: Path
) -> None:
    """A killed run, even in a copy of its folder, resumes with the result of an uninterrupted one."""
    before = {path: path.read_bytes() for path in stopped["SIGKILL"].folder.rglob("*") if path.is_file()}
    outcome = train("resume=outputs/runs/moved", cwd=tmp_path)
    assert outcome.folders == []  # none but its own
    assert_the_same_run(copy, straight.folder)
    assert read_json(copy / "status.json")["status"] == "finished"
    assert {path: path.read_bytes() for path in stopped["SIGKILL"].folder.rglob("*") if path.is_file()} == before


def test_provenance_keeps_both_starts(copy: Path, tmp_path: Path) -> None:
    first = read_json(copy / "provenance.json")
    train(f"resume={copy}", cwd=tmp_path)
    both = read_json(copy / "provenance.json")
    resumed = both.pop("resumed")
    assert both == first
    assert [start["command"] for start in resumed] == [f"python -m src.train resume={copy} trust=tests"]


def test_resume_appends_log_and_events(copy: Path, tmp_path: Path) -> None:
    train(f"resume={copy}", cwd=tmp_path)
    log = (copy / "train.log").read_text()
    assert [log.count(f"epoch {epoch}/6 ") for epoch in range(1, 7)] == [1] * 6
    events = EventAccumulator(str(copy), size_guidance={"scalars": 0}).Reload()
    for metric in ("train/loss", "val/loss"):  # also of the epochs just before it was killed
        assert [point.step for point in events.Scalars(metric)] == [9, 19, 29, 39, 49, 59]


# Runs that came to their end and go on for longer


@pytest.mark.parametrize("given", ["optimizer=adam", "optimizer=sgd", "trainer.precision=64-true"])
def test_finished_run_extends_exactly(given: str, tmp_path: Path) -> None:
    """A finished run trains longer with the result of a run that had that length from the start."""
    settings = [given, "model.dropout=0.2", "model.batch_norm=true", "data.noise=0.3"]
    longer = train_bare(*settings, "trainer.max_epochs=6", cwd=tmp_path).folder
    folder = train_bare(*settings, "trainer.max_epochs=3", cwd=tmp_path).folder
    assert len(read_history(folder)) == 3
    outcome = train(f"resume={folder}", "trainer.max_epochs=6", cwd=tmp_path)
    assert outcome.folders == []
    assert_the_same_run(folder, longer)


def test_resume_settings_are_saved(tmp_path: Path) -> None:
    """Settings that are given on resuming are saved with those of the run."""
    folder = train_bare("trainer.max_epochs=1", "model.hidden_size=7", "seed=4", cwd=tmp_path).folder
    before = OmegaConf.load(folder / ".hydra" / "config.yaml")
    train(f"resume={folder}", "trainer.max_epochs=2", "trainer.log_every_n_steps=3", cwd=tmp_path)
    after = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert after == OmegaConf.merge(before, {"trainer": {"max_epochs": 2, "log_every_n_steps": 3}})
    # So the next start has them, and says how to go on.
    error = run("src.train", f"resume={folder}", cwd=tmp_path).error
    assert "2 epochs" in error


@pytest.mark.parametrize(
    ("setting", "name", "now"),
    [
        ("optimizer.lr=0.5", "optimizer.lr", "0.5"),
        ("data.batch_size=20", "data.batch_size", "20"),
        ("seed=1", "seed", "1"),
        ("model.dropout=0.5", "model.dropout", "0.5"),
        ("+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_algorithm", "value"),
    ],
)
def test_inexact_change_on_resume_is_refused(setting: str, name: str, now: str, tmp_path: Path) -> None:
    """A change that would have no effect or make the resumed run inexact is refused."""
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}
    error = run("src.train", f"resume={folder}", "trainer.max_epochs=2", setting, cwd=tmp_path).error
    assert name in error
    assert now in error
    assert "ckpt_path=" in error
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle"])
def test_resume_beyond_schedule_is_refused(scheduler: str, tmp_path: Path) -> None:
    """More epochs than a learning rate schedule was made for are refused."""
    outcome = train_bare("trainer.max_epochs=1", f"scheduler={scheduler}", cwd=tmp_path)
    assert "train longer:" not in outcome.out
    error = run("src.train", f"resume={outcome.folder}", "trainer.max_epochs=2", cwd=tmp_path).error
    assert "schedule" in error
    assert "ckpt_path=" in error
    assert len(read_history(outcome.folder)) == 1


def test_epoch_schedule_can_be_extended(tmp_path: Path) -> None:
    """A run whose schedule depends on the epoch alone can train longer."""
    longer = train_bare("trainer.max_epochs=4", "scheduler=exponential", cwd=tmp_path).folder
    folder = train_bare("trainer.max_epochs=2", "scheduler=exponential", cwd=tmp_path).folder
    train(f"resume={folder}", "trainer.max_epochs=4", cwd=tmp_path)
    assert_the_same_run(folder, longer)


def test_the_data_folder_may_have_moved(data_dir: Path, tmp_path: Path) -> None:
    settings = ["data=mnist", "data.val_size=40", *get_image_settings(data_dir)]
    longer = train_bare(*settings, "trainer.max_epochs=2", cwd=tmp_path).folder
    folder = train_bare(*settings, "trainer.max_epochs=1", cwd=tmp_path).folder
    config = folder / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(data_dir), str(tmp_path / "no-longer-here")))
    train(f"resume={folder}", f"paths.data={data_dir}", "trainer.max_epochs=2", cwd=tmp_path)
    assert_the_same_run(folder, longer)


def test_running_run_is_not_resumed(tmp_path: Path) -> None:
    """A run that another process is training is left alone."""
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    with FileLock(folder / ".lock"):
        error = run("src.train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path).error
    assert "is being trained by another process" in error
    assert len(read_history(folder)) == 1


def test_resume_of_finished_run_is_refused(tmp_path: Path) -> None:
    """A finished run is refused with the setting that would train it longer."""
    folder = train_bare("trainer.max_epochs=2", "name=done", cwd=tmp_path).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}
    error = run("src.train", "resume=outputs/runs/done", cwd=tmp_path).error
    assert "is finished, with 2 epochs" in error
    assert "trainer.max_epochs=4" in error
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    settings = ["trainer.max_epochs=2", "model.dropout=0.2"]
    straight, folder = [train_bare(*settings, f"name={name}", cwd=tmp_path).folder for name in ("straight", "stopped")]
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.json"):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"status": "running", "reason": null, "message": null}')
    train(f"resume={folder}", cwd=tmp_path)
    assert_the_same_run(folder, straight)


@pytest.mark.parametrize(("choice", "group"), [("optimizer=sgd", "optimizer"), ("model=cnn", "model")])
def test_another_choice_on_resuming_is_refused(choice: str, group: str, tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    error = run("src.train", f"resume={folder}", "trainer.max_epochs=2", choice, cwd=tmp_path).error
    assert f"a resumed run keeps its {group}" in error
    assert "ckpt_path=" in error
    assert read_json(folder / "metrics.json")["epochs"] == 1


def test_unknown_setting_on_resume_is_refused(tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    error = run("src.train", f"resume={folder}", "trainer.max_epoch=2", cwd=tmp_path).error
    assert "trainer.max_epoch" in error
    assert "did you mean trainer.max_epochs?" in error


def test_sweep_job_can_be_resumed_alone(tmp_path: Path) -> None:
    outcome = run("src.train", "-m", *BARE, "trainer.max_epochs=1", "seed=1,2", cwd=tmp_path)
    longer = train_bare("trainer.max_epochs=3", "seed=2", cwd=tmp_path).folder
    train(f"resume={outcome.folders[1]}", "trainer.max_epochs=3", cwd=tmp_path)
    assert_the_same_run(outcome.folders[1], longer)


def test_the_seconds_of_all_starts_add_up(tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    before = read_json(folder / "metrics.json")["seconds"]
    train(f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert read_json(folder / "metrics.json")["seconds"] > before > 0


@pytest.mark.parametrize("days", [0.0, -10.0])
def test_resume_keeps_tensorboard_steps_in_order(days: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the clock stands still, so that both starts fall within one second, or was set back."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    folder = train(*NO_FIGURES, "trainer.max_epochs=2", "trainer.log_every_n_steps=5", cwd=tmp_path).folder
    monkeypatch.setattr(time, "time", lambda: now + days * 24 * 3600)
    train(f"resume={folder}", "trainer.max_epochs=4", cwd=tmp_path)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for stage in ("train", "val"):
        points = events.Scalars(f"{stage}/loss")
        assert [point.step for point in points] == [9, 19, 29, 39]
        assert [point.value for point in points] == pytest.approx(
            [row[f"{stage}/loss"] for row in read_history(folder)]
        )
        assert all(now <= one.wall_time <= two.wall_time for one, two in itertools.pairwise(points))
    assert [point.step for point in events.Scalars("train/loss_step")] == [4, 9, 14, 19, 24, 29, 34, 39]


def test_early_stopping_count_survives_resume(tmp_path: Path) -> None:
    settings = ["callbacks=early_stopping", *NO_FIGURES, "callbacks.early_stopping.patience=3", "optimizer.lr=0.05"]
    straight = train_bare(*settings, "trainer.max_epochs=30", cwd=tmp_path).folder
    folder = train_bare(*settings, "trainer.max_epochs=2", cwd=tmp_path).folder
    train(f"resume={folder}", "trainer.max_epochs=30", cwd=tmp_path)
    assert 2 < len(read_history(straight)) < 30
    assert read_history(folder) == read_history(straight)


def test_resume_applies_new_patience(tmp_path: Path) -> None:
    """A resumed run uses the patience that is given on resuming."""
    settings = ["callbacks=early_stopping", *NO_FIGURES, "optimizer.lr=1e-9", "trainer.max_epochs=10"]
    patient = train_bare(*settings, "callbacks.early_stopping.patience=5", cwd=tmp_path).folder
    folder = train_bare(*settings, "callbacks.early_stopping.patience=2", cwd=tmp_path).folder
    train(f"resume={folder}", "callbacks.early_stopping.patience=5", cwd=tmp_path)
    assert len(read_history(patient)) == 6
    assert read_history(folder) == read_history(patient)
