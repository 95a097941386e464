"""Sweeps under the local launcher that go through everything: failures, kills, a lost parent, interruptions."""

import csv
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from filelock import FileLock

from src.sweeps.store.jobs import Job
from tests.command_line import BARE, Outcome, drop_overridden, read_json, run, spawn
from tests.sweeps.outcomes import assert_same_results, read_sweep_jobs
from tests.trouble import FaultInjector, JobEvent, inject_faults, read_events, wait_for_second_epoch

COMMON = ("-m", *BARE, FaultInjector.SETTING, "model.activation=relu", "trainer.max_epochs=3", "hydra.launcher.jobs=2")
GRID = (*COMMON, "model.hidden_size=2,3,4", "optimizer.lr=0.003,0.01,0.03,0.1", "seed=0,1", "name=grid")
CORNER = (*COMMON, "model.hidden_size=2", "optimizer.lr=0.003,0.01", "seed=0,1")  # the first four of them
FAILING = {1: "raise", 4: "diverge", 16: "exit", 20: "hold"}


def statuses(cwd: Path, name: str) -> list[str]:
    return [job.status["status"] for job in read_sweep_jobs(cwd, name)]


def rows(cwd: Path, name: str) -> list[dict[str, str]]:
    with (cwd / "outputs" / "sweeps" / name / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


# A sweep with four jobs that fail, each in its own way, whose parent is killed half-way


class KilledSweep(NamedTuple):
    """What there was to see of that sweep.

    Attributes:
        cwd: where it ran.
        first: the statuses when the parent had been killed.
        left: what came of the processes that it had started.
        rival: a second start while the second was under way.
        second, third: how these starts ended; before the third the causes of the failures were removed.
        statuses: those after the second start, whole.
        rows: ``results.csv`` after the second start.
        notes: what the jobs did in each of the three starts.
    """

    cwd: Path
    first: list[str]
    left: Outcome
    rival: Outcome
    second: Outcome
    third: Outcome
    statuses: list[dict[str, Any]]
    rows: list[dict[str, str]]
    notes: list[list[JobEvent]]


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> KilledSweep:
    cwd = tmp_path_factory.mktemp("survived")
    inject_faults(cwd, FAILING | {9: "hold", 10: "hold"})
    with spawn("src.train", *GRID, cwd=cwd) as parent:
        wait_for_second_epoch(cwd, 9, 10)
        parent.kill()
        left = assert_all_processes_ended(parent, read_sweep_jobs(cwd, "grid"))
    first, seen = statuses(cwd, "grid"), [read_events(cwd)]

    inject_faults(cwd, FAILING)
    with spawn("src.train", *GRID, cwd=cwd) as parent:
        (worker,) = wait_for_second_epoch(cwd, 20)
        rival = run("src.train", *GRID, cwd=cwd)
        os.kill(worker, signal.SIGKILL)
        second = assert_all_processes_ended(parent, read_sweep_jobs(cwd, "grid"))
    between, table = [job.status for job in read_sweep_jobs(cwd, "grid")], rows(cwd, "grid")
    seen.append(read_events(cwd)[len(seen[0]) :])

    inject_faults(cwd, {})
    third = run("src.train", *GRID, cwd=cwd)
    seen.append(read_events(cwd)[len(seen[0]) + len(seen[1]) :])
    return KilledSweep(cwd, first, left, rival, second, third, between, table, seen)


def test_killed_parent_ends_its_jobs(
    survived: KilledSweep,
) -> None:
    """If the parent is killed, its jobs end with it, and their folders record how far they were."""
    assert survived.left.code == -signal.SIGKILL
    early = ["finished", "failed", "finished", "finished", "failed", *["finished"] * 4]
    assert survived.first == [*early, "running", "running", *["waiting"] * 13]


def test_restart_reports_state_and_failures(survived: KilledSweep) -> None:
    """The next start reports the state of the sweep and ends with a list of the failed jobs."""
    second = survived.second
    assert second.code == 1
    assert "24 jobs: 7 finished before" in second.out
    assert "2 failed, to try again" in second.out and "2 to resume" in second.out and "13 to do" in second.out
    lines = [line for line in second.out.splitlines() if line.startswith("failed: ")]
    told = {int(line.split("grid/")[1].split("_")[0]): line for line in lines}
    assert set(told) == {1, 4, 16, 20}
    assert "(error): RuntimeError: this job is in trouble" in told[1]
    assert "(diverged): " in told[4]
    assert "(error): its process ended with exit code 7 and no message" in told[16]
    assert "(killed): by signal SIGKILL" in told[20]
    assert second.err.strip().startswith("error: 4 failed of 24 jobs; resume with: python -m src.train -m ")
    assert "Traceback" not in second.text


def test_failed_job_records_reason_and_traceback(survived: KilledSweep) -> None:
    reasons = {number: each["reason"] for number, each in enumerate(survived.statuses) if each["status"] != "finished"}
    assert reasons == {1: "error", 4: "diverged", 16: "error", 20: "killed"}
    log = (read_sweep_jobs(survived.cwd, "grid")[1].folder / "train.log").read_text()
    assert "Traceback" in log and "RuntimeError: this job is in trouble" in log


def test_other_jobs_lose_at_most_one_epoch(survived: KilledSweep) -> None:
    """All other jobs finished exactly once and lost at most the epoch in progress."""
    notes = survived.notes[0] + survived.notes[1]
    done = Counter((note.number, note.event) for note in notes)
    fine = set(range(24)) - set(FAILING)
    assert {number for number, event in done if event == "test"} == fine
    twice = {key for key, count in done.items() if count > 1}
    assert twice == {(1, "2"), (4, "2"), (9, "2"), (10, "2")}  # each from its last checkpoint on
    assert max(done.values()) == 2
    for job in read_sweep_jobs(survived.cwd, "grid"):
        starts = 1 + len(read_json(job.folder / "provenance.json").get("resumed", []))
        assert starts == {1: 3, 4: 3, 9: 2, 10: 2, 16: 2, 20: 2}.get(job.number, 1)


def test_results_have_one_row_per_job(survived: KilledSweep, undisturbed: Path) -> None:
    """The file results.csv has a row per job with its settings, status and metrics."""
    assert [int(row["number"]) for row in survived.rows] == list(range(24))
    for row, job in zip(survived.rows, read_sweep_jobs(undisturbed, "grid"), strict=True):
        settings = (job.settings["model.hidden_size"], job.settings["optimizer.lr"], job.settings["seed"])
        assert (float(row["model.hidden_size"]), float(row["optimizer.lr"]), float(row["seed"])) == settings
        assert row["folder"] == job.folder.name
        if job.number not in FAILING:
            assert row["status"] == "finished" and row["epochs"] == "3"
            assert [float(row[name]) for name in ("val/acc", "val/loss", "test/acc", "test/loss")] == [
                job.metrics[name] for name in ("val/acc", "val/loss", "test/acc", "test/loss")
            ]
    failed = {int(row["number"]): row["reason"] for row in survived.rows if row["status"] == "failed"}
    assert failed == {1: "error", 4: "diverged", 16: "error", 20: "killed"}


def test_concurrent_start_is_refused(survived: KilledSweep) -> None:
    """A second start of a running sweep is refused in one line and changes nothing."""
    assert survived.rival.error.startswith("error: outputs/sweeps/grid: another process is running this sweep")
    assert survived.rival.out == ""
    assert survived.rival.folders == []


def test_restart_retries_only_failed_jobs(
    survived: KilledSweep,
) -> None:
    """The third start runs only the failed jobs, and succeeds now that the causes are removed."""
    assert survived.third.code == 0, survived.third.text
    assert "24 jobs: 20 finished before" in survived.third.out
    assert {note.number for note in survived.notes[2]} == set(FAILING)
    assert sorted(note.number for note in survived.notes[2] if note.event == "test") == sorted(FAILING)
    assert statuses(survived.cwd, "grid") == ["finished"] * 24
    assert [row["status"] for row in rows(survived.cwd, "grid")] == ["finished"] * 24


def test_resumed_results_are_bit_identical(survived: KilledSweep, undisturbed: Path) -> None:
    """Jobs that were killed or failed and then resumed have bit-identical results."""
    assert_same_results(read_sweep_jobs(survived.cwd, "grid"), read_sweep_jobs(undisturbed, "grid"))
    for job in read_sweep_jobs(survived.cwd, "grid"):
        with (job.folder / "history.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


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
    assert statuses(tmp_path, name) == ["interrupted", "interrupted", "waiting", "waiting"]
    assert [row["status"] for row in rows(tmp_path, name)] == statuses(tmp_path, name)

    inject_faults(tmp_path, {})
    assert run("src.train", *arguments, cwd=tmp_path).code == 0
    events = Counter((note.number, note.event) for note in read_events(tmp_path))
    assert {event for event, count in events.items() if count > 1} == {(0, "2"), (1, "2")}
    assert_same_results(read_sweep_jobs(tmp_path, name), read_sweep_jobs(undisturbed, "grid"))


# Undisturbed


def test_jobs_use_separate_processes_and_cores(undisturbed: Path) -> None:
    """Each job runs in its own process with its share of the cores."""
    notes = read_events(undisturbed)
    processes = {number: {note.process for note in notes if note.number == number} for number in range(24)}
    assert all(len(found) == 1 for found in processes.values())
    assert len(set.union(*processes.values())) == 24
    assert os.getpid() not in set.union(*processes.values())
    assert len({note.parent for note in notes}) == 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {note.cores for note in notes} == {max(1, (cores or 1) // 3)}


def test_parallel_jobs_respect_limit(undisturbed: Path) -> None:
    """No more jobs run at once than the launcher's setting allows."""
    ends = {note.number: at for at, note in enumerate(read_events(undisturbed)) if note.event == "test"}
    begins = {note.number: at for at, note in enumerate(read_events(undisturbed)) if note.event == "1"}
    at_once = [sum(begins[n] <= at < ends[n] for n in range(24)) for at in begins.values()]
    assert max(at_once) <= 3
