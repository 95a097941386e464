"""Sweeps handed in by submitit, with processes of this machine in Slurm's place: all but Slurm itself."""

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.command_line import (
    BARE,
    drop_overridden,
    drop_seconds,
    is_identical,
    read_weights,
    run,
    spawn,
    train,
    wait_for,
)
from tests.sweeps.outcomes import read_statuses, read_sweep_jobs
from tests.trouble import FaultInjector, JobEvent, inject_faults, read_events, wait_for_second_epoch

pytest.importorskip("submitit")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cluster=local")
SHORT = (*BARE, "model.activation=relu", "trainer.max_epochs=3")
PAIR = ("-m", *SHORT, FaultInjector.SETTING, "optimizer.lr=0.003,0.01", "name=pair")


def read_second_epochs(cwd: Path) -> list[JobEvent]:
    return [note for note in read_events(cwd) if note.event == "2"]


def test_preempted_job_comes_back_until_ctrl_c(tmp_path: Path) -> None:
    """A preempted job is submitted again and resumes from its last epoch; Ctrl-C stops it, and the sweep."""
    inject_faults(tmp_path, {0: "hold"})
    with spawn("src.train", *PAIR, *SLURM, "hydra.launcher.jobs=1", cwd=tmp_path) as sweep:
        wait_for_second_epoch(tmp_path, 0)
        (before,) = read_second_epochs(tmp_path)
        for process in (before.process, before.parent):  # as Slurm does it: all processes of the job get the signal
            os.kill(process, signal.SIGUSR2)
        wait_for(lambda: len(read_second_epochs(tmp_path)) == 2, "the job to come back")
        sweep.send_signal(signal.SIGINT)
        out, err = sweep.communicate(timeout=60)
    first, second, third = read_events(tmp_path)
    assert [first.event, second.event, third.event] == ["1", "2", "2"]
    assert second.process != third.process and second.parent != third.parent
    assert sweep.returncode == 130
    assert "Traceback" not in out + err
    assert read_statuses(tmp_path, "pair") == ["interrupted", "waiting"]
    assert "2 unfinished of 2 jobs; resume with: python -m src.train -m" in out

    inject_faults(tmp_path, {})
    outcome = run("src.train", *drop_overridden(*PAIR, "optimizer.lr=0.003"), cwd=tmp_path)
    assert outcome.code == 0 and "1 job: 1 to resume" in outcome.out
    assert [note.event for note in read_events(tmp_path)] == ["1", "2", "2", "2", "3", "test"]
    job, alone = read_sweep_jobs(tmp_path, "pair")[0], train(*SHORT, "optimizer.lr=0.003", cwd=tmp_path)
    assert drop_seconds(job.metrics) == drop_seconds(alone.metrics)
    assert is_identical(read_weights(job.folder), read_weights(alone.folder))


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
