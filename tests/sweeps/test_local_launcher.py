"""Sweeps under the local launcher that go through much: failures of each kind, a rival, interruptions."""

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from src.storage.status import Status
from src.sweeps.store.jobs import Job
from tests.command_line import BARE, Outcome, drop_overridden, read_json, run, spawn
from tests.sweeps.outcomes import assert_same_results, read_csv, read_rows, read_statuses, read_sweep_jobs
from tests.trouble import FaultInjector, JobEvent, inject_faults, read_events, wait_for_second_epoch

COMMON = ("-m", *BARE, FaultInjector.SETTING, "model.activation=relu", "trainer.max_epochs=3", "hydra.launcher.jobs=2")
GRID = (*COMMON, "model.hidden_size=2,3", "optimizer.lr=0.003,0.01", "seed=0,1", "name=grid")
CORNER = (*COMMON, "model.hidden_size=2", "optimizer.lr=0.003,0.01", "seed=0,1")  # the first four of them
FAILING = {1: "raise", 2: "diverge", 5: "exit", 6: "hold"}


def assert_all_processes_ended(parent: "subprocess.Popen[str]", jobs: list[Job]) -> Outcome:
    """All processes of a sweep have ended: none has its output open, and none holds a folder."""
    out, err = parent.communicate(timeout=60)  # so long as the process that forks has these open, this waits
    for folder in {jobs[0].folder.parent, *(job.folder for job in jobs)}:
        with FileLock(folder / ".lock", timeout=10):
            pass
    return Outcome(parent.returncode, out, err)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the grid was run without any trouble, three at once."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    inject_faults(cwd, {})
    outcome = run("src.train", *drop_overridden(*GRID, "hydra.launcher.jobs=3"), cwd=cwd)
    assert outcome.code == 0, outcome.text
    return cwd


# A sweep with four jobs that fail, each in its own way


class TroubledSweep(NamedTuple):
    """What there was to see of that sweep.

    Attributes:
        cwd: where it ran.
        first: how it ended.
        rival: another start while it was under way.
        second: how the next start ended, before which the causes of the failures were removed.
        statuses: those after the first start, whole.
        rows: ``results.csv`` after the first start.
        notes: what the jobs did in each of the two starts.
    """

    cwd: Path
    first: Outcome
    rival: Outcome
    second: Outcome
    statuses: list[Status]
    rows: list[dict[str, str]]
    notes: list[list[JobEvent]]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> TroubledSweep:
    cwd = tmp_path_factory.mktemp("troubled")
    inject_faults(cwd, FAILING)
    with spawn("src.train", *GRID, cwd=cwd) as parent:
        (worker,) = wait_for_second_epoch(cwd, 6)
        rival = run("src.train", *GRID, cwd=cwd)
        os.kill(worker, signal.SIGKILL)
        first = assert_all_processes_ended(parent, read_sweep_jobs(cwd, "grid"))
    between, table, seen = (
        [job.status for job in read_sweep_jobs(cwd, "grid")],
        read_rows(cwd, "grid"),
        read_events(cwd),
    )
    inject_faults(cwd, {})
    second = run("src.train", *GRID, cwd=cwd)
    return TroubledSweep(cwd, first, rival, second, between, table, [seen, read_events(cwd)[len(seen) :]])


def test_failures_are_listed_with_reasons(troubled: TroubledSweep) -> None:
    """The sweep ends with a list of the failed jobs; each has its reason in its folder, and a traceback in its log."""
    assert troubled.first.code == 1
    lines = [line for line in troubled.first.out.splitlines() if line.startswith("failed: ")]
    told = {int(line.split("grid/")[1].split("_")[0]): line for line in lines}
    assert set(told) == set(FAILING)
    assert "(error): RuntimeError: this job is in trouble" in told[1]
    assert "(diverged): " in told[2]
    assert "(error): its process ended with exit code 7 and no message" in told[5]
    assert "(killed): by signal SIGKILL" in told[6]
    assert troubled.first.err.strip().startswith("error: 4 failed of 8 jobs; resume with: python -m src.train -m ")
    assert "Traceback" not in troubled.first.text
    reasons = {number: each["reason"] for number, each in enumerate(troubled.statuses) if each["status"] != "finished"}
    assert reasons == {1: "error", 2: "diverged", 5: "error", 6: "killed"}
    log = (read_sweep_jobs(troubled.cwd, "grid")[1].folder / "train.log").read_text()
    assert "Traceback" in log and "RuntimeError: this job is in trouble" in log


