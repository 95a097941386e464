"""However a run ends: killed after its last epoch it only does what is missing, and the command it prints trains on.

Both exactly: as if it had not been killed, and as if it had been longer from the start.
"""

import itertools
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lightning import Callback, LightningModule, Trainer

from tests.command_line import BARE, Outcome, load_checkpoint, read_history, read_json, run, train, train_bare
from tests.training.test_resume import assert_the_same_run

TRUST = "trust=tests"  # for callbacks of the tests in a config that is read back
SETTINGS = ("model.hidden_size=[8,8]", "model.dropout=0.2", "optimizer=sgd", "data.noise=0.3")
EARLY = "+callbacks.early={_target_:src.callbacks.early_stopping.EarlyStopping,monitor:null,mode:null,patience:2}"
PATIENT = EARLY.replace("patience:2", "patience:5")
STUCK = ("optimizer.lr=1e-30", "trainer.max_epochs=8", "scheduler=cosine")  # validation does not improve
BATCHES = 10  # of an epoch


class Killed(BaseException):
    """The end of a process, as far as this one can end: nothing is written any more."""


def kill(*args: Any, **settings: Any) -> None:
    raise Killed


class CopyAtTest(Callback):
    """Copies a run's folder as its test begins: what a kill at that moment leaves. Notes the epochs that begin."""

    SETTING = "+callbacks.copy._target_=tests.training.test_ends.CopyAtTest"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with (Path(trainer.default_root_dir) / "epochs").open("a") as file:
            file.write(f"{trainer.current_epoch + 1}\n")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        if folder.name == "short":
            shutil.copytree(folder, folder.parent / "killed")


class StopIn(Callback):
    """Tells training to stop in the middle of an epoch.

    Args:
        epoch: in which epoch, from 1.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    SETTING = "+callbacks.stop={_target_:tests.training.test_ends.StopIn,epoch:2}"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch + 1 == self.epoch and batch_idx == 3:
            trainer.should_stop = True


class ExitIn(Callback):
    """Ends the process as a library might."""

    SETTING = "+callbacks.exit={_target_:tests.training.test_ends.ExitIn,status:STATUS}"

    def __init__(self, status: int) -> None:
        self.status = status

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            sys.exit(self.status)


class KillInFirst(Callback):
    """Kills a run once the first of its checkpoints is written."""

    SETTING = "+callbacks.kill._target_=tests.training.test_ends.KillInFirst"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if (Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt").exists() and trainer.current_epoch == 0:
            raise Killed


class Case(NamedTuple):
    """A run, what its command to train longer adds, and the run that is as long from the start."""

    settings: tuple[str, ...]
    hint: str | None = None
    longer: tuple[str, ...] = ()


FOUR = ("trainer.max_epochs=4",)
SECOND = "trainer.check_val_every_n_epoch=2"
CASES = {
    "whole epochs": Case(
        ("trainer.max_epochs=2", "trainer.max_steps=20"), "trainer.max_epochs=4 trainer.max_steps=40", FOUR
    ),
    "within an epoch": Case(("trainer.max_steps=15",), "trainer.max_steps=30", ("trainer.max_steps=30",)),
    "within the first epoch": Case(("trainer.max_steps=4",), "trainer.max_steps=8", ("trainer.max_steps=8",)),
    "within an epoch that is not validated": Case(
        ("trainer.max_steps=27", SECOND), "trainer.max_steps=54", ("trainer.max_steps=54", SECOND)
    ),
    "early stopping": Case((*STUCK, EARLY), "callbacks.early.patience=5", (*STUCK, PATIENT)),
    "early stopping, but not before the fifth epoch": Case(
        (*STUCK, EARLY, "+trainer.min_epochs=5"),
        "callbacks.early.patience=5",
        (*STUCK, PATIENT, "+trainer.min_epochs=5"),
    ),
    "another callback, within an epoch": Case((StopIn.SETTING,)),
    "within an epoch, without validation": Case(("trainer.max_steps=15", "data.val_size=0", "scheduler=cosine")),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a run that nothing stops, once; return its folder."""
    made: dict[tuple[str, ...], Path] = {}

    def get(*settings: str) -> Path:
        if settings not in made:
            made[settings] = train_bare(*SETTINGS, *settings, cwd=tmp_path_factory.mktemp("straight")).folder
        return made[settings]

    return get


