"""Sweeps whose jobs are trained as one: what is stacked and what is not, failures, kills, going on."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.sweeps.store.jobs import Job
from tests.command_line import BARE, Outcome, let_last_count, quick, run, spawn, wait_for, weights
from tests.sweeps.outcomes import assert_the_same_results, jobs_of

COMMON = ("-m", "hydra/launcher=vectorized", *BARE, "model.hidden_size=4", "trainer.max_epochs=3", "trainer=cpu")


def sweep(*settings: str, cwd: Path, name: str = "together") -> Outcome:
    return run("src.train", *let_last_count(*COMMON, *settings, f"name={name}"), cwd=cwd)


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
    assert "4 jobs in 1 stack (1× 4); figures are drawn on demand" in outcome.text
    clipped = [job.number for job in jobs_of(cwd, "together") if job.settings["trainer.gradient_clip_val"]]
    numbers = ", ".join(map(str, clipped))
    assert f"4 run separately, because of trainer.gradient_clip_val=1000000000.0: {numbers}" in outcome.text
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
        settings = let_last_count(*COMMON, f"hydra/launcher={way}", "seed=0,1", "name=both")
        outcome = run("src.train", *settings, cwd=tmp_path)
        assert outcome.code == 0, outcome.text
        assert f"2 jobs: 2 {['to do', 'finished before'][number]}" in outcome.text


def test_jobs_of_another_shape_make_stacks_of_their_own_no_larger_than_asked_for(tmp_path: Path) -> None:
    settings = ("model.hidden_size=2,3", "model.dropout=0,0.1,0.2", "seed=0,1,2", "hydra.launcher.jobs=1")
    outcome = sweep(*settings, "hydra.launcher.most=4", cwd=tmp_path)  # without dropout there is no such layer
    assert "18 jobs in 6 stacks (6× 3)" in outcome.text
    assert outcome.code == 0


@pytest.mark.parametrize(
    ("settings", "wrong", "told"),
    [
        (["model.label_smoothing=0,0.1,2"], 2, "model.label_smoothing=2 must be a number from 0 to below 1"),
        (["model.label_smoothing=2,0,0.1"], 0, "model.label_smoothing=2 must be a number from 0 to below 1"),
        (["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0,0.5,0.9"], 0, "Nesterov momentum requires"),
        (["ckpt_path=none.ckpt,null", "seed=0,1", "hydra.launcher.most=3"], 0, "none.ckpt: there is no such file"),
        (
            ["model.loss=squared_error,quadratic", "seed=0,1"],
            0,
            "model.loss=squared_error does not suit binary targets",
        ),
    ],
)
def test_a_setting_that_will_not_do_stops_its_own_jobs_alone(
    settings: list[str], wrong: int, told: str, tmp_path: Path
) -> None:
    outcome = sweep(*settings, "hydra.launcher.jobs=1", cwd=tmp_path)
    assert outcome.code == 1
    jobs = jobs_of(tmp_path, "together")
    failed = [job for job in jobs if job.status["status"] == "failed"]
    assert {job.status["status"] for job in jobs if job not in failed} == {"finished"}
    swept = settings[-1] if "seed=0,1" not in settings else settings[0]
    key = swept.partition("=")[0]
    assert {str(job.settings[key]) for job in failed} == {swept.partition("=")[2].split(",")[wrong]}
    for job in failed:
        assert told in job.status["message"]
        assert told in (job.folder / "train.log").read_text()


def test_a_job_without_a_seed_draws_one_by_itself(tmp_path: Path) -> None:
    outcome = sweep("seed=0,1,null", "hydra.launcher.jobs=1", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert "1 run separately, because of no similar job: 2" in outcome.text


def test_jobs_on_other_parts_of_the_data_make_a_stack_of_their_own(tmp_path: Path) -> None:
    outcome = sweep("data.split_seed=0,1", "data.train_size=40,60", "seed=0,1", "hydra.launcher.jobs=1", cwd=tmp_path)
    assert "8 jobs in 4 stacks (4× 2)" in outcome.text


@pytest.mark.parametrize("most", ["0", "many"])
def test_a_size_of_stacks_that_will_not_do_is_refused(most: str, tmp_path: Path) -> None:
    outcome = sweep("seed=0,1", f"hydra.launcher.most={most}", cwd=tmp_path)
    assert outcome.error == f"error: hydra.launcher.most={most} must be null or a whole number from 1 to 100,000"


# Stopped and gone on with

LONG = let_last_count(*COMMON, "data.batch_size=1", "trainer.max_epochs=40", "optimizer.lr=0.01,0.03", "seed=0,1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    assert run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=cwd).code == 0
    return cwd


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_goes_on_and_comes_to_the_same(stop: signal.Signals, undisturbed: Path, tmp_path: Path) -> None:
    command = (*LONG, "hydra.launcher.jobs=1", "name=long")
    folder = tmp_path / "outputs" / "sweeps" / "long"
    with spawn("src.train", *command, cwd=tmp_path) as parent:
        wait_for(lambda: list(folder.glob("stacks/*.ckpt")), "a state of the stack")
        os.kill(parent.pid, stop)
        parent.communicate(timeout=60)
    statuses = {job.status["status"] for job in jobs_of(tmp_path, "long")}
    assert statuses == {"running" if stop == signal.SIGKILL else "interrupted"}
    outcome = run("src.train", *command, cwd=tmp_path)
    assert outcome.code == 0
    assert "4 jobs: 4 to resume" in outcome.text
    (log,) = folder.glob("stacks/*.log")
    assert "resuming after epoch" in log.read_text()
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
    assert "resuming" not in log.read_text()
    assert_the_same_results(jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long"))


def stopped(cwd: Path, *settings: str) -> Path:
    """The folder of a sweep that was killed once it had kept the state of its stack."""
    folder = cwd / "outputs" / "sweeps" / "long"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("stacks/*.ckpt")}
    with spawn("src.train", *let_last_count(*LONG, "hydra.launcher.jobs=1", "name=long", *settings), cwd=cwd) as parent:
        wait_for(lambda: kept_anew(folder, before), "a state of the stack")
        parent.kill()
        parent.communicate(timeout=60)
    return folder


def kept_anew(folder: Path, before: dict[Path, int]) -> bool:
    return any(path.stat().st_mtime_ns != before.get(path) for path in folder.glob("stacks/*.ckpt"))


def test_where_a_part_of_a_stack_went_on_alone_all_come_to_the_same(undisturbed: Path, tmp_path: Path) -> None:
    stopped(tmp_path)
    stopped(tmp_path, "seed=0")
    outcome = run("src.train", *let_last_count(*LONG, "hydra.launcher.jobs=1", "seed=0,1,2", "name=long"), cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    jobs, others = jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long")
    assert len(jobs) == 6
    assert_the_same_results(jobs[:4], others)


def test_a_job_that_was_stopped_while_its_files_were_written_stays_in_its_stack(
    undisturbed: Path, tmp_path: Path
) -> None:
    stopped(tmp_path)
    job, other = jobs_of(tmp_path, "long")[0], jobs_of(undisturbed, "long")[0]
    shutil.copytree(other.folder / "checkpoints", job.folder / "checkpoints")
    outcome = run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=tmp_path)
    assert "4 jobs in 1 stack (1× 4)" in outcome.text
    assert_the_same_results(jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long"))


def test_another_launcher_takes_jobs_of_a_stack_over_and_hands_the_others_back(
    undisturbed: Path, tmp_path: Path
) -> None:
    stopped(tmp_path)
    local = let_last_count(*LONG, "hydra/launcher=local", "hydra.launcher.jobs=2", "seed=0", "name=long")
    assert run("src.train", *local, cwd=tmp_path).code == 0
    outcome = run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=tmp_path)
    assert "2 jobs in 1 stack (1× 2)" in outcome.text
    assert [job.stack for job in jobs_of(tmp_path, "long")] == [None] * 4
    # after 4,000 steps in float32, which rounds differently alone
    for job, other in zip(jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long"), strict=True):
        assert job.metrics["test/loss"] == pytest.approx(other.metrics["test/loss"], rel=0.05)


def test_a_state_with_a_flipped_bit_is_told_and_its_jobs_begin_anew(undisturbed: Path, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    (state,) = folder.glob("stacks/*.ckpt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 4
    state.write_bytes(content)
    outcome = run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    told = "is damaged: a part of it does not match its checksum; the jobs that would resume from it start again"
    assert f"checkpoint {state.relative_to(tmp_path)} {told}" in outcome.out
    assert_the_same_results(jobs_of(tmp_path, "long"), jobs_of(undisturbed, "long"))


def test_the_sweeps_own_process_does_without_torch() -> None:
    code = "import sys, src.sweeps.launchers.vectorized; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
