"""Searches that go through everything: failures, kills, changed minds."""

import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from src.sweeps.store.jobs import Job, read_jobs
from tests.command_line import BARE, PROCESS_TIMEOUT, Outcome, drop_overridden, read_json, run, spawn, wait_for
from tests.trouble import FaultInjector, inject_faults, read_events, wait_for_second_epoch

SPACE = ("model.hidden_size=tag(log,interval(2,16))", "optimizer.lr=tag(log,interval(1e-3,1e-1))")
COMMON = ("-m", "hydra/sweeper=optuna", *BARE, "data=cubic", "hydra.launcher.jobs=3")
PLAN = ("hydra.sweeper.at_once=3", "hydra.sweeper.trials=13")
LONG = (*COMMON, FaultInjector.SETTING, *SPACE, *PLAN, "trainer.max_epochs=2", "name=long")
FAILING = {1: "raise", 4: "diverge"}  # ten of the first twelve come to a result: then TPE begins


def get_sweep_folder(cwd: Path, name: str = "long") -> Path:
    return cwd / "outputs" / "sweeps" / name


def load_trials(cwd: Path, name: str = "long") -> list[optuna.trial.FrozenTrial]:
    """A search's trials as any Optuna program sees them."""
    path = get_sweep_folder(cwd, name) / "study.journal"
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path)))).trials


