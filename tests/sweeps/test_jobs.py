"""What makes a job of a sweep itself, and what a sweep that goes on does with the jobs that are there."""

import re
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from src.storage.configs import read_config
from src.sweeps.store.jobs import compute_identity, read_jobs
from tests.command_line import BARE, Outcome, drop_seconds, evaluate, read_json, run
from tests.trouble import FaultInjector, inject_faults, read_events

QUICK = (*BARE, FaultInjector.SETTING, "trainer.max_epochs=2", "model.hidden_size=3")
RATES = "optimizer.lr=0.1,0.01"
NAMES = ["0_lr-0.1", "1_lr-0.01"]


def sweep(*arguments: str, cwd: Path) -> Outcome:
    return run("src.train", "-m", *QUICK, "name=swept", *arguments, cwd=cwd)


def names(cwd: Path) -> list[str]:
    return [job.folder.name for job in read_jobs(cwd / "outputs/sweeps/swept")]


def statuses(cwd: Path) -> list[str]:
    return [job.status["status"] for job in read_jobs(cwd / "outputs/sweeps/swept")]


def list_tested_jobs(cwd: Path) -> list[int]:
    """The numbers of the jobs that have come to their ends, once for each time."""
    return sorted(note.number for note in read_events(cwd) if note.event == "test")


