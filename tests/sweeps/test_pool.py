"""Jobs in processes of their own: how many at once, how each ends, and what the rest takes from that."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from multiprocessing.popen_forkserver import Popen
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from src.sweeps.store.jobs import Job, read_jobs
from src.sweeps.workers import pool
from src.sweeps.workers.pool import infer_status
from tests.command_line import BARE, ROOT, Outcome, run
from tests.trouble import FaultInjector, inject_faults, read_events, wait_for_second_epoch


def sweep(*arguments: str, cwd: Path) -> Outcome:
    settings = ("-m", *BARE, FaultInjector.SETTING, "trainer.max_epochs=2", "name=swept")
    return run("src.train", *settings, *arguments, cwd=cwd)


def jobs(cwd: Path) -> list[Job]:
    return read_jobs(cwd / "outputs/sweeps/swept")


def get_job_outcomes(cwd: Path) -> list[tuple[str, str | None]]:
    return [(job.status["status"], job.status["reason"]) for job in jobs(cwd)]


FINISHED = ("finished", None)
TIME_LIMIT = ("time limit", "stopped after 5 seconds")


@pytest.mark.parametrize(
    ("status", "code", "asked", "after"),
    [
        ("finished", 0, None, ("finished", None, None)),
        ("running", 3, None, ("failed", "error", "its process ended with exit code 3 and no message")),
        ("running", 0, None, ("failed", "error", "its process ended with exit code 0 and no message")),
        ("waiting", -signal.SIGSEGV, None, ("failed", "crashed", "by signal SIGSEGV")),
        (
            "running",
            -signal.SIGKILL,
            None,
            ("failed", "killed", "by signal SIGKILL (by hand, or by the system when memory ran out)"),
        ),
        ("running", 255, None, ("failed", "killed", "its process was lost because the fork server died")),
        ("failed", 1, None, ("failed", None, None)),
        ("interrupted", -signal.SIGTERM, TIME_LIMIT, ("failed", *TIME_LIMIT)),
        ("running", -signal.SIGKILL, TIME_LIMIT, ("failed", *TIME_LIMIT)),
        ("finished", 0, TIME_LIMIT, ("finished", None, None)),
        ("running", -signal.SIGTERM, ("killed", "stopped"), ("interrupted", "killed", "stopped")),
    ],
)
def test_status_is_inferred_from_exit_code(
    status: str, code: int, asked: tuple[str, str] | None, after: tuple[str, str | None, str | None]
) -> None:
    """If a process ended without recording its job's status, that is inferred from its exit code."""
    left = {"status": status, "reason": None, "message": None}
    assert tuple(infer_status(left, code, asked).values()) == after


def test_single_worker_runs_jobs_in_order(tmp_path: Path) -> None:
    """With one job at a time, the jobs run one after another in their order."""
    inject_faults(tmp_path, {1: "raise"})
    assert sweep("seed=1,2,3", "hydra.launcher.jobs=1", cwd=tmp_path).code == 1
    assert [(note.number, note.event) for note in read_events(tmp_path)] == [
        *[(0, "1"), (0, "2"), (0, "test")],
        *[(1, "1"), (1, "2")],
        *[(2, "1"), (2, "2"), (2, "test")],
    ]
    assert get_job_outcomes(tmp_path) == [FINISHED, ("failed", "error"), FINISHED]


def test_time_limit_stops_or_kills_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock leaps as soon as both jobs hang."""
    inject_faults(tmp_path, {0: "hold", 1: "defy"})

    def clock() -> float:
        hanging = {note.number for note in read_events(tmp_path) if note.event == "2"} >= {0, 1}
        return time.monotonic() + (1e6 if hanging else 0)

    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(pool, "STOP_GRACE_SECONDS", 0.5)
    outcome = sweep("seed=1,2,3", "hydra.launcher.jobs=2", "hydra.launcher.time_limit=5000", cwd=tmp_path)
    assert outcome.code == 1
    assert get_job_outcomes(tmp_path) == [("failed", "time limit"), ("failed", "time limit"), FINISHED]
    assert outcome.out.count("(time limit): stopped after 5000 seconds") == 2

    inject_faults(tmp_path, {})
    assert sweep("seed=1,2,3", cwd=tmp_path).code == 0
    assert [note.event for note in read_events(tmp_path) if note.number == 1] == ["1", "2", "2", "test"]


def test_out_of_memory_is_recorded(tmp_path: Path) -> None:
    """A job that ran out of memory fails with that reason."""
    inject_faults(tmp_path, {0: "memory"})
    assert sweep("seed=1,2", cwd=tmp_path).code == 1
    assert get_job_outcomes(tmp_path) == [("failed", "out of memory"), FINISHED]


def test_spawned_processes_run_jobs(tmp_path: Path) -> None:
    """The start method spawn works as well."""
    inject_faults(tmp_path, {})
    assert sweep("seed=1", "hydra.launcher.jobs=2", "hydra.launcher.start_method=spawn", cwd=tmp_path).code == 0
    assert get_job_outcomes(tmp_path) == [FINISHED]
    assert {note.parent for note in read_events(tmp_path)} == {os.getpid()}


def test_killed_fork_server_fails_only_running_jobs(
    tmp_path: Path,
) -> None:
    """If the fork server is killed, the running jobs fail and the others still finish."""
    inject_faults(tmp_path, {0: "hold"})

    def kill() -> None:
        wait_for_second_epoch(tmp_path, 0)
        os.kill(read_events(tmp_path)[0].parent, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = sweep("seed=1,2", "hydra.launcher.jobs=1", "hydra.launcher.start_method=forkserver", cwd=tmp_path)
    killer.join()
    assert outcome.code == 1
    assert get_job_outcomes(tmp_path) == [("failed", "killed"), FINISHED]
    with FileLock(jobs(tmp_path)[0].folder / ".lock", timeout=10):  # the lost one no longer holds its folder
        pass


def test_fork_server_killed_during_start_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill at that moment looks like from here: the answer breaks off."""
    context, launch = multiprocessing.get_context("forkserver"), vars(Popen)["_launch"]
    servers: list[int] = []

    def launch_after_a_kill(popen: Popen, process: object) -> None:
        servers.append(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
        if len(servers) == 1:
            os.kill(servers[0], signal.SIGKILL)
            raise EOFError("unexpected EOF")
        launch(popen, process)

    monkeypatch.setattr(Popen, "_launch", launch_after_a_kill)
    pool.start_fork_server(context)
    process = context.Process(target=os.getpid)
    pool.start_process(context, process)
    process.join()
    assert process.exitcode == 0
    assert len(set(servers)) == 2


@pytest.mark.parametrize("method", [None, "spawn"])
def test_job_processes_ignore_ctrl_c(method: str | None) -> None:
    context = pool.get_mp_context(method)
    process = context.Process(target=signal.raise_signal, args=(signal.SIGINT,))  # type: ignore[attr-defined]
    pool.start_process(context, process)
    process.join()
    assert process.exitcode == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fork_server_avoids_cuda_and_error_noise() -> None:
    """A GPU that it had touched no worker could use; who is killed while it asks for a worker says what for no more."""
    lines = (
        "import pickle, sys, torch",
        "torch.cuda._lazy_init = lambda: print('initialised')",
        "torch._C._cuda_getDeviceCount = lambda: print('counted')",
        "import src.sweeps.workers.preload",
        "for error in (EOFError(), pickle.UnpicklingError('truncated'), ImportError('no such module')):",
        "    sys.excepthook(type(error), error, None)",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr.strip()) == ("", "ImportError: no such module")
