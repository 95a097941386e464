"""A short part of the chaos of command lines, and those that were found by attacking this project."""

import os
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.core import devices
from src.core.errors import InputError
from tests.chaos.guard import Lost, call_each
from tests.chaos.override_strings import trials
from tests.chaos.overrides import run as run_trials
from tests.command_line import BARE, drop_overridden, read_json, run, train_bare

COUNT_RULE = "must be a whole number from 1 to 1,000,000,000"
LINE_RULE = "an argument is one line of text and must not contain"
LAUNCHER_SETTINGS = "jobs, jobs_per_gpu, time_limit, start_method"
CLASS_RULE = "must be the name of a class"
PATH_RULE = "must be a path of at most 1,000 characters"
SEED_RULE = "must be a whole number from 0 to 2³²−1"


def test_generated_command_lines_run_or_are_refused() -> None:
    """Each generated command line gives the right result or a one-line error."""
    table = run_trials(seed=0, count=28, workers=1)
    assert table.found == []
    assert len(table.rows) == 14  # each kind of fault
    assert sum(row.tries for row in table.rows) == 28
    assert sum(row.refused for row in table.rows) > 18
    assert sum(row.right for row in table.rows) > 1


def test_same_seed_draws_same_command_lines() -> None:
    assert list(trials(3, 200)) == list(trials(3, 200)) != list(trials(4, 200))
    assert len({trial.kind for trial in trials(0, 100)}) == 14


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("threads=99999", "threads=99999 must be null or a whole number from 1 to 1,024"),
        ("paths.outputs=", f"paths.outputs= {PATH_RULE}"),
        ("paths.outputs=null", f"paths.outputs=null {PATH_RULE}"),
        ("paths.data=", f"paths.data= {PATH_RULE}"),
        ("hydra.run.dir=", f"hydra.run.dir= {PATH_RULE}"),
        (
            "trainer.max_epochs=1" + 21 * "0",
            f"trainer.max_epochs=1{21 * '0'} {COUNT_RULE}",
        ),
        ("data.order_seed=0.5", f"data.order_seed=0.5 must be null or {SEED_RULE.removeprefix('must be ')}"),
        (
            "data.order_seed=4294967296",
            f"data.order_seed=4294967296 must be null or {SEED_RULE.removeprefix('must be ')}",
        ),
        ("data.split_seed=9223372036854775808", f"data.split_seed=9223372036854775808 {SEED_RULE}"),
        (
            "trainer.devices=[]",
            "trainer.devices=[] must be a whole number from 1 to 1,024, a list of different device numbers or auto",
        ),
        (
            "trainer.profiler=1",
            "trainer.profiler=1 must be null or simple, advanced or pytorch or settings with a _target_",
        ),
        ("model._target_=5", f"model._target_=5 {CLASS_RULE}"),
        ("data._target_=5", f"data._target_=5 {CLASS_RULE}"),
        ("optimizer._target_=5", f"optimizer._target_=5 {CLASS_RULE}"),
        ("trainer._target_=5", f"trainer._target_=5 {CLASS_RULE}"),
        ("callbacks.progress._target_=5", f"callbacks.progress._target_=5 {CLASS_RULE}"),
        ("+logger.mine._target_=5", f"logger.mine._target_=5 {CLASS_RULE}"),
        (
            "model=-1",
            "model=-1: there is no such choice; model is one of airbench, cnn, mlp, nearest_neighbor, resnet18, text, "
            "timm, torchvision, unet",
        ),
        ("data=[5]", None),
        ("ckpt_path=5", "ckpt_path=5: there is no such file"),
        ("resume=5", None),
        (
            "model.activation='re\nlu'",
            f"model.activation='re\\nlu': {LINE_RULE} '\\n'",
        ),
        ("name=a\x00b", f"name=a\\x00b: {LINE_RULE} '\\x00'"),
        ("name=\udcff", f"name=\\udcff: {LINE_RULE} '\\udcff'"),
        ("name=" + 300 * "a", f"name={59 * 'a'}…: it names a folder, so give it at most 200 characters"),
        ("paths.outputs=" + 300 * "a", None),
        ("model.hidden_size=1000000000", None),
        ("model.hidden_size=[1000000,1000000]", None),
        ("deterministic={a:1}", "deterministic={a: 1} must be true or false"),
        ("optimizer.betas={}", None),
        ("optimizer.lr=1" + 400 * "0", f"optimizer.lr=1{58 * '0'}… must be a number above 0, up to 1e38 (whole: 10¹⁸)"),
        ("optimizer.lr=nan", "optimizer.lr=nan must be a number above 0, up to 1e38 (whole: 10¹⁸)"),
        ("seed=${seed}", None),
        ("model.dropout=${nothing}", None),
        (
            "~callbacks",
            "callbacks is missing: it was deleted (~callbacks, callbacks=null), and a run needs it",
        ),
        ("~optimizer._target_", "optimizer must have a class: optimizer._target_=…"),
        ("+nonsense=1", "nonsense: there is no such setting, and no other refers to it"),
        ("+trainer.logger=false", "trainer.logger cannot be set here: choose logger=…"),
        ("+trainer.detect_anomaly=5", "trainer.detect_anomaly=5 must be true or false"),
        ("+trainer.val_check_interval=100", "trainer.val_check_interval=100: an epoch has 10 batches"),
        (
            "trainer.limit_test_batches=0.004",
            "trainer.limit_test_batches=0.004 of 100 test samples is none: give 0.01 or more",
        ),
        ("hydra.verbose=5", None),
        ("hydra.job_logging.version=abc", None),
        ("~hydra.callbacks.claim_folder", None),
        (
            "--no-such-flag",
            "--no-such-flag: there is no such flag; a setting is typed without dashes (NAME=VALUE); "
            "--hydra-help lists all flags",
        ),
    ],
)
def test_invalid_override_is_refused_in_one_line(override: str, line: str | None, tmp_path: Path) -> None:
    """An invalid command line ends with a one-line error and trains nothing."""
    error = run("src.train", *drop_overridden(*BARE, override), cwd=tmp_path).error
    assert line is None or error == f"error: {line}"
    assert error.isprintable() and len(error) < 700
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("hydra.launcher.jobs=0",), "hydra.launcher.jobs=0 must be null or a whole number from 1 to 1,024"),
        (
            ("hydra.launcher.jobs=1000000000",),
            "hydra.launcher.jobs=1000000000 must be null or",
        ),
        (
            ("hydra.launcher.time_limit=inf",),
            "hydra.launcher.time_limit=inf must be null or seconds above 0",
        ),
        (
            ("+hydra.launcher.retries=3",),
            f"there is no setting hydra.launcher.retries: there are {LAUNCHER_SETTINGS}",
        ),
        (("~hydra.launcher.jobs_per_gpu",), "hydra.launcher.jobs_per_gpu is missing"),
        (
            ("hydra/launcher=vectorized", "hydra.launcher.most=-1"),
            "hydra.launcher.most=-1 must be null or",
        ),
        (("hydra.launcher._target_=5",), "hydra.launcher._target_=5 must be a class of hydra_plugins"),
        (
            ("hydra.sweeper.max_batch_size=0",),
            "hydra.sweeper.max_batch_size=0 must be null or",
        ),
        (("hydra.sweep.dir=",), f"hydra.sweep.dir= {PATH_RULE}"),
        (("hydra.sweep.subdir=",), f"hydra.sweep.subdir= {PATH_RULE}"),
        (("paths.outputs=",), f"paths.outputs= {PATH_RULE}"),
    ],
)
def test_invalid_sweep_is_refused_in_one_line(arguments: tuple[str, ...], line: str, tmp_path: Path) -> None:
    """An invalid sweep ends with a one-line error before any job is created."""
    error = run("src.train", "-m", "seed=0,1", *BARE, *arguments, cwd=tmp_path).error
    assert error.startswith(f"error: {line}") and len(error) < 200
    assert not list(tmp_path.rglob("job.json"))


