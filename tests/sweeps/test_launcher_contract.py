"""What every launcher promises: a sweep that fails in part, is killed, goes on, and is finished by another launcher."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from src.core.errors import InputError
from src.storage.status import Status
from tests.command_line import (
    BARE,
    CONF,
    Outcome,
    drop_seconds,
    is_identical,
    read_json,
    read_weights,
    run,
    run_process,
    spawn,
    train,
    wait_for,
)
from tests.sweeps.outcomes import is_alive, read_csv, read_rows, read_statuses, read_sweep_jobs
from tests.trouble import FaultInjector, inject_faults, read_events

START = "start.ckpt"  # the weights that job 0 starts from, which are missing at first; job 1 starts from its own
COMMON = ("model.hidden_size=4", "trainer=cpu", "seed=0")
SWEEP = ("-m", *BARE, *COMMON, f"ckpt_path={START},null", "name=swept")
SHORT = ("trainer.max_epochs=3",)
LONG = ("trainer.max_epochs=20", "data.batch_size=1")  # long enough to be killed


class Launcher(NamedTuple):
    """How to work with a launcher.

    Attributes:
        settings: those that choose it.
        training: those of the training; a job that a stack trains cannot hold, and takes long instead.
        is_half_done: whether job 1 can be resumed and has not finished.
        has_resumed: whether job 1 did not start again.
        keeps_jobs: whether the jobs live on if the sweep is killed.
        accuracy: how far a weight may be from that of a run alone; 0: bit-identical.
    """

    settings: tuple[str, ...]
    training: tuple[str, ...]
    is_half_done: Callable[[Path], bool]
    has_resumed: Callable[[Path], bool]
    keeps_jobs: bool = False
    accuracy: float = 0.0


def list_epochs(cwd: Path) -> list[str]:
    return [note.event for note in read_events(cwd) if note.number == 1]


def begins_once(cwd: Path) -> bool:
    epochs = list_epochs(cwd)
    return epochs[:2] == ["1", "2"] and epochs.count("1") == 1 and epochs[-3:] == ["2", "3", "test"]


def has_stack_state(cwd: Path) -> bool:
    return bool(list(cwd.glob("outputs/sweeps/swept/stacks/*.ckpt")))


def logs_resumed_stack(cwd: Path) -> bool:
    (log,) = cwd.glob("outputs/sweeps/swept/stacks/*.log")
    return "resuming after epoch" in log.read_text()


HOLDING = ((*SHORT, FaultInjector.SETTING), lambda cwd: "2" in list_epochs(cwd), begins_once)
LAUNCHERS = {
    "local": Launcher(("hydra/launcher=local", "hydra.launcher.jobs=2"), *HOLDING),
    "vectorized": Launcher(
        ("hydra/launcher=vectorized", "hydra.launcher.jobs=1"),
        LONG,
        has_stack_state,
        logs_resumed_stack,
        accuracy=1e-4,
    ),
    "ray": Launcher(("hydra/launcher=ray",), *HOLDING),
    "slurm": Launcher(("hydra/launcher=slurm", "hydra.launcher.cluster=local"), *HOLDING, keeps_jobs=True),
}


class Story(NamedTuple):
    """A sweep in which job 0 has nothing to start from, and job 1 is half done when the sweep is killed.

    Attributes:
        launcher: the one that it was started under.
        cwd: where it ran.
        killed: the statuses when it had been killed.
        second: how the next start ended, still without a start for job 0.
        failed: the statuses after that, and the table.
        third: how the local launcher went on, once there was a start for job 0.
        fourth: a start under the first launcher or another one, when all was done.
        files: the content of job 1's results after each of the last three starts.
    """

    launcher: Launcher
    cwd: Path
    killed: list[str]
    second: Outcome
    failed: tuple[list[Status], list[dict[str, str]]]
    third: Outcome
    fourth: Outcome
    files: list[dict[str, bytes]]


@pytest.fixture(scope="module", params=LAUNCHERS)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The folder for Ray's files has a short name: paths of sockets may have no more than 107 characters."""
    cwd = tmp_path_factory.mktemp(request.param)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield live_through(request.param, cwd, TMPDIR=folder)


