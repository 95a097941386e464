"""Sweeps whose jobs are trained as one: what is stacked and what is not, failures, kills, going on."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.sweeps.store.jobs import Job
from tests.command_line import BARE, Outcome, drop_overridden, read_weights, run, spawn, train_bare, wait_for
from tests.sweeps.outcomes import assert_same_results, read_statuses, read_sweep_jobs

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


def test_shapes_share_limited_stacks(tmp_path: Path) -> None:
    """Small jobs of different shapes share stacks, none larger than asked for; large ones of other widths do not."""
    settings = ("model.hidden_size=2,3", "model.dropout=0,0.1,0.2", "seed=0,1,2", "trainer.max_epochs=1")
    most = ("hydra.launcher.jobs=1", "hydra.launcher.most=4")
    outcome = run_sweep(*settings, *most, cwd=tmp_path)  # without dropout there is no such layer
    assert "18 jobs in 5 stacks (3× 4, 2× 3, 17% padding)" in outcome.text
    assert outcome.code == 0
    wide = ("model.hidden_size=[4],[300,300]", "seed=0,1", "trainer.max_epochs=1", "name=wide")
    assert "4 jobs in 2 stacks (2× 2)" in run_sweep(*wide, "hydra.launcher.jobs=1", cwd=tmp_path).text


@pytest.mark.parametrize(
    ("settings", "wrong", "told"),
    [
        (["model.label_smoothing=0,0.1,2"], 2, "model.label_smoothing=2 must be a number from 0 to below 1"),
        (["model.label_smoothing=2,0,0.1"], 0, "model.label_smoothing=2 must be a number from 0 to below 1"),
        (["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0,0.5,0.9"], 0, "Nesterov momentum requires"),
        (
            ["model.loss=squared_error,quadratic", "seed=0,1"],
            0,
            "model.loss=squared_error does not suit binary targets",
        ),
    ],
)
def test_invalid_setting_fails_only_its_jobs(settings: list[str], wrong: int, told: str, tmp_path: Path) -> None:
    """An invalid setting fails only the jobs that have it."""
    outcome = run_sweep(*settings, "hydra.launcher.jobs=1", "trainer.max_epochs=1", cwd=tmp_path)
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
    parts = ("data.split_seed=0,1", "data.train_size=40,60")
    outcome = run_sweep(*parts, "seed=0,1", "hydra.launcher.jobs=1", "trainer.max_epochs=1", cwd=tmp_path)
    assert "8 jobs in 4 stacks (4× 2)" in outcome.text


# Stopped and gone on with

LONG = drop_overridden(
    *(*COMMON, "data.batch_size=1", "trainer.max_epochs=40", "optimizer.lr=0.01,0.03", "seed=0,1"),
    *("hydra.launcher.jobs=1", "name=long"),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    assert run("src.train", *LONG, cwd=cwd).code == 0
    return cwd


def stop_sweep(cwd: Path, *settings: str, by: signal.Signals = signal.SIGKILL) -> Path:
    """The folder of a sweep that got a signal once it had kept the state of its stack."""
    folder = cwd / "outputs" / "sweeps" / "long"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("stacks/*.ckpt")}
    with spawn("src.train", *drop_overridden(*LONG, *settings), cwd=cwd) as parent:
        wait_for(lambda: has_new_state(folder, before), "a state of the stack")
        parent.send_signal(by)
        parent.communicate(timeout=60)
    return folder


def has_new_state(folder: Path, before: dict[Path, int]) -> bool:
    """Return whether a stack has kept its state; one that had a state before has first logged that it resumes."""
    if before and not any("resuming after epoch" in path.read_text() for path in folder.glob("stacks/*.log")):
        return False
    return any(path.stat().st_mtime_ns != before.get(path) for path in folder.glob("stacks/*.ckpt"))


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("killed")
    stop_sweep(cwd)
    return cwd


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """Where the sweep was killed once it had kept the state of its stack: a copy."""
    return shutil.copytree(killed_once, tmp_path, dirs_exist_ok=True)


def assert_resumes(cwd: Path, undisturbed: Path) -> None:
    outcome = run("src.train", *LONG, cwd=cwd)
    assert outcome.code == 0
    assert "4 jobs: 4 to resume" in outcome.text
    folder = cwd / "outputs" / "sweeps" / "long"
    (log,) = folder.glob("stacks/*.log")
    assert "resuming after epoch" in log.read_text()
    assert not list(folder.glob("stacks/*.ckpt"))
    assert_same_results(read_sweep_jobs(cwd, "long"), read_sweep_jobs(undisturbed, "long"))


def test_killed_sweep_resumes_identically(undisturbed: Path, killed: Path) -> None:
    assert read_statuses(killed, "long") == ["running"] * 4
    assert_resumes(killed, undisturbed)


def test_interrupted_sweep_resumes_identically(undisturbed: Path, tmp_path: Path) -> None:
    stop_sweep(tmp_path, by=signal.SIGINT)
    assert read_statuses(tmp_path, "long") == ["interrupted"] * 4
    assert_resumes(tmp_path, undisturbed)


def test_rerun_all_does_not_resume(undisturbed: Path, killed: Path) -> None:
    """With `rerun=all` the jobs start from the beginning instead of resuming."""
    assert run("src.train", *LONG, "rerun=all", cwd=killed).code == 0
    (log,) = killed.glob("outputs/sweeps/long/stacks/*.log")
    assert "resuming" not in log.read_text()
    assert_same_results(read_sweep_jobs(killed, "long"), read_sweep_jobs(undisturbed, "long"))


def test_partly_resumed_stack_has_same_results(undisturbed: Path, killed: Path) -> None:
    """If only some jobs of a stack were resumed, the others still resume, and all come to the same weights."""
    stop_sweep(killed, "seed=0")
    outcome = run("src.train", *drop_overridden(*LONG, "seed=0,1,2"), cwd=killed)
    assert outcome.code == 0, outcome.text
    jobs, others = read_sweep_jobs(killed, "long"), read_sweep_jobs(undisturbed, "long")
    assert len(jobs) == 6
    for job, other in zip(jobs, others, strict=False):
        assert is_close(job, other.folder)
        for name in ("best_epoch", "epochs", "val/acc", "test/acc"):
            assert job.metrics[name] == other.metrics[name]
        for name in ("train/loss", "val/loss", "test/loss"):
            assert job.metrics[name] == pytest.approx(other.metrics[name], rel=1e-6)
    logs = [path.read_text() for path in killed.glob("outputs/sweeps/long/stacks/*.log")]
    assert sum("resuming after epoch" in log for log in logs) == 2


def test_job_stopped_while_writing_stays_stacked(undisturbed: Path, killed: Path) -> None:
    """A job that was stopped while its files were written stays in its stack."""
    job, other = read_sweep_jobs(killed, "long")[0], read_sweep_jobs(undisturbed, "long")[0]
    shutil.copytree(other.folder / "checkpoints", job.folder / "checkpoints")
    outcome = run("src.train", *LONG, cwd=killed)
    assert "4 jobs in 1 stack (1× 4)" in outcome.text
    assert_same_results(read_sweep_jobs(killed, "long"), read_sweep_jobs(undisturbed, "long"))


def test_local_launcher_takes_jobs_from_stack(undisturbed: Path, killed: Path) -> None:
    """The local launcher may finish a job of a stack; the others return to the stack."""
    local = drop_overridden(*LONG, "hydra/launcher=local", "seed=0", "optimizer.lr=0.01")
    assert run("src.train", *local, cwd=killed).code == 0
    outcome = run("src.train", *LONG, cwd=killed)
    assert "3 jobs in 1 stack (1× 3)" in outcome.text
    assert [job.stack for job in read_sweep_jobs(killed, "long")] == [None] * 4
    # after 4,000 steps in float32, which rounds differently alone
    for job, other in zip(read_sweep_jobs(killed, "long"), read_sweep_jobs(undisturbed, "long"), strict=True):
        assert job.metrics["test/loss"] == pytest.approx(other.metrics["test/loss"], rel=0.05)


def test_damaged_stack_state_restarts_jobs(undisturbed: Path, killed: Path) -> None:
    """A stack's state with a flipped bit is reported, and its jobs start again."""
    (state,) = killed.glob("outputs/sweeps/long/stacks/*.ckpt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 4
    state.write_bytes(content)
    outcome = run("src.train", *LONG, cwd=killed)
    assert outcome.code == 0, outcome.text
    told = "is damaged: a part of it does not match its checksum; the jobs that would resume from it start again"
    assert f"checkpoint {state.relative_to(killed)} {told}" in outcome.out
    assert_same_results(read_sweep_jobs(killed, "long"), read_sweep_jobs(undisturbed, "long"))


def test_sweep_process_does_not_import_torch() -> None:
    code = "import sys, src.sweeps.launchers.vectorized; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