@pytest.mark.parametrize("override", ["checkpoint=5", "split=5", "threads=0", "paths.data=", "trainer.precision=5"])
def test_invalid_evaluation_is_refused_in_one_line(override: str, tmp_path: Path) -> None:
    folder = train_bare("trainer.max_epochs=1", cwd=tmp_path).folder
    assert override.partition("=")[2] in run("src.eval", f"run={folder}", override, cwd=tmp_path).error


def test_error_is_shown_without_logging(tmp_path: Path) -> None:
    """An error is printed even if the job's logging is disabled."""
    outcome = run("src.train", *BARE, "hydra/job_logging=disabled", "optimizer.lr=-1", cwd=tmp_path)
    assert outcome.error == "error: optimizer.lr=-1 must be a number above 0, up to 1e38 (whole: 10¹⁸)"


@pytest.mark.parametrize(("name", "folder"), [("1e3", "1e3"), ("a'b\\", "a-b-"), ("7", "7"), ("a=b,c", "a-b-c")])
def test_name_is_always_text(name: str, folder: str, tmp_path: Path) -> None:
    """A run's name stays text even if it looks like a number or has special characters."""
    outcome = train_bare("trainer.max_epochs=1", f"name={name}", cwd=tmp_path)
    assert outcome.folder.name == folder
    assert OmegaConf.load(outcome.folder / ".hydra" / "config.yaml").name == name