def train_short(*settings: str, cwd: Path) -> Outcome:
    outcome = train_bare(*SETTINGS, *settings, CopyAtTest.SETTING, "name=short", cwd=cwd)
    outcome.folders[:] = [folder for folder in outcome.folders if folder.name == "short"]
    return outcome


def assert_the_same_end(folder: Path, other: Path) -> None:
    """As `assert_the_same_run`, also of runs that select no epoch."""
    for each in (folder, other):
        checkpoints = each / "checkpoints"
        assert (checkpoints / "best.ckpt").exists() == (read_json(each / "metrics.json")["best"] is not None)
        if not (checkpoints / "best.ckpt").exists():
            shutil.copy(checkpoints / "last.ckpt", checkpoints / "best.ckpt")
    assert_the_same_run(folder, other)


def find_hint(outcome: Outcome) -> str | None:
    """Return the arguments of the command that a run prints to train longer."""
    hints = [line.split("src.train ")[1] for line in outcome.out.splitlines() if "train longer:" in line]
    return hints[0] if hints else None


@pytest.mark.parametrize("name", CASES)
def test_killed_run_finishes_then_trains_longer(name: str, straight: Callable[..., Path], tmp_path: Path) -> None:
    """A run killed after its last epoch only does what is missing and can then be trained longer."""
    case = CASES[name]
    short = train_short(*case.settings, cwd=tmp_path).folder
    folder = short.parent / "killed"
    assert read_json(folder / "status.json")["status"] == "running"
    assert "test/loss" not in read_json(folder / "metrics.json")

    epochs, last = (folder / "epochs").read_text(), (folder / "checkpoints" / "last.ckpt").read_bytes()
    outcome = train(f"resume={folder}", TRUST, cwd=tmp_path)
    assert (folder / "epochs").read_text() == epochs
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == last
    assert read_json(folder / "status.json")["status"] == "finished"
    assert_the_same_end(folder, short)

    printed = find_hint(outcome)
    assert printed == (f"resume=outputs/runs/killed {TRUST} {case.hint}" if case.hint else None)
    if printed:
        train(*shlex.split(printed), cwd=tmp_path)
        assert_the_same_end(folder, straight(*case.longer))


class Clock:
    """A clock on which seven minutes go by whenever someone looks at it."""

    def __init__(self) -> None:
        self.seconds = itertools.count(0, 7 * 60)

    def monotonic(self) -> float:
        return next(self.seconds)


