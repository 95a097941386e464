"""Sweeps whose jobs are trained as one: what is stacked and what is not, failures, kills, going on."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.sweeps.jobs import Job
from tests.command_line import BARE, Outcome, quick, run, spawn, wait_for, weights
from tests.sweeps.outcomes import assert_the_same_results, jobs_of

COMMON = ("-m", "hydra/launcher=vectorized", *BARE, "model.hidden_size=4", "trainer.max_epochs=3", "trainer=cpu")


def sweep(*settings: str, cwd: Path, name: str = "together") -> Outcome:
    return run("src.train", *COMMON, *settings, f"name={name}", cwd=cwd)


def close(job: Job, other: Path) -> bool:
    """Whether a job came to nearly the weights of a run; both are of float32."""
    mine, others = weights(job.folder), weights(other)
    return all((mine[name] - others[name]).abs().max() < 1e-5 for name in others)


# What is stacked


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Eight jobs: half of them clip gradients, which a stack does not; half of all diverge."""
    cwd = tmp_path_factory.mktemp("mixed")
    settings = ("optimizer=sgd", "optimizer.lr=0.03,1e30", "seed=0,1", "trainer.gradient_clip_val=null,1e9")
    shared = ("model.loss=perceptron", "model.activation=relu", "hydra.launcher.jobs=1")
    return cwd, sweep(*settings, *shared, cwd=cwd)


def test_what_cannot_be_stacked_runs_by_itself_and_it_is_said_which_and_why(mixed: tuple[Path, Outcome]) -> None:
    cwd, outcome = mixed
    assert "4 jobs in 1 stack (1× 4); pictures when looked at" in outcome.text
    clipped = [job.number for job in jobs_of(cwd, "together") if job.settings["trainer.gradient_clip_val"]]
    numbers = ", ".join(map(str, clipped))
    assert f"4 one by one, because of trainer.gradient_clip_val=1000000000.0: {numbers}" in outcome.text
    stacked = [job.number for job in jobs_of(cwd, "together") if (job.folder / "stack.json").exists()]
    assert sorted([*stacked, *clipped]) == list(range(8))


def test_a_job_that_diverges_fails_and_the_others_of_its_stack_do_not_notice(mixed: tuple[Path, Outcome]) -> None:
    cwd, outcome = mixed
    assert outcome.code == 1
    for job in jobs_of(cwd, "together"):
        diverges = job.settings["optimizer.lr"] == 1e30
        assert job.status["status"] == ("failed" if diverges else "finished")
        assert job.status["reason"] == ("diverged" if diverges else None)
        if diverges:
            assert "lower optimizer.lr" in job.status["message"]
        else:
            alone = quick(*[each for each in job.overrides if not each.startswith("name=")], cwd=cwd)
            assert close(job, alone.folder)
            assert job.metrics["test/acc"] == pytest.approx(alone.metrics["test/acc"], abs=0.02)


def test_each_job_has_its_row_among_the_results(mixed: tuple[Path, Outcome]) -> None:
    cwd, _ = mixed
    with (cwd / "outputs" / "sweeps" / "together" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [job.status["status"] for job in jobs_of(cwd, "together")]
    assert all(row["val/acc"] and row["test/acc"] for row in rows if row["status"] == "finished")


@pytest.mark.parametrize("ways", [("vectorized", "local"), ("local", "vectorized")])
def test_a_job_done_one_way_is_done_for_the_other(ways: tuple[str, str], tmp_path: Path) -> None:
    for number, way in enumerate(ways):
        outcome = run("src.train", *COMMON, f"hydra/launcher={way}", "seed=0,1", "name=both", cwd=tmp_path)
        assert outcome.code == 0, outcome.text
        assert f"2 jobs: 2 {['to do', 'finished before'][number]}" in outcome.text


def test_stacks_are_cut_to_the_size_that_is_asked_for(tmp_path: Path) -> None:
    outcome = sweep("seed=range(5)", "hydra.launcher.most=2", "hydra.launcher.jobs=1", cwd=tmp_path)
    assert "5 jobs in 3 stacks (2× 2, 1× 1)" in outcome.text
    assert [job.status["status"] for job in jobs_of(tmp_path, "together")] == ["finished"] * 5


def test_jobs_of_another_shape_make_a_stack_of_their_own(tmp_path: Path) -> None:
    settings = ("model.hidden_size=2,3", "model.dropout=0,0.1,0.2", "seed=0,1", "hydra.launcher.jobs=1")
    outcome = sweep(*settings, cwd=tmp_path)  # without dropout there is no such layer
    assert "12 jobs in 4 stacks (2× 2, 2× 4)" in outcome.text
    assert outcome.code == 0


def test_a_setting_that_will_not_do_stops_its_own_job_alone(tmp_path: Path) -> None:
    outcome = sweep("model.label_smoothing=0,0.1,2", cwd=tmp_path)
    assert outcome.code == 1
    states = [job.status for job in jobs_of(tmp_path, "together")]
    assert [state["status"] for state in states] == ["finished", "finished", "failed"]
    assert "model.label_smoothing=2" in states[2]["message"]


@pytest.mark.parametrize("most", ["0", "many"])
def test_a_size_of_stacks_that_will_not_do_is_refused(most: str, tmp_path: Path) -> None:
    outcome = sweep("seed=0,1", f"hydra.launcher.most={most}", cwd=tmp_path)
    assert outcome.error == f"error: hydra.launcher.most={most} must be null or a whole number above 0"


# Stopped and gone on with

LONG = (*COMMON, "data.batch_size=1", "trainer.max_epochs=60", "optimizer.lr=0.01,0.03", "seed=0,1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    assert run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=cwd).code == 0
    return cwd


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_goes_on_and_comes_to_the_same(stop: signal.Signals, undisturbed: Path, tmp_path: Path) -> None:
    command = (*LONG, "hydra.launcher.jobs=1", "name=long")
    folder = tmp_path / "outputs" / "sweeps" / "long"
    with spawn("src.train", *command, cwd=tmp_path) as parent:
        wait_for(lambda: list(folder.glob("stacks/*.ckpt")), "a state of the stack")
        os.kill(parent.pid, stop)
        parent.communicate(timeout=60)
    statuses = {job.status["status"] for job in jobs_of(tmp_path, "long")}
    assert statuses == {"running" if stop == signal.SIGKILL else "interrupted"}
    assert run("src.train", *command, cwd=tmp_path).code == 0
    (log,) = folder.glob("stacks/*.log")
    assert "going on after epoch" in log.read_text()
    assert not list(folder.glob("stacks/*.ckpt"))
    assert_the_same_results(jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long"))


def test_what_is_run_again_from_the_beginning_does_not_go_on(tmp_path: Path, undisturbed: Path) -> None:
    command = (*LONG, "hydra.launcher.jobs=1", "name=long")
    folder = tmp_path / "outputs" / "sweeps" / "long"
    with spawn("src.train", *command, cwd=tmp_path) as parent:
        wait_for(lambda: list(folder.glob("stacks/*.ckpt")), "a state of the stack")
        parent.kill()
        parent.communicate(timeout=60)
    assert run("src.train", *command, "rerun=all", cwd=tmp_path).code == 0
    (log,) = folder.glob("stacks/*.log")
    assert "going on" not in log.read_text()
    assert_the_same_results(jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long"))


def test_the_sweeps_own_process_does_without_torch() -> None:
    code = "import sys, src.sweeps.vectorized; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