def test_path_is_always_text(tmp_path: Path) -> None:
    """A path stays text even if it looks like a number."""
    assert train_bare("trainer.max_epochs=1", "name=b", "paths.outputs=5", cwd=tmp_path).code == 0
    assert read_json(tmp_path / "5" / "runs" / "b" / "status.json")["status"] == "finished"


def test_tilde_expands_to_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert train_bare("trainer.max_epochs=1", "name=a", "paths.outputs=~/results", cwd=tmp_path).code == 0
    assert (tmp_path / "home" / "results" / "runs" / "a").is_dir()


def test_oversized_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that do not fit into memory are refused before they are created."""
    monkeypatch.setattr(devices, "get_memory_bytes", lambda: 2**30)
    error = run("src.train", *BARE, "model.hidden_size=[20000,20000]", cwd=tmp_path).error
    assert error == (
        "error: the model's weights need more than the 1 GB of memory here: choose a smaller one "
        "(model.hidden_size, model.channels)"
    )


@pytest.mark.parametrize(("threads", "asked"), [("4", 4), ("0", None), ("²", None), ("", None), ("all", None)])
def test_threads_default_to_environment_variable(
    threads: str, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of threads comes from OMP_NUM_THREADS unless the setting gives it."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert devices.resolve_threads(None) == asked
    assert devices.resolve_threads(3) == 3


def test_excessive_omp_num_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads in OMP_NUM_THREADS than a machine supports are refused."""
    monkeypatch.setenv("OMP_NUM_THREADS", "99999")
    with pytest.raises(InputError, match=r"OMP_NUM_THREADS=99999: at most 1024 threads"):
        devices.resolve_threads(None)


# The guard


def misbehave(what: str, folder: Path) -> str:
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        signal.pause()
    return f"{what} {folder.is_dir()}"


def test_guard_reports_hangs_and_crashes() -> None:
    """A call that hangs or crashes is reported and does not affect the other calls."""
    results = dict(call_each(misbehave, ["one", "crash", "two", "hang", "three"], workers=2, patience=5.0))
    assert results == {
        "one": "one True",
        "two": "two True",
        "three": "three True",
        "crash": Lost("died by SIGSEGV"),
        "hang": Lost("hangs"),
    }