def summarise_trials(cwd: Path, name: str = "long") -> list[tuple[Any, ...]]:
    return [(each.number, each.state.name, each.params, each.value) for each in load_trials(cwd, name)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    inject_faults(cwd, FAILING)
    return cwd, run("src.train", *LONG, cwd=cwd)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The same search, killed with its jobs when one of a batch was half done and the others were.

    In its second start the process of another trial is killed.
    """
    cwd = tmp_path_factory.mktemp("killed")
    inject_faults(cwd, FAILING | {10: "hold"})
    with spawn("src.train", *LONG, cwd=cwd) as parent:
        wait_for_second_epoch(cwd, 10)
        wait_for(lambda: {9, 11} <= {note.number for note in read_events(cwd) if note.event == "test"}, "the others")
        parent.send_signal(signal.SIGKILL)
        parent.communicate(timeout=60)
    inject_faults(cwd, FAILING | {12: "hold"})
    with spawn("src.train", *LONG, cwd=cwd) as parent:
        (worker,) = wait_for_second_epoch(cwd, 12)
        os.kill(worker, signal.SIGKILL)
        inject_faults(cwd, FAILING)
        out, err = parent.communicate(timeout=PROCESS_TIMEOUT)
    return cwd, Outcome(parent.returncode, out, err)


def test_killed_search_equals_uninterrupted_one(
    undisturbed: tuple[Path, Outcome], killed: tuple[Path, Outcome]
) -> None:
    """A killed and resumed search has the trials of the uninterrupted search."""
    assert summarise_trials(killed[0]) == summarise_trials(undisturbed[0])
    assert [each[:2] for each in summarise_trials(killed[0])] == [
        (number, "FAIL" if number in FAILING else "COMPLETE") for number in range(13)
    ]


def test_resumed_search_restarts_no_job(killed: tuple[Path, Outcome]) -> None:
    """Jobs that were finished or running when the search was killed do not start over."""
    assert "13 trials (tpe): 9 done before, 4 to do" in killed[1].out
    begun = [note.number for note in read_events(killed[0]) if note.event == "1"]
    assert sorted(begun) == list(range(13))


def test_killed_trial_resumes(killed: tuple[Path, Outcome]) -> None:
    """A trial whose process is killed runs again and resumes from its last checkpoint."""
    cwd, outcome = killed
    assert "FAILED, killed: by signal SIGKILL" in outcome.out and outcome.code == 0
    assert [note.event for note in read_events(cwd) if note.number == 12] == ["1", "2", "2", "test"]
    assert "2 of 13 trials failed" in outcome.out


def test_failed_trials_do_not_end_search(undisturbed: tuple[Path, Outcome]) -> None:
    """Failed trials are reported and do not end the search."""
    outcome = undisturbed[1]
    assert outcome.code == 0
    assert "2 of 13 trials failed" in outcome.out
    lines = [line for line in outcome.out.splitlines() if line.startswith("failed: ")]
    assert [line.split("long/")[1].split("_")[0] for line in lines] == ["1", "4"]
    assert "(diverged)" in lines[1]


def test_trial_value_is_best_monitored_metric(undisturbed: tuple[Path, Outcome]) -> None:
    jobs = {job.number: job for job in read_jobs(get_sweep_folder(undisturbed[0]))}
    for trial in load_trials(undisturbed[0]):
        job = jobs[trial.number]
        assert job.settings["model.hidden_size"] == trial.params["model.hidden_size"]
        assert job.settings["optimizer.lr"] == trial.params["optimizer.lr"]
        assert trial.value == (None if trial.number in FAILING else job.metrics["best"])
    value, number = min((each.value, each.number) for each in load_trials(undisturbed[0]) if each.value is not None)
    best = load_trials(undisturbed[0])[number]
    line = f"best of 11 trials: {number}, val/loss {value:.4g}, with"
    assert f"{line} model.hidden_size={best.params['model.hidden_size']}" in undisturbed[1].out


def test_search_json_has_all_trials(undisturbed: tuple[Path, Outcome]) -> None:
    found = read_json(get_sweep_folder(undisturbed[0]) / "search.json")
    assert (found["metric"], found["mode"], found["sampler"], found["seed"]) == ("val/loss", "min", "tpe", 0)
    assert [(each["number"], each["job"], each["value"]) for each in found["trials"]] == [
        (number, number, value) for number, _, _, value in summarise_trials(undisturbed[0])
    ]
    assert {each["number"] for each in found["trials"] if each["state"] == "failed"} == set(FAILING)
    assert sorted(found["importance"]) == ["model.hidden_size", "optimizer.lr"]
    assert sum(found["importance"].values()) == pytest.approx(1)


# Small ones

SMALL = (*COMMON, "trainer.max_epochs=1", "hydra.sweeper.at_once=2", "name=small")
WIDTH = "model.hidden_size=interval(1,100)"


def list_job_numbers(jobs: list[Job]) -> list[int]:
    return [job.number for job in jobs]


def test_search_extends_only_by_more_trials(tmp_path: Path) -> None:
    """A search is extended by a larger number of trials; the same number runs nothing."""
    first = run("src.train", *SMALL, WIDTH, "hydra.sweeper.trials=2", cwd=tmp_path)
    again = run("src.train", *SMALL, WIDTH, "hydra.sweeper.trials=2", cwd=tmp_path)
    before = summarise_trials(tmp_path, "small")
    longer = run("src.train", *SMALL, WIDTH, "hydra.sweeper.trials=3", cwd=tmp_path)
    assert [first.code, again.code, longer.code] == [0, 0, 0]
    assert [len(each.folders) for each in (first, again, longer)] == [2, 0, 1]
    assert len(before) == 2 and summarise_trials(tmp_path, "small")[:2] == before
    assert list_job_numbers(read_jobs(get_sweep_folder(tmp_path, "small"))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (["model.hidden_size=interval(1,50)"], "model.hidden_size is 1 to 50 (whole) and the search in "),
        ([WIDTH, "model.dropout=0,0.5"], "model.dropout is 0, 0.5 and the search in outputs/sweeps/small has 0.0: "),
        ([WIDTH, "hydra.sweeper.sampler=random"], "hydra.sweeper.sampler is random and the search in "),
        ([WIDTH, "hydra.sweeper.seed=1"], "hydra.sweeper.seed is 1 and the search in outputs/sweeps/small has 0: "),
        ([WIDTH, "trainer.max_epochs=2"], "trainer.max_epochs is 2 and the search in outputs/sweeps/small has 1: "),
        ([WIDTH, "rerun=failed"], "rerun=failed does not go with hydra/sweeper=optuna: "),
    ],
)
def test_changed_search_is_refused(changed: list[str], line: str, small: Path) -> None:
    """A search with other settings is refused in the folder of an existing search."""
    before = (get_sweep_folder(small, "small") / "study.journal").read_bytes()
    outcome = run("src.train", *drop_overridden(*SMALL, *changed), "hydra.sweeper.trials=9", cwd=small)
    assert outcome.error.startswith(f"error: {line}"), outcome.error
    assert (get_sweep_folder(small, "small") / "study.journal").read_bytes() == before


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("small")
    assert run("src.train", *SMALL, WIDTH, "hydra.sweeper.trials=1", cwd=cwd).code == 0
    return cwd


def test_setting_order_and_device_keep_search(tmp_path: Path) -> None:
    """The order of the settings, the device and the threads do not make another search."""
    both = (WIDTH, "model.dropout=interval(0,0.5)")
    for given in (both, (*both[::-1], "threads=1", "trainer.accelerator=cpu")):
        assert run("src.train", *SMALL, *given, "hydra.sweeper.trials=2", cwd=tmp_path).code == 0
    assert len(summarise_trials(tmp_path, "small")) == 2


def test_equal_trials_share_one_job(tmp_path: Path) -> None:
    """Trials with equal settings are one job, whose result counts for each of them."""
    outcome = run("src.train", *SMALL, "model.hidden_size=2,3", "hydra.sweeper.trials=6", cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert len(outcome.folders) == 2
    values = {str(params): value for _, _, params, value in summarise_trials(tmp_path, "small")}
    assert len(summarise_trials(tmp_path, "small")) == 6 and len(set(values.values())) == 2
    assert "6 trials" in outcome.out and "2 jobs, 2 finished" in outcome.out


def test_search_fails_if_all_trials_fail(tmp_path: Path) -> None:
    outcome = run("src.train", *SMALL, "model.hidden_size=0,-1", "hydra.sweeper.trials=2", cwd=tmp_path)
    assert outcome.error == "error: 2 of 2 trials failed: see the reasons above"
    assert {each[1] for each in summarise_trials(tmp_path, "small")} == {"FAIL"}
    assert "model.hidden_size=-1 must be" in outcome.out or "model.hidden_size=0 must be" in outcome.out


def test_search_refuses_folder_of_plain_sweep(tmp_path: Path) -> None:
    """A search is refused in the folder of a sweep that is not a search."""
    assert run("src.train", "-m", *BARE, "trainer.max_epochs=1", "seed=0", "name=small", cwd=tmp_path).code == 0
    outcome = run("src.train", *SMALL, WIDTH, cwd=tmp_path)
    assert outcome.error.startswith("error: outputs/sweeps/small has the jobs of a sweep that is not a search")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["model.hidden_size=3"], "hydra/sweeper=optuna has nothing to search: give a setting several values"),
        ([WIDTH, "data.val_size=0"], "a search needs a validation set to judge its trials by"),
        ([WIDTH, "hydra.sweeper.trials=0"], "hydra.sweeper.trials=0 must be a whole number from 1 to 1,000,000"),
        (
            [WIDTH, "hydra.sweeper.at_once=two"],
            "hydra.sweeper.at_once=two must be null or a whole number from 1 to 1,000",
        ),
        ([WIDTH, "hydra.sweeper.sampler=grid"], "hydra.sweeper.sampler=grid must be tpe, gp or random"),
        ([WIDTH, "hydra.sweeper.seed=-1"], "hydra.sweeper.seed=-1 must be a whole number from 0 to 2³²−1"),
        ([WIDTH, "hydra/launcher=basic"], "hydra/sweeper=optuna needs hydra/launcher=local, vectorized, ray or slurm"),
        (["model.width=interval(1,2)"], "there is no setting model.width"),
        (["model=mlp,cmm"], "model=cmm: there is no such choice"),
        (
            ["optimizer.lr=interval(1,0.1)"],
            "optimizer.lr=interval(1,0.1) cannot be searched: its lower bound must come",
        ),
    ],
)
def test_invalid_search_is_refused(given: list[str], line: str, tmp_path: Path) -> None:
    """An invalid search gives a one-line error and creates no jobs."""
    common = [each for each in SMALL if each != "hydra.launcher.jobs=3" or "hydra/launcher=basic" not in given]
    outcome = run("src.train", *drop_overridden(*common, *given), cwd=tmp_path)
    assert outcome.error.startswith(f"error: {line}"), outcome.error
    assert outcome.folders == []
    assert not list(tmp_path.glob("outputs/sweeps/small/*/job.json"))


def test_missing_optuna_is_refused(tmp_path: Path) -> None:
    """Without Optuna the error names the missing package."""
    with mock.patch("src.core.extras.find_spec", return_value=None):
        outcome = run("src.train", *SMALL, WIDTH, cwd=tmp_path)
    assert outcome.error.startswith("error: hydra/sweeper=optuna needs the package optuna, which is not installed: ")


def test_repeatedly_killed_trial_fails(tmp_path: Path) -> None:
    """A trial that is killed each time fails, and the search runs the next one."""
    inject_faults(tmp_path, {0: "kill"})
    plan = ("trainer.max_epochs=2", "hydra.sweeper.trials=2", "hydra.sweeper.at_once=1")
    outcome = run("src.train", *COMMON, FaultInjector.SETTING, WIDTH, *plan, "name=small", cwd=tmp_path)
    assert outcome.code == 0 and "1 of 2 trials failed" in outcome.out
    assert [each[1] for each in summarise_trials(tmp_path, "small")] == ["FAIL", "COMPLETE"]
    assert [note.event for note in read_events(tmp_path) if note.number == 0] == ["1", "2", "2", "2"]


def test_lost_journal_is_rebuilt(small: Path) -> None:
    """A search refuses a damaged journal and rebuilds a lost one without running trials again."""
    journal, command = get_sweep_folder(small, "small") / "study.journal", (*SMALL, WIDTH, "hydra.sweeper.trials=2")
    assert run("src.train", *command, cwd=small).code == 0
    before, jobs = (
        summarise_trials(small, "small"),
        {path: path.stat().st_mtime_ns for path in small.rglob("metrics.json")},
    )
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"trial", b"trail", 1))
    assert run("src.train", *command, cwd=small).error.startswith(
        "error: outputs/sweeps/small/study.journal is damaged (line "
    )
    journal.unlink()
    other = run("src.train", *command, "hydra.sweeper.seed=1", cwd=small)
    assert other.error.startswith("error: hydra.sweeper.seed is 1 and the search in outputs/sweeps/small has 0")
    outcome = run("src.train", *command, cwd=small)
    assert outcome.code == 0 and summarise_trials(small, "small") == before
    assert {path: path.stat().st_mtime_ns for path in small.rglob("metrics.json")} == jobs


def test_torn_journal_line_is_skipped(small: Path) -> None:
    """Half a line that a killed process has left in the journal is skipped."""
    journal = get_sweep_folder(small, "small") / "study.journal"
    before = summarise_trials(small, "small")
    with journal.open("a") as file:
        file.write(json.dumps({"op_code": 4, "worker_id": "x"})[:20])
    assert run("src.train", *SMALL, WIDTH, "hydra.sweeper.trials=3", cwd=small).code == 0
    assert summarise_trials(small, "small")[: len(before)] == before and len(summarise_trials(small, "small")) == 3
