"""Sweeps handed in by submitit, with processes of this machine in Slurm's place: all but Slurm itself."""

import contextlib
import os
import signal
import stat
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.command_line import BARE, Outcome, drop_overridden, run, spawn, wait_for
from tests.sweeps.outcomes import assert_same_results, read_sweep_jobs
from tests.sweeps.test_local_launcher import rows, statuses
from tests.trouble import FaultInjector, JobEvent, inject_faults, read_events, wait_for_second_epoch

pytest.importorskip("submitit")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cluster=local")
GRID = (
    "-m",
    *BARE,
    FaultInjector.SETTING,
    "model.activation=relu",
    "trainer.max_epochs=3",
    "optimizer.lr=0.003,0.01,0.03",
)


class SweepHistory(NamedTuple):
    """A sweep of three jobs, one at once, that meets with everything.

    In the first start job 0 fails, job 1 is preempted and comes back, and then the sweep is interrupted. In the
    second one the sweep is killed while job 0 goes on. The third one has no trouble, and two at once.

    Attributes:
        cwd: where it ran.
        quiet: where the same jobs ran under the local launcher, without any trouble.
        first, third: how those starts ended.
        between: the statuses after the first start.
        orphan: whether job 0 lived on when the sweep was killed.
    """

    cwd: Path
    quiet: Path
    first: Outcome
    third: Outcome
    between: list[dict[str, str]]
    orphan: bool

    @property
    def notes(self) -> list[JobEvent]:
        return read_events(self.cwd)


