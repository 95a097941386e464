"""Sweeps whose folder is touched while they run: it costs the jobs that it is about, and is told."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from filelock import FileLock

from src.storage.status import Status
from src.sweeps.launchers.cluster import RemoteJob, run_on_cluster
from src.sweeps.progress.monitor import SweepMonitor
from src.sweeps.store import endings
from src.sweeps.store.jobs import Job, create_job, read_jobs
from src.sweeps.workers.worker import JobSpec
from tests.command_line import (
    BARE,
    PROCESS_TIMEOUT,
    Outcome,
    drop_seconds,
    is_identical,
    read_weights,
    run,
    spawn,
    train_bare,
    wait_for,
)
from tests.sweeps.outcomes import read_rows, read_sweep_jobs
from tests.trouble import FaultInjector, inject_faults, read_events, wait_for_second_epoch

SHARED = (*BARE, "trainer.max_epochs=2", "model.hidden_size=3")
GRID = ("-m", *SHARED, FaultInjector.SETTING, "hydra.launcher.jobs=2", "seed=0,1,2,3,4,5,6,7,8", "name=touched")


def wait_for_exit(parent: "subprocess.Popen[str]") -> Outcome:
    out, err = parent.communicate(timeout=PROCESS_TIMEOUT)
    return Outcome(parent.returncode, out, err)


class ModifiedSweep(NamedTuple):
    """A sweep that was touched and then started again, with the jobs and the table after each start."""

    cwd: Path
    first: Outcome
    ends: dict[int, Status]
    table: list[dict[str, str]]
    second: Outcome


@pytest.fixture(scope="module")
def touched(tmp_path_factory: pytest.TempPathFactory) -> ModifiedSweep:
    """Jobs 0 and 1 were running, the others waiting; 7 and 8 were left alone."""
    cwd = tmp_path_factory.mktemp("touched")
    inject_faults(cwd, {0: "hold", 1: "hold"})
    folder = cwd / "outputs/sweeps/touched"
    with spawn("src.train", *GRID, cwd=cwd) as parent:
        wait_for_second_epoch(cwd, 0, 1)
        shutil.rmtree(folder / "0_seed-0")
        (folder / "1_seed-1").rename(folder / "1_elsewhere")
        shutil.rmtree(folder / "2_seed-2")
        (folder / "3_seed-3").rename(folder / "3_aside")
        (folder / "4_seed-4/job.json").write_text("{")
        shutil.rmtree(folder / "5_seed-5")
        (folder / "5_seed-5").write_text("mine")
        (folder / "6_seed-6/status.json").unlink()
        (folder / "6_seed-6/status.json").mkdir()
        (folder / "multirun.yaml").unlink()
        inject_faults(cwd, {})
        first = wait_for_exit(parent)
    ends, table = {job.number: job.status for job in read_sweep_jobs(cwd, "touched")}, read_rows(cwd, "touched")
    (folder / "6_seed-6/status.json").rmdir()
    return ModifiedSweep(cwd, first, ends, table, run("src.train", *GRID, cwd=cwd))


def test_job_without_folder_fails_alone(touched: ModifiedSweep) -> None:
    """A job whose folder is lost is reported as failed and does not affect the others."""
    assert touched.first.error.startswith(
        "error: 4 failed and 2 unfinished of 9 jobs; resume with: python -m src.train"
    )
    for number, how in {0: "removed", 1: "renamed", 2: "removed", 3: "renamed"}.items():
        assert touched.ends[number] == {
            "status": "failed",
            "reason": "folder lost",
            "message": f"its folder was {how} while the sweep ran",
        }
        assert (
            f"{number} seed {number}: FAILED, folder lost: its folder was {how} while the sweep ran"
            in touched.first.out
        )
    assert (
        "5 seed 5: FAILED, error: outputs/sweeps/touched/5_seed-5 cannot be created (File exists)" in touched.first.out
    )
    assert "6 seed 6: FAILED, error: outputs/sweeps/touched/6_seed-6/status.json cannot be " in touched.first.out
    assert {touched.ends[number]["status"] for number in (4, 7, 8)} == {"finished"}


def test_jobs_with_folder_keep_rows(touched: ModifiedSweep) -> None:
    """Each job whose folder can be written keeps its row in results.csv."""
    told = {int(row["number"]): (row["status"], row["folder"]) for row in touched.table}
    assert told[0] == ("failed", "0_seed-0") and told[1] == ("failed", "1_elsewhere") and told[3][1] == "3_aside"
    assert told[4] == ("finished", "4_seed-4") and sorted(told) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert len(touched.table) == 8


def test_next_start_restores_lost_jobs(touched: ModifiedSweep) -> None:
    """The next start runs the lost jobs and leaves files alone that are not the sweep's."""
    assert touched.second.code == 0, touched.second.text
    jobs = {job.settings["seed"]: job for job in read_sweep_jobs(touched.cwd, "touched")}
    assert {job.status["status"] for job in jobs.values()} == {"finished"} and len(jobs) == 9
    assert jobs[5].folder.name == "9_seed-5"
    assert (jobs[5].folder.parent / "5_seed-5").read_text() == "mine"
    assert [note.event for note in read_events(touched.cwd) if note.number == 7] == ["1", "2", "test"]
    for seed in (0, 1):  # the one began anew, the other went on in its new folder
        alone = train_bare(*SHARED[2:], f"seed={seed}", f"name=alone{seed}", cwd=touched.cwd).folder
        assert drop_seconds(jobs[seed].metrics) == drop_seconds(read_metrics(alone))
        assert is_identical(read_weights(jobs[seed].folder), read_weights(alone))