def test_timed_out_run_trains_longer(
    straight: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The epoch cut short is validated and, as good as any, is the best: what was so before it comes back."""
    equal = ("optimizer.lr=1e-30", *FOUR)
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", Clock())
    outcome = train_bare(*SETTINGS, *equal, "+trainer.max_time=00:02:00:00", "name=short", cwd=tmp_path)
    monkeypatch.undo()
    best, last = (load_checkpoint(outcome.folder / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert BATCHES < last["global_step"] == best["global_step"]
    assert last["global_step"] % BATCHES > 0
    assert "val/acc" in read_history(outcome.folder)[-1]
    assert best["whole_epoch"]["global_step"] == last["whole_epoch"]["global_step"] == BATCHES
    printed = find_hint(outcome)
    assert printed == "resume=outputs/runs/short trainer.max_time=00:04:00:00"
    train(*shlex.split(printed), cwd=tmp_path)
    assert_the_same_run(outcome.folder, straight(*equal))
    assert "whole_epoch" not in load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")


def test_run_killed_while_extending_trains_longer(
    straight: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its settings are kept, then its status, then the checkpoints are put back one by one."""
    short = train_short("trainer.max_steps=15", cwd=tmp_path).folder
    for place in (
        "src.training.recorder.RunRecorder.start",
        "src.training.checkpointing.resume.write_checkpoint",
        "lightning.Trainer.fit",
    ):
        folder = Path(shutil.copytree(short, short.parent / place))
        monkeypatch.setattr(place, kill)
        with pytest.raises(Killed):
            run("src.train", f"resume={folder}", "trainer.max_steps=40", cwd=tmp_path)
        monkeypatch.undo()
        train(f"resume={folder}", cwd=tmp_path)
        assert_the_same_run(folder, straight(*FOUR))


def test_run_killed_between_checkpoints_resumes(straight: Callable[..., Path], tmp_path: Path) -> None:
    """A run killed between its first two checkpoints resumes with the result of an uninterrupted one."""
    with pytest.raises(Killed):
        train_bare(*SETTINGS, *FOUR, KillInFirst.SETTING, "name=killed", cwd=tmp_path)
    folder = tmp_path / "outputs" / "runs" / "killed"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["best.ckpt"]
    train(f"resume={folder}", cwd=tmp_path)
    assert_the_same_run(folder, straight(*FOUR))


def test_resume_to_step_limit_counts_epochs_once(straight: Callable[..., Path], tmp_path: Path) -> None:
    """A run that is resumed with a limit of steps counts each epoch once."""
    folder = train_bare(*SETTINGS, "trainer.max_epochs=2", cwd=tmp_path).folder
    train(f"resume={folder}", "trainer.max_epochs=50", "trainer.max_steps=40", cwd=tmp_path)
    assert_the_same_run(folder, straight(*FOUR))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["trainer.max_steps=15", "scheduler=cosine"], "the learning rate schedule was made for its number of steps"),
        ([StopIn.SETTING], "it was stopped by a callback"),
        ([EARLY[:-1] + ",stopping_threshold:0.0}"], "it was stopped by EarlyStopping"),
    ],
)
def test_unextendable_run_says_why(settings: list[str], reason: str, tmp_path: Path) -> None:
    """If no command can train a run longer, the error says why."""
    outcome = train_bare(*SETTINGS, *settings, cwd=tmp_path)
    assert find_hint(outcome) is None
    error = run("src.train", f"resume={outcome.folder}", cwd=tmp_path).error
    assert f"is finished, with {len(read_history(outcome.folder))} epochs: {reason}" in error
    assert "ckpt_path=" in error


def test_passed_step_limit_is_refused(straight: Callable[..., Path], tmp_path: Path) -> None:
    """A limit of steps that a run has already passed is refused."""
    error = run("src.train", f"resume={straight(*FOUR)}", "trainer.max_steps=22", cwd=tmp_path).error
    assert "has 40 steps already: trainer.max_steps=22 is less" in error


CHECKPOINTS = "+callbacks.own={_target_:lightning.pytorch.callbacks.ModelCheckpoint,"


def test_hint_includes_directories_outside_folder(tmp_path: Path) -> None:
    """The command to train longer repeats the directories that the run's folder does not determine."""
    outcome = train_bare(
        f"{CHECKPOINTS}dirpath:'a b',save_last:true}}", "trainer.max_epochs=1", "name=placed", cwd=tmp_path
    )
    (line,) = [line for line in outcome.out.splitlines() if "train longer:" in line]
    assert "'callbacks.own.dirpath=a b' trust=lightning trainer.max_epochs=2" in line
    train(*shlex.split(line.partition("src.train ")[2]), cwd=tmp_path)
    assert read_json(outcome.folder / "metrics.json")["epochs"] == 2
    assert (tmp_path / "a b" / "last.ckpt").is_file()


def test_run_that_cannot_reopen_says_why(tmp_path: Path) -> None:
    """If no command can evaluate a run or train it longer, its output says why."""
    time = "train_time_interval:{_target_:datetime.timedelta,hours:1}}"
    out = train_bare(f"{CHECKPOINTS}{time}", "trainer.max_epochs=1", cwd=tmp_path).out
    assert "no command evaluates it or trains it longer: callbacks.own.train_time_interval._target_=datetime" in out
    assert "evaluate it:" not in out and "train longer:" not in out


@pytest.mark.parametrize("status", [0, 3])
def test_call_of_exit_is_an_error(status: int, tmp_path: Path) -> None:
    """A callback that calls sys.exit is named as what it is, not as Ctrl-C."""
    outcome = run("src.train", *BARE, ExitIn.SETTING.replace("STATUS", str(status)), "name=left", cwd=tmp_path)
    assert outcome.code == 1
    assert outcome.error.startswith(f"error: the run's code called sys.exit({status}); ")
    left = read_json(outcome.folder / "status.json")
    assert (left["status"], left["reason"]) == ("failed", "error")