def live_through(name: str, cwd: Path, **environment: str) -> Story:
    launcher = LAUNCHERS[name]
    command = (*SWEEP, *launcher.training, *launcher.settings)

    inject_faults(cwd, {1: "hold"})
    with spawn("src.train", *command, cwd=cwd, **environment) as parent:
        wait_for(lambda: launcher.is_half_done(cwd) and "failed" in read_statuses(cwd, "swept"), "a half-done job")
        parent.kill()
    killed = read_statuses(cwd, "swept")
    processes = {process for note in read_events(cwd) for process in (note.process, note.parent)}
    if launcher.keeps_jobs:
        assert all(map(is_alive, processes))
    else:
        wait_for(lambda: not any(map(is_alive, processes)), "the job to end")

    inject_faults(cwd, {1: ""})  # the one that holds, where it lives on, still does; another one will not
    if name == "ray":  # whose cluster is to end with its process
        second = run_process("src.train", *command, cwd=cwd, **environment)
    else:
        second = run("src.train", *command, cwd=cwd)
    failed, files = ([job.status for job in read_sweep_jobs(cwd, "swept")], read_rows(cwd, "swept")), [read_files(cwd)]
    shutil.copy(train_alone(cwd, launcher.training, "start") / "checkpoints" / "last.ckpt", cwd / START)
    third = run("src.train", *SWEEP, *launcher.training, cwd=cwd)
    files.append(read_files(cwd))
    other = launcher if name != "ray" else LAUNCHERS["slurm"]  # Ray would set up a cluster to do nothing
    fourth = run("src.train", *SWEEP, *launcher.training, *other.settings, cwd=cwd)
    return Story(launcher, cwd, killed, second, failed, third, fourth, [*files, read_files(cwd)])


def read_files(cwd: Path) -> dict[str, bytes]:
    """What job 1 has left of its training."""
    folder = read_sweep_jobs(cwd, "swept")[1].folder
    files = [*folder.glob("*.json"), *folder.glob("checkpoints/*.ckpt"), folder / "history.csv"]
    return {path.name: path.read_bytes() for path in files}


def train_alone(cwd: Path, training: tuple[str, ...], name: str, *settings: str) -> Path:
    plain = [setting for setting in training if setting != FaultInjector.SETTING]
    return train(*BARE, *COMMON, *plain, *settings, f"name={name}", cwd=cwd).folder