def is_alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def read_second_epochs(cwd: Path, number: int) -> list[JobEvent]:
    return [note for note in read_events(cwd) if note.number == number and note.event == "2"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> SweepHistory:
    quiet, cwd = tmp_path_factory.mktemp("quiet"), tmp_path_factory.mktemp("story")
    inject_faults(quiet, {})
    outcome = run("src.train", *GRID, "name=grid", "hydra.launcher.jobs=3", cwd=quiet)
    assert outcome.code == 0, outcome.text

    arguments = (*GRID, *SLURM, "name=grid", "hydra.launcher.jobs=1")
    inject_faults(cwd, {0: "raise", 1: "hold"})
    with spawn("src.train", *arguments, cwd=cwd) as sweep:
        wait_for_second_epoch(cwd, 1)
        before = read_second_epochs(cwd, 1)[0]
        for process in (before.process, before.parent):  # as Slurm does it: all processes of the job get the signal
            os.kill(process, signal.SIGUSR2)
        wait_for(lambda: len(read_second_epochs(cwd, 1)) == 2, "job 1 to come back")
        sweep.send_signal(signal.SIGINT)
        first = Outcome(0, *sweep.communicate(timeout=60))
        first.code = sweep.returncode
    between = [job.status for job in read_sweep_jobs(cwd, "grid")]

    inject_faults(cwd, {0: "hold"})
    with spawn("src.train", *arguments, cwd=cwd) as sweep:
        wait_for(lambda: len(read_second_epochs(cwd, 0)) == 2, "job 0 to go on")
        sweep.kill()
    held = read_second_epochs(cwd, 0)[-1]
    time.sleep(0.5)
    orphan = is_alive(held.process)
    inject_faults(cwd, {0: ""})  # the one that holds still does, another one will not
    third = run("src.train", *arguments[:-1], "hydra.launcher.jobs=2", cwd=cwd)
    return SweepHistory(cwd, quiet, first, third, between, orphan)


def test_preempted_job_is_requeued_and_resumes(story: SweepHistory) -> None:
    """A preempted job stops, is submitted again and resumes from its last epoch."""
    first = [note for note in story.notes if note.number == 1][:3]
    assert [note.event for note in first] == ["1", "2", "2"]
    assert first[1].process != first[2].process and first[1].parent != first[2].parent


def test_crash_fails_only_one_job(story: SweepHistory) -> None:
    """A crash fails one job and is reported in one line."""
    assert story.between[0]["status"] == "failed"
    assert story.between[0]["message"] == "RuntimeError: this job is in trouble"
    assert "grid/0_lr-0.003 (error): RuntimeError: this job is in trouble" in story.first.out


def test_ctrl_c_stops_jobs(story: SweepHistory) -> None:
    """Ctrl-C stops the jobs and prints the command that resumes the sweep."""
    assert story.first.code == 130
    assert "Traceback" not in story.first.text
    assert [each["status"] for each in story.between] == ["failed", "interrupted", "waiting"]
    assert "1 failed and 2 unfinished of 3 jobs; resume with: python -m src.train -m" in story.first.out


def test_next_start_stops_orphaned_jobs(
    story: SweepHistory,
) -> None:
    """Jobs of a killed sweep keep running; the next start stops them before it runs any."""
    assert story.orphan
    assert "jobs of an earlier start are still in the queue: stopping them, then resuming" in story.third.out
    held, after = read_second_epochs(story.cwd, 0)[1:]
    assert held.process != after.process and not is_alive(held.process)


def test_results_equal_undisturbed_sweep(story: SweepHistory) -> None:
    """Each job finishes once, with the weights of the undisturbed sweep."""
    assert story.third.code == 0, story.third.text
    tests = Counter(note.number for note in story.notes if note.event == "test")
    assert tests == {0: 1, 1: 1, 2: 1}
    assert_same_results(read_sweep_jobs(story.cwd, "grid"), read_sweep_jobs(story.quiet, "grid"))
    assert [row["status"] for row in rows(story.cwd, "grid")] == ["finished"] * 3


def test_finished_jobs_count_for_both_launchers(story: SweepHistory) -> None:
    """Jobs that one launcher has finished are not run again by the other."""
    for cwd, launcher in ((story.cwd, ()), (story.quiet, SLURM)):
        notes = read_events(cwd)
        outcome = run("src.train", *GRID, *launcher, "name=grid", cwd=cwd)
        assert outcome.code == 0 and "3 jobs: 3 finished before" in outcome.out
        assert read_events(cwd) == notes and statuses(cwd, "grid") == ["finished"] * 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("cpus_per_job=0", "a whole number from 1 to 1,024"),
        ("gpus_per_job=-1", "a whole number from 0 to 1,024"),
        ("memory=0", "null or GB above 0"),
        ("time_limit=null", "seconds above 0"),
        ("requeues=1.5", "a whole number from 0 to 1,000,000"),
        ("jobs=no", "null or a whole number from 1 to 1,000,000"),
        ("options=long", "a mapping of sbatch options"),
        ("options={signal: USR1}", "except array, error, job-name"),
        ("cluster=moon", "slurm or local"),
    ],
)
def test_invalid_launcher_setting_is_refused(setting: str, words: str, tmp_path: Path) -> None:
    """A launcher setting that no sweep can run with is refused in one line."""
    settings = drop_overridden("-m", *SLURM, "seed=0,1", f"hydra.launcher.{setting}")
    outcome = run("src.train", *settings, cwd=tmp_path)
    assert outcome.error.startswith(f"error: hydra.launcher.{setting.split('=')[0]}=") and words in outcome.error


def test_missing_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm gives a one-line error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run("src.train", "-m", "hydra/launcher=slurm", "seed=0,1", cwd=tmp_path)
    assert "there is no Slurm on this machine (no sbatch, no srun): start the sweep on" in outcome.error


def test_each_start_has_private_pickle_folder(tmp_path: Path) -> None:
    """Each start has a new private folder for pickles, which nobody can have filled before."""
    from src.sweeps.launchers.slurm import make_private_folder, remove_earlier_files

    (planted := tmp_path / ".submitit" / "0_0_result.pkl").parent.mkdir()
    planted.write_bytes(b"a stranger's")
    first, second = make_private_folder(tmp_path), make_private_folder(tmp_path)
    assert first != second and first.parent == second.parent == tmp_path / ".submitit"
    assert stat.S_IMODE(first.stat().st_mode) == 0o700 and not list(first.iterdir())
    remove_earlier_files(second)
    assert list(second.parent.iterdir()) == [second]