def test_results_have_one_row_per_job(troubled: TroubledSweep, undisturbed: Path) -> None:
    """The file results.csv has a row per job with its settings, status and metrics."""
    assert [int(row["number"]) for row in troubled.rows] == list(range(8))
    for row, job in zip(troubled.rows, read_sweep_jobs(undisturbed, "grid"), strict=True):
        settings = (job.settings["model.hidden_size"], job.settings["optimizer.lr"], job.settings["seed"])
        assert (float(row["model.hidden_size"]), float(row["optimizer.lr"]), float(row["seed"])) == settings
        assert row["folder"] == job.folder.name
        if job.number not in FAILING:
            assert row["status"] == "finished" and row["epochs"] == "3"
            assert [float(row[name]) for name in ("val/acc", "val/loss", "test/acc", "test/loss")] == [
                job.metrics[name] for name in ("val/acc", "val/loss", "test/acc", "test/loss")
            ]
    failed = {int(row["number"]): row["reason"] for row in troubled.rows if row["status"] == "failed"}
    assert failed == {1: "error", 2: "diverged", 5: "error", 6: "killed"}


def test_concurrent_start_is_refused(troubled: TroubledSweep) -> None:
    """A second start of a running sweep is refused in one line and changes nothing."""
    assert troubled.rival.error.startswith("error: outputs/sweeps/grid: another process is running this sweep")
    assert troubled.rival.out == ""
    assert troubled.rival.folders == []


def test_restart_resumes_only_failed_jobs(troubled: TroubledSweep, undisturbed: Path) -> None:
    """The next start resumes only the failed jobs, which lose one epoch at most; all results are bit-identical."""
    assert troubled.second.code == 0, troubled.second.text
    assert "8 jobs: 4 finished before" in troubled.second.out and "4 failed, to try again" in troubled.second.out
    assert {note.number for note in troubled.notes[1]} == set(FAILING)
    done = Counter((note.number, note.event) for notes in troubled.notes for note in notes)
    assert {key for key, count in done.items() if count > 1} == {(number, "2") for number in FAILING}
    assert max(done.values()) == 2
    assert [number for number in range(8) if done[number, "test"] == 1] == list(range(8))
    assert read_statuses(troubled.cwd, "grid") == ["finished"] * 8
    assert [row["status"] for row in read_rows(troubled.cwd, "grid")] == ["finished"] * 8
    assert_same_results(read_sweep_jobs(troubled.cwd, "grid"), read_sweep_jobs(undisturbed, "grid"))
    for job in read_sweep_jobs(troubled.cwd, "grid"):
        assert [row["epoch"] for row in read_csv(job.folder / "history.csv")] == ["1", "2", "3"]
        starts = 1 + len(read_json(job.folder / "provenance.json").get("resumed", []))
        assert starts == (2 if job.number in FAILING else 1)


# Interrupted


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted_sweep_resumes_identically(name: str, code: int, undisturbed: Path, tmp_path: Path) -> None:
    """An interrupted sweep stops its jobs; resumed, it has the same results."""
    arguments = (*CORNER, f"name={name}")
    inject_faults(tmp_path, {0: "hold", 1: "hold"})
    with spawn("src.train", *arguments, cwd=tmp_path) as parent:
        workers = wait_for_second_epoch(tmp_path, 0, 1)
        if name == "SIGINT":  # Ctrl-C in a terminal reaches all of them
            for worker in workers:
                os.kill(worker, signal.SIGINT)
        parent.send_signal(signal.Signals[name])
        outcome = assert_all_processes_ended(parent, read_sweep_jobs(tmp_path, name))
    assert outcome.code == code, outcome.text
    assert "Traceback" not in outcome.text
    assert f"4 unfinished of 4 jobs; resume with: python -m src.train -m {' '.join(BARE)}" in outcome.out
    assert read_statuses(tmp_path, name) == ["interrupted", "interrupted", "waiting", "waiting"]
    assert [row["status"] for row in read_rows(tmp_path, name)] == read_statuses(tmp_path, name)

    inject_faults(tmp_path, {})
    assert run("src.train", *arguments, cwd=tmp_path).code == 0
    events = Counter((note.number, note.event) for note in read_events(tmp_path))
    assert {event for event, count in events.items() if count > 1} == {(0, "2"), (1, "2")}
    assert_same_results(read_sweep_jobs(tmp_path, name), read_sweep_jobs(undisturbed, "grid"))


# Undisturbed


def test_jobs_use_separate_processes_and_cores(undisturbed: Path) -> None:
    """Each job runs in its own process with its share of the cores."""
    notes = read_events(undisturbed)
    processes = {number: {note.process for note in notes if note.number == number} for number in range(8)}
    assert all(len(found) == 1 for found in processes.values())
    assert len(set.union(*processes.values())) == 8
    assert os.getpid() not in set.union(*processes.values())
    assert len({note.parent for note in notes}) == 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {note.cores for note in notes} == {max(1, (cores or 1) // 3)}


def test_parallel_jobs_respect_limit(undisturbed: Path) -> None:
    """No more jobs run at once than the launcher's setting allows."""
    ends = {note.number: at for at, note in enumerate(read_events(undisturbed)) if note.event == "test"}
    begins = {note.number: at for at, note in enumerate(read_events(undisturbed)) if note.event == "1"}
    at_once = [sum(begins[n] <= at < ends[n] for n in range(8)) for at in begins.values()]
    assert max(at_once) <= 3
