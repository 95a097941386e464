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
from tests.command_line import BARE, Outcome, drop_overridden, read_weights, run, spawn, train_bare, wait_for
from tests.sweeps.outcomes import assert_same_results, read_sweep_jobs

COMMON = ("-m", "hydra/launcher=vectorized", *BARE, "model.hidden_size=4", "trainer.max_epochs=3", "trainer=cpu")


def run_sweep(*settings: str, cwd: Path, name: str = "together") -> Outcome:
    return run("src.train", *drop_overridden(*COMMON, *settings, f"name={name}"), cwd=cwd)


def is_close(job: Job, other: Path) -> bool:
    """Whether a job came to nearly the weights of a run; both are of float32."""
    mine, others = read_weights(job.folder), read_weights(other)
    return all((mine[name] - others[name]).abs().max() < 1e-5 for name in others)


# What is stacked


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Eight jobs: half of them clip gradients, which a stack does not; half of all diverge."""
    cwd = tmp_path_factory.mktemp("mixed")
    settings = ("optimizer=sgd", "optimizer.lr=0.03,1e30", "seed=0,1", "trainer.gradient_clip_val=null,1e9")
    shared = ("model.loss=perceptron", "model.activation=relu", "hydra.launcher.jobs=1")
    return cwd, run_sweep(*settings, *shared, cwd=cwd)


def test_unstackable_jobs_run_separately(mixed: tuple[Path, Outcome]) -> None:
    """Jobs that cannot be stacked run separately, and the log says which and why."""
    cwd, outcome = mixed
    assert "4 jobs in 1 stack (1× 4); figures are drawn on demand" in outcome.text
    clipped = [job.number for job in read_sweep_jobs(cwd, "together") if job.settings["trainer.gradient_clip_val"]]
    numbers = ", ".join(map(str, clipped))
    assert f"4 run separately, because of trainer.gradient_clip_val=1000000000.0: {numbers}" in outcome.text
    stacked = [job.number for job in read_sweep_jobs(cwd, "together") if (job.folder / "stack.json").exists()]
    assert sorted([*stacked, *clipped]) == list(range(8))


def test_diverging_job_fails_alone(mixed: tuple[Path, Outcome]) -> None:
    """A job that diverges fails, and the other jobs of its stack are as if trained alone."""
    cwd, outcome = mixed
    assert outcome.code == 1
    for job in read_sweep_jobs(cwd, "together"):
        diverges = job.settings["optimizer.lr"] == 1e30
        assert job.status["status"] == ("failed" if diverges else "finished")
        assert job.status["reason"] == ("diverged" if diverges else None)
        if diverges:
            assert "lower optimizer.lr" in job.status["message"]
        else:
            alone = train_bare(*[each for each in job.overrides if not each.startswith("name=")], cwd=cwd)
            assert is_close(job, alone.folder)
            assert job.metrics["test/acc"] == pytest.approx(alone.metrics["test/acc"], abs=0.02)


def test_results_have_row_per_job(mixed: tuple[Path, Outcome]) -> None:
    cwd, _ = mixed
    with (cwd / "outputs" / "sweeps" / "together" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [job.status["status"] for job in read_sweep_jobs(cwd, "together")]
    assert all(row["val/acc"] and row["test/acc"] for row in rows if row["status"] == "finished")


@pytest.mark.parametrize("ways", [("vectorized", "local"), ("local", "vectorized")])
def test_finished_jobs_count_for_both_launchers(ways: tuple[str, str], tmp_path: Path) -> None:
    """Jobs finished by the local launcher count for the vectorized one, and vice versa."""
    for number, way in enumerate(ways):
        settings = drop_overridden(*COMMON, f"hydra/launcher={way}", "seed=0,1", "name=both")
        outcome = run("src.train", *settings, cwd=tmp_path)
        assert outcome.code == 0, outcome.text
        assert f"2 jobs: 2 {['to do', 'finished before'][number]}" in outcome.text


def test_shapes_form_separate_limited_stacks(tmp_path: Path) -> None:
    """Jobs of different shapes form separate stacks, none larger than asked for."""
    settings = ("model.hidden_size=2,3", "model.dropout=0,0.1,0.2", "seed=0,1,2", "hydra.launcher.jobs=1")
    outcome = run_sweep(*settings, "hydra.launcher.most=4", cwd=tmp_path)  # without dropout there is no such layer
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
def test_invalid_setting_fails_only_its_jobs(settings: list[str], wrong: int, told: str, tmp_path: Path) -> None:
    """An invalid setting fails only the jobs that have it."""
    outcome = run_sweep(*settings, "hydra.launcher.jobs=1", cwd=tmp_path)
    assert outcome.code == 1
    jobs = read_sweep_jobs(tmp_path, "together")
    failed = [job for job in jobs if job.status["status"] == "failed"]
    assert {job.status["status"] for job in jobs if job not in failed} == {"finished"}
    swept = settings[-1] if "seed=0,1" not in settings else settings[0]
    key = swept.partition("=")[0]
    assert {str(job.settings[key]) for job in failed} == {swept.partition("=")[2].split(",")[wrong]}
    for job in failed:
        assert told in job.status["message"]
        assert told in (job.folder / "train.log").read_text()


def test_job_without_seed_runs_separately(tmp_path: Path) -> None:
    outcome = run_sweep("seed=0,1,null", "hydra.launcher.jobs=1", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert "1 run separately, because of no similar job: 2" in outcome.text


def test_data_splits_form_separate_stacks(tmp_path: Path) -> None:
    """Jobs on different parts of the data form separate stacks."""
    outcome = run_sweep(
        "data.split_seed=0,1", "data.train_size=40,60", "seed=0,1", "hydra.launcher.jobs=1", cwd=tmp_path
    )
    assert "8 jobs in 4 stacks (4× 2)" in outcome.text


@pytest.mark.parametrize("most", ["0", "many"])
def test_invalid_stack_size_is_refused(most: str, tmp_path: Path) -> None:
    outcome = run_sweep("seed=0,1", f"hydra.launcher.most={most}", cwd=tmp_path)
    assert outcome.error == f"error: hydra.launcher.most={most} must be null or a whole number from 1 to 100,000"


# Stopped and gone on with

LONG = drop_overridden(*COMMON, "data.batch_size=1", "trainer.max_epochs=40", "optimizer.lr=0.01,0.03", "seed=0,1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    assert run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=cwd).code == 0
    return cwd


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_sweep_resumes_with_same_results(stop: signal.Signals, undisturbed: Path, tmp_path: Path) -> None:
    command = (*LONG, "hydra.launcher.jobs=1", "name=long")
    folder = tmp_path / "outputs" / "sweeps" / "long"
    with spawn("src.train", *command, cwd=tmp_path) as parent:
        wait_for(lambda: list(folder.glob("stacks/*.ckpt")), "a state of the stack")
        os.kill(parent.pid, stop)
        parent.communicate(timeout=60)
    statuses = {job.status["status"] for job in read_sweep_jobs(tmp_path, "long")}
    assert statuses == {"running" if stop == signal.SIGKILL else "interrupted"}
    outcome = run("src.train", *command, cwd=tmp_path)
    assert outcome.code == 0
    assert "4 jobs: 4 to resume" in outcome.text
    (log,) = folder.glob("stacks/*.log")
    assert "resuming after epoch" in log.read_text()
    assert not list(folder.glob("stacks/*.ckpt"))
    assert_same_results(read_sweep_jobs(tmp_path, "long"), read_sweep_jobs(undisturbed, "long"))


def test_rerun_all_does_not_resume(tmp_path: Path, undisturbed: Path) -> None:
    """With `rerun=all` the jobs start from the beginning instead of resuming."""
    command = (*LONG, "hydra.launcher.jobs=1", "name=long")
    folder = tmp_path / "outputs" / "sweeps" / "long"
    with spawn("src.train", *command, cwd=tmp_path) as parent:
        wait_for(lambda: list(folder.glob("stacks/*.ckpt")), "a state of the stack")
        parent.kill()
        parent.communicate(timeout=60)
    assert run("src.train", *command, "rerun=all", cwd=tmp_path).code == 0
    (log,) = folder.glob("stacks/*.log")
    assert "resuming" not in log.read_text()
    assert_same_results(read_sweep_jobs(tmp_path, "long"), read_sweep_jobs(undisturbed, "long"))


def kill_sweep(cwd: Path, *settings: str) -> Path:
    """The folder of a sweep that was killed once it had kept the state of its stack."""
    folder = cwd / "outputs" / "sweeps" / "long"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("stacks/*.ckpt")}
    with spawn(
        "src.train", *drop_overridden(*LONG, "hydra.launcher.jobs=1", "name=long", *settings), cwd=cwd
    ) as parent:
        wait_for(lambda: has_new_state(folder, before), "a state of the stack")
        parent.kill()
        parent.communicate(timeout=60)
    return folder


def has_new_state(folder: Path, before: dict[Path, int]) -> bool:
    return any(path.stat().st_mtime_ns != before.get(path) for path in folder.glob("stacks/*.ckpt"))


def test_partly_resumed_stack_has_same_results(undisturbed: Path, tmp_path: Path) -> None:
    """If only some jobs of a stack were resumed, all come to the same results in the end."""
    kill_sweep(tmp_path)
    kill_sweep(tmp_path, "seed=0")
    outcome = run(
        "src.train", *drop_overridden(*LONG, "hydra.launcher.jobs=1", "seed=0,1,2", "name=long"), cwd=tmp_path
    )
    assert outcome.code == 0, outcome.text
    jobs, others = read_sweep_jobs(tmp_path, "long"), read_sweep_jobs(undisturbed, "long")
    assert len(jobs) == 6
    assert_same_results(jobs[:4], others)


def test_job_stopped_while_writing_stays_stacked(undisturbed: Path, tmp_path: Path) -> None:
    """A job that was stopped while its files were written stays in its stack."""
    kill_sweep(tmp_path)
    job, other = read_sweep_jobs(tmp_path, "long")[0], read_sweep_jobs(undisturbed, "long")[0]
    shutil.copytree(other.folder / "checkpoints", job.folder / "checkpoints")
    outcome = run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=tmp_path)
    assert "4 jobs in 1 stack (1× 4)" in outcome.text
    assert_same_results(read_sweep_jobs(tmp_path, "long"), read_sweep_jobs(undisturbed, "long"))


def test_local_launcher_takes_jobs_from_stack(undisturbed: Path, tmp_path: Path) -> None:
    """The local launcher may finish some jobs of a stack; the others return to the stack."""
    kill_sweep(tmp_path)
    local = drop_overridden(*LONG, "hydra/launcher=local", "hydra.launcher.jobs=2", "seed=0", "name=long")
    assert run("src.train", *local, cwd=tmp_path).code == 0
    outcome = run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=tmp_path)
    assert "2 jobs in 1 stack (1× 2)" in outcome.text
    assert [job.stack for job in read_sweep_jobs(tmp_path, "long")] == [None] * 4
    # after 4,000 steps in float32, which rounds differently alone
    for job, other in zip(read_sweep_jobs(tmp_path, "long"), read_sweep_jobs(undisturbed, "long"), strict=True):
        assert job.metrics["test/loss"] == pytest.approx(other.metrics["test/loss"], rel=0.05)


def test_damaged_stack_state_restarts_jobs(undisturbed: Path, tmp_path: Path) -> None:
    """A stack's state with a flipped bit is reported, and its jobs start again."""
    folder = kill_sweep(tmp_path)
    (state,) = folder.glob("stacks/*.ckpt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 4
    state.write_bytes(content)
    outcome = run("src.train", *LONG, "hydra.launcher.jobs=1", "name=long", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    told = "is damaged: a part of it does not match its checksum; the jobs that would resume from it start again"
    assert f"checkpoint {state.relative_to(tmp_path)} {told}" in outcome.out
    assert_same_results(read_sweep_jobs(tmp_path, "long"), read_sweep_jobs(undisturbed, "long"))


def test_sweep_process_does_not_import_torch() -> None:
    code = "import sys, src.sweeps.launchers.vectorized; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