def read_metrics(folder: Path) -> dict[str, Any]:
    return Job(folder, 0, "", [], {}, {}).metrics


def test_renamed_sweep_stops_and_resumes(tmp_path: Path) -> None:
    """A sweep whose folder is renamed stops at once and resumes under its new name."""
    grid = ("-m", *SHARED, FaultInjector.SETTING, "hydra.launcher.jobs=2", "seed=0,1,2")
    inject_faults(tmp_path, {0: "hold", 1: "hold"})
    with spawn("src.train", *grid, "name=before", cwd=tmp_path) as parent:
        wait_for_second_epoch(tmp_path, 0, 1)
        (tmp_path / "outputs/sweeps/before").rename(tmp_path / "outputs/sweeps/after")
        outcome = wait_for_exit(parent)
    assert outcome.error.startswith("error: outputs/sweeps/before is gone: it was removed or renamed while the sweep")
    assert not (tmp_path / "outputs/sweeps/before").exists()
    inject_faults(tmp_path, {})
    again = run("src.train", *grid, "name=after", cwd=tmp_path)
    assert again.code == 0 and "3 jobs: 2 to resume, 1 to do" in again.out
    assert [note.event for note in read_events(tmp_path) if note.number == 0] == ["1", "2", "2", "test"]


def test_unwritable_sweep_files_are_reported_last(tmp_path: Path) -> None:
    """Files of a sweep that cannot be written are reported once its jobs have finished."""
    grid = ("-m", *SHARED, "seed=0", "name=blocked")
    assert run("src.train", *grid, cwd=tmp_path).code == 0
    folder = tmp_path / "outputs/sweeps/blocked"
    for name in ("results.csv", "report.html"):
        (folder / name).unlink()
        (folder / name).mkdir()
    outcome = run("src.train", *grid[:-2], "seed=0,1", "name=blocked", cwd=tmp_path)
    assert outcome.error.startswith("error: outputs/sweeps/blocked/results.csv cannot be written (Is a directory)")
    assert [job.status["status"] for job in read_jobs(folder)] == ["finished"] * 2