def files(cwd: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (cwd / "outputs").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a sweep of two jobs has finished."""
    cwd = tmp_path_factory.mktemp("made")
    inject_faults(cwd, {})
    outcome = sweep(RATES, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return cwd


@pytest.fixture
def cwd(made: Path, tmp_path: Path) -> Path:
    """A copy of that."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


# What a job is


def test_identity_depends_on_settings_only() -> None:
    """A job's identity depends on its settings, not on paths, devices or threads."""
    settings = {"optimizer.lr": 0.1, "seed": 0, "data.order_seed": 0}
    apart = {"paths.data": "data", "threads": 2, "name": "x", "rerun": "all", "trainer.accelerator": "cpu"}
    same = compute_identity(settings)
    assert compute_identity(dict(reversed(settings.items())) | apart) == same
    assert compute_identity(settings | {"optimizer.lr": 0.10000001}) != same
    assert compute_identity(settings | {"seed": None}) != same
    assert compute_identity(settings | {"model.threads": 2}) != same


def test_equivalent_overrides_run_once(tmp_path: Path) -> None:
    """Equal jobs that were typed in different ways run once."""
    inject_faults(tmp_path, {})
    outcome = sweep("optimizer.lr=0.1,1e-1,.1,0.10,0.01", "seed=0", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert "2 jobs: 2 to do" in outcome.out
    assert list_tested_jobs(tmp_path) == [0, 1]
    assert names(tmp_path) == ["0_lr-0.1", "1_lr-0.01"]


def test_finished_sweep_is_not_repeated(cwd: Path) -> None:
    before = {path: content for path, content in files(cwd).items() if path.parent.name in NAMES}
    outcome = sweep(RATES, cwd=cwd)
    assert outcome.code == 0
    assert re.search(r"2 jobs: 2 finished before( \(commit [0-9a-f]{7}\))?\n", outcome.out)
    assert list_tested_jobs(cwd) == [0, 1]
    assert {path: path.read_bytes() for path in before} == before


def test_machine_settings_keep_job_identity(cwd: Path) -> None:
    """With other paths, threads or devices a finished job is not run again."""
    elsewhere = ("threads=1", "paths.data=elsewhere", "trainer=cpu", "trainer.accelerator=cpu")
    outcome = sweep("optimizer.lr=1e-1,1e-2", *elsewhere, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert "2 finished before" in outcome.out
    assert list_tested_jobs(cwd) == [0, 1]


def test_new_values_add_jobs(cwd: Path) -> None:
    """New values add jobs with the next numbers; the existing jobs keep theirs."""
    outcome = sweep("optimizer.lr=1,0.01,0.1", "data.noise=0.01,0.1", cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert "6 jobs: 2 finished before" in outcome.out and "4 to do" in outcome.out
    added = ["2_lr-1_noise-0.01", "3_lr-1_noise-0.1", "4_lr-0.01_noise-0.1", "5_lr-0.1_noise-0.1"]
    assert names(cwd) == [*NAMES, *added]
    assert list_tested_jobs(cwd) == [0, 1, 2, 3, 4, 5]


def test_folder_names_work_with_eval(tmp_path: Path) -> None:
    """Folders have plain names, which the evaluation accepts."""
    inject_faults(tmp_path, {})
    odd = ("model.hidden_size=[4,4],[]", "model.activation=relu,'re lu/ü (1)'")
    outcome = run("src.train", "-m", *QUICK[:-1], "name=swept", *odd, cwd=tmp_path)
    assert outcome.code == 1
    assert names(tmp_path) == [
        "0_hidden_size-4-4_activation-relu",
        "1_hidden_size-4-4_activation-re-lu-ü-1",
        "2_hidden_size-_activation-relu",
        "3_hidden_size-_activation-re-lu-ü-1",
    ]
    assert statuses(tmp_path) == ["finished", "failed"] * 2
    evaluate("run=outputs/sweeps/swept/0_hidden_size-4-4_activation-relu", cwd=tmp_path)


# Running again


def test_rerun_failed_restarts_failed_jobs(cwd: Path) -> None:
    """With rerun=failed, failed jobs are run again from the beginning."""
    inject_faults(cwd, {2: "raise"})
    assert sweep("optimizer.lr=0.1,1", cwd=cwd).code == 1
    inject_faults(cwd, {})
    outcome = sweep("optimizer.lr=0.1,0.01,1", "rerun=failed", cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert "2 finished before" in outcome.out and "1 to do" in outcome.out
    assert [note.event for note in read_events(cwd) if note.number == 2] == ["1", "2", "1", "2", "test"]
    assert list_tested_jobs(cwd) == [0, 1, 2]


def test_rerun_all_restarts_every_job(cwd: Path) -> None:
    """With rerun=all, all jobs are run again from the beginning."""
    outcome = sweep(RATES, "rerun=all", cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert "2 jobs: 2 to do" in outcome.out
    assert [note.event for note in read_events(cwd) if note.number == 1] == ["1", "2", "test"] * 2
    assert names(cwd) == NAMES


def test_unknown_rerun_value_is_refused(cwd: Path) -> None:
    """Any value of rerun other than failed and all is refused."""
    before = files(cwd)
    assert sweep(RATES, "rerun=nonsense", cwd=cwd).error == (
        "error: rerun=nonsense: it must be failed or all, or left out"
    )
    assert files(cwd).items() <= before.items()


def test_single_run_refuses_rerun(tmp_path: Path) -> None:
    """The setting rerun is refused for a single run."""
    error = run("src.train", *BARE, "rerun=failed", cwd=tmp_path).error
    assert error.startswith("error: rerun=failed is for sweeps")
    assert not (tmp_path / "outputs").exists()


def test_resumed_job_keeps_random_seed(tmp_path: Path) -> None:
    """A job that drew its seed at random keeps it when it resumes."""
    inject_faults(tmp_path, {0: "exit"})
    assert sweep("seed=null", cwd=tmp_path).code == 1
    (job,) = read_jobs(tmp_path / "outputs/sweeps/swept")
    drawn = read_config(job.folder).seed
    inject_faults(tmp_path, {})
    assert sweep("seed=null", cwd=tmp_path).code == 0
    assert [note.event for note in read_events(tmp_path)] == ["1", "2", "2", "test"]
    assert job.metrics["seed"] == drawn and drawn > 0
    assert statuses(tmp_path) == ["finished"]


# What is there already, and is not as it should be


def test_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    """An existing folder of that name that is no sweep is refused and left untouched."""
    folder = tmp_path / "outputs/sweeps/swept"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    assert "outputs/sweeps/swept already exists: choose another name=" in sweep(RATES, cwd=tmp_path).error
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_sweep_in_use_is_refused(cwd: Path) -> None:
    """A sweep that another process is running is refused and left untouched."""
    before = files(cwd)
    with FileLock(cwd / "outputs/sweeps/swept/.lock"):
        assert "another process is running this sweep" in sweep("optimizer.lr=1", cwd=cwd).error
    assert names(cwd) == NAMES
    assert files(cwd).items() <= before.items()


@pytest.mark.parametrize("damage", ["", "[1]", "{}", '{"status": 1}', '{"reason": "x"}'])
def test_job_with_damaged_status_resumes(damage: str, cwd: Path) -> None:
    (cwd / "outputs/sweeps/swept" / NAMES[0] / "status.json").write_text(damage)
    outcome = sweep(RATES, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert "1 finished before" in outcome.out and "1 to resume" in outcome.out
    assert list_tested_jobs(cwd) == [0, 0, 1]
    assert statuses(cwd) == ["finished"] * 2


def test_early_killed_start_is_continued(tmp_path: Path) -> None:
    """A sweep that was killed right after its start can be continued."""
    inject_faults(tmp_path, {})
    folder = tmp_path / "outputs/sweeps/swept"
    (folder / "0_lr-0.1").mkdir(parents=True)
    for name in (".lock", ".multirun.yaml.1f.partial", "0_lr-0.1/.job.json.2e.partial", "0_lr-0.1/status.json"):
        (folder / name).touch()
    (folder / "1_lr-0.01").mkdir()
    (folder / "1_lr-0.01/mine").touch()
    assert "already exists" in sweep(RATES, cwd=tmp_path).error  # not all of it is what such a start leaves
    (folder / "multirun.yaml").touch()
    outcome = sweep(RATES, cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert names(tmp_path) == ["0_lr-0.1", "2_lr-0.01"] and (folder / "1_lr-0.01/mine").exists()
    assert not list(folder.rglob("*.partial"))


def test_removed_job_is_run_again(cwd: Path) -> None:
    """A job whose folder was removed is run again."""
    shutil.rmtree(cwd / "outputs/sweeps/swept" / NAMES[0])
    outcome = sweep(RATES, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert names(cwd) == [NAMES[1], "2_lr-0.1"]
    assert len(read_events(cwd)) == 3 * 3


def test_truncated_checkpoint_fails_only_its_job(cwd: Path) -> None:
    """A truncated checkpoint fails only its own job, until that is run from the beginning."""
    folder = cwd / "outputs/sweeps/swept" / NAMES[0]
    checkpoint = folder / "checkpoints/last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    (folder / "status.json").write_text('{"status": "interrupted", "reason": "killed", "message": ""}')
    outcome = sweep("optimizer.lr=0.1,0.01,1", cwd=cwd)
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    assert statuses(cwd) == ["failed", "finished", "finished"]
    message = read_json(folder / "status.json")["message"]
    assert message.startswith("checkpoint ") and "last.ckpt is truncated" in message and "\n" not in message
    assert sweep(RATES, "rerun=failed", cwd=cwd).code == 0


def test_damaged_job_restarts_in_new_folder(cwd: Path) -> None:
    """A job with a damaged job.json starts again in a new folder; the old folder stays."""
    folder = cwd / "outputs/sweeps/swept" / NAMES[0]
    (folder / "job.json").write_text('{"number": 0}')
    before = {path: content for path, content in files(cwd).items() if path.is_relative_to(folder)}
    outcome = sweep(RATES, cwd=cwd)
    assert outcome.code == 0, outcome.text
    (line,) = [line for line in outcome.out.splitlines() if "damaged:" in line]
    assert line.startswith(f"outputs/sweeps/swept/{NAMES[0]}/job.json is damaged: identity is missing; overrides is")
    assert "2 jobs: 1 finished before" in outcome.out
    assert [job.folder.name for job in read_jobs(folder.parent)] == [*NAMES, "2_lr-0.1"]
    assert statuses(cwd) == ["damaged", "finished", "finished"]
    assert {path: content for path, content in files(cwd).items() if path.is_relative_to(folder)} == before


@pytest.mark.parametrize("damage", ['{"val/acc": "high"}', None])
def test_damaged_metrics_are_restored_by_testing(damage: str | None, cwd: Path) -> None:
    """A finished job with damaged metrics is tested again, with the same result."""
    path = cwd / "outputs/sweeps/swept" / NAMES[0] / "metrics.json"
    before = read_json(path)
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    outcome = sweep(RATES, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert f"outputs/sweeps/swept/{NAMES[0]}/metrics.json is " in outcome.out and "the job resumes" in outcome.out
    assert [note.event for note in read_events(cwd) if note.number == 0] == ["1", "2", "test", "test"]
    assert drop_seconds(read_json(path)) == drop_seconds(before)


# Hydra's own launcher


def test_basic_launcher_records_jobs(tmp_path: Path) -> None:
    """Jobs of Hydra's basic launcher are recorded in job.json as well."""
    outcome = run(
        "src.train", "-m", *BARE, "hydra/launcher=basic", "trainer.max_epochs=1", RATES, "name=swept", cwd=tmp_path
    )
    assert outcome.code == 0, outcome.text
    jobs = read_jobs(tmp_path / "outputs/sweeps/swept")
    assert [(job.number, job.folder.name, job.settings["optimizer.lr"]) for job in jobs] == [
        (0, "0_lr-0.1", 0.1),
        (1, "1_lr-0.01", 0.01),
    ]
    assert jobs[0].overrides == [*BARE, "trainer.max_epochs=1", "optimizer.lr=0.1", "name=swept"]
    assert jobs[0].choices["data"] == "xor"
    assert jobs[0].identity != jobs[1].identity
    assert [job.status["status"] for job in jobs] == ["finished"] * 2