def test_failed_job_spares_others(story: Story) -> None:
    """A job that fails is told and has its reason in the table; the others finish; the exit status is 1."""
    told = f"ckpt_path={START}: there is no such file"
    assert story.killed[0] == "failed" and story.killed[1] in ("running", "interrupted")  # as Ray leaves it time
    assert story.second.code == 1 and "Traceback" not in story.second.text
    assert "2 jobs: 1 failed, to try again, 1 to resume" in story.second.out
    orphaned = "jobs of an earlier start are still in the queue: stopping them, then resuming" in story.second.out
    assert orphaned == story.launcher.keeps_jobs
    assert f"FAILED, error: {told}" in story.second.out
    (line,) = [line for line in story.second.out.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: outputs/sweeps/swept/0_") and f" (error): {told}" in line
    assert story.second.err.strip().startswith("error: 1 failed of 2 jobs; resume with: python -m src.train -m ")
    statuses, rows = story.failed
    assert [(each["status"], each["reason"]) for each in statuses] == [("failed", "error"), ("finished", None)]
    assert [(row["number"], row["status"], row["reason"]) for row in rows] == [
        ("0", "failed", "error"),
        ("1", "finished", ""),
    ]


def test_next_start_runs_only_rest(story: Story) -> None:
    """A job goes on from where it was killed; what one launcher has finished no launcher runs again."""
    assert story.launcher.has_resumed(story.cwd)
    assert story.third.code == story.fourth.code == 0, story.third.text + story.fourth.text
    assert "2 jobs: 1 finished before" in story.third.out and "1 failed, to try again" in story.third.out
    assert "2 jobs: 2 finished before" in story.fourth.out
    assert story.files[0] == story.files[1] == story.files[2]
    assert read_statuses(story.cwd, "swept") == ["finished"] * 2


def test_results_equal_single_runs(story: Story) -> None:
    """Each job has the results that a run alone gives, and a row in results.csv with them."""
    launcher, cwd, jobs = story.launcher, story.cwd, read_sweep_jobs(story.cwd, "swept")
    for job, start, row in zip(jobs, (START, "null"), read_rows(cwd, "swept"), strict=True):
        alone = train_alone(cwd, launcher.training, f"alone{job.number}", f"ckpt_path={start}")
        if launcher.accuracy:
            weights, others = read_weights(job.folder), read_weights(alone)
            assert all((weights[name] - others[name]).abs().max() < launcher.accuracy for name in others)
        else:
            assert drop_seconds(job.metrics) == drop_seconds(read_json(alone / "metrics.json"))
            assert all(
                is_identical(read_weights(job.folder, each), read_weights(alone, each)) for each in ("last", "best")
            )
        assert (row["folder"], row["status"]) == (job.folder.name, "finished")
        assert row["epochs"] == str(job.metrics["epochs"])
        assert all(float(row[name]) == job.metrics[name] for name in ("val/acc", "val/loss", "test/acc", "test/loss"))
        epochs = [int(each["epoch"]) for each in read_csv(job.folder / "history.csv")]
        assert epochs == list(range(1, job.metrics["epochs"] + 1))


# Settings that no sweep can run with

CARDINAL, LIMIT = "a whole number from 1 to 1,024", "null or seconds above 0, up to 1,000,000,000"
OPTIONS = (
    "null or a mapping of sbatch options, such as {qos: long}, except array, error, job-name, open-mode, output, "
    "requeue, signal, time"
)
INVALID = {
    "local": {
        "jobs=0": f"null or {CARDINAL}",
        "jobs=-1": f"null or {CARDINAL}",
        "jobs=two": f"null or {CARDINAL}",
        "jobs_per_gpu=null": CARDINAL,
        "time_limit=-1": LIMIT,
        "start_method=fork": "null, forkserver or spawn",
    },
    "vectorized": {
        "most=0": "null or a whole number from 1 to 100,000",
        "most=many": "null or a whole number from 1 to 100,000",
        "jobs=0": f"null or {CARDINAL}",
    },
    "ray": {
        "address=somewhere": "null or HOST:PORT",
        "address=ray://here:1": "null or HOST:PORT",
        "cpus_per_job=0": CARDINAL,
        "cpus_per_job=0.5": CARDINAL,
        "gpus_per_job=1.5": "a whole number from 0 to 1,024, or a fraction between 0 and 1",
        "gpus_per_job=-1": "a whole number from 0 to 1,024, or a fraction between 0 and 1",
        "retries=-1": "a whole number from 0 to 1,000,000",
        "time_limit=0": LIMIT,
    },
    "slurm": {
        "cpus_per_job=0": CARDINAL,
        "gpus_per_job=-1": "a whole number from 0 to 1,024",
        "memory=0": "null or GB above 0, up to 1,000,000",
        "time_limit=null": "seconds above 0, up to 1,000,000,000",
        "requeues=1.5": "a whole number from 0 to 1,000,000",
        "jobs=no": "null or a whole number from 1 to 1,000,000",
        "options=long": OPTIONS,
        "options={signal: USR1}": OPTIONS,
        "cluster=moon": "slurm or local",
    },
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_launcher_setting_is_refused(name: str, tmp_path: Path) -> None:
    """A launcher setting that no sweep can run with is refused in one line, before there is a sweep."""
    check = import_module(f"src.sweeps.launchers.{name}").check
    defaults = yaml.safe_load((CONF / "hydra" / "launcher" / f"{name}.yaml").read_text())
    del defaults["_target_"]
    if name == "slurm":
        defaults["cluster"] = "local"  # as long as there is no Slurm here
    check(defaults)
    for setting, words in INVALID[name].items():
        key, _, value = setting.partition("=")
        with pytest.raises(InputError) as told:
            check(defaults | {key: yaml.safe_load(value)})
        assert str(told.value).startswith(f"hydra.launcher.{key}=") and str(told.value).endswith(f" must be {words}")
    *_, (setting, words) = INVALID[name].items()
    outcome = run("src.train", *SWEEP, f"hydra/launcher={name}", f"hydra.launcher.{setting}", cwd=tmp_path)
    assert outcome.error == f"error: hydra.launcher.{setting} must be {words}"
    assert outcome.folders == []