def test_job_held_elsewhere_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that another process is running is reported as held, and its status stays as it is."""
    monkeypatch.setattr(endings, "LOCK_TIMEOUT", 0.1)
    grid = ("-m", *SHARED, "seed=0", "name=held")
    assert run("src.train", *grid, cwd=tmp_path).code == 0
    (job,) = read_sweep_jobs(tmp_path, "held")
    job.write_status("running")
    with FileLock(job.folder / ".lock"):
        outcome = run("src.train", *grid, cwd=tmp_path)
    assert "FAILED, held: another process is running it" in outcome.out
    assert "1 unfinished of 1 jobs" in outcome.error and job.status["status"] == "running"
    assert run("src.train", *grid, cwd=tmp_path).code == 0


# Jobs as one


STACK = ("-m", "hydra/launcher=vectorized", *BARE, "trainer=cpu", "data.batch_size=1", "trainer.max_epochs=40")
SEEDS = ("model.hidden_size=4", "optimizer.lr=0.01", "hydra.launcher.jobs=1", "seed=0,1,2", "name=stack")


def test_lost_folder_spares_rest_of_stack(tmp_path: Path) -> None:
    """A job of a stack that loses its folder does not affect the other jobs."""
    folder = tmp_path / "outputs/sweeps/stack"
    with spawn("src.train", *STACK, *SEEDS, cwd=tmp_path) as parent:
        wait_for(lambda: list(folder.glob("stacks/*.ckpt")), "a state of the stack")
        (folder / "1_seed-1").rename(tmp_path / "taken")
        outcome = wait_for_exit(parent)
    assert outcome.error.startswith("error: 1 failed of 3 jobs; resume with: ")
    assert (
        "failed: outputs/sweeps/stack/1_seed-1 (folder lost): its folder was removed while the sweep ran" in outcome.out
    )
    assert [row["status"] for row in read_rows(tmp_path, "stack")] == ["finished", "failed", "finished"]
    assert run("src.train", *STACK, *SEEDS, cwd=tmp_path).code == 0


# On a cluster


class FakeCluster:
    """A cluster that does a job at each look, by writing that it has finished; before that something is done to it."""

    def __init__(self, before: dict[int, Callable[[Path], None]]) -> None:
        self.before = before

    def submit(self, errands: list[RemoteJob]) -> list[Any]:
        return [errand.spec.folder for errand in errands]

    def poll(self, tasks: list[Any]) -> list[Any]:
        task = tasks[0]
        self.before.get(int(task.name), lambda _: None)(task)
        if task.is_dir():
            (task / "metrics.json").write_text('{"monitor": null, "best": null}')
            Job(task, 0, "", [], {}, {}).write_status("finished")
        return [task]

    def get_status(self, task: Any) -> Status:
        return {"status": "failed", "reason": "error", "message": "its machine has no such folder"}

    def cancel(self, tasks: list[Any]) -> None:
        raise AssertionError("nothing is to be stopped")


def test_lost_folders_spare_other_cluster_jobs(tmp_path: Path) -> None:
    """Jobs on a cluster whose folders are lost do not affect the others."""

    def refuse() -> None:
        pass

    told: dict[str, Any] = {"overrides": [], "choices": {}, "settings": {}}
    jobs = [create_job(tmp_path / str(number), number, {"identity": f"{number:016}", **told}) for number in range(4)]
    shutil.rmtree(jobs[0].folder)
    machines = FakeCluster({1: shutil.rmtree, 2: lambda folder: (folder / "job.json").unlink()})
    with SweepMonitor(tmp_path, refuse) as watch:
        watch.add_jobs(jobs[1:])
        watch.display.progress.add_jobs({0: "0"}, 0)
        run_on_cluster(
            machines, jobs, lambda job: RemoteJob(JobSpec(b"", job.folder, "", {}, []), "", tmp_path, None), watch
        )
    statuses = [(job.status["status"], job.status["reason"]) for job in read_jobs(tmp_path)]
    assert statuses == [("failed", "folder lost"), ("failed", "folder lost"), ("finished", None), ("finished", None)]
