"""Searches whose trials are halved against each other: who goes on, and that kills and workers decide nothing."""

import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest

from src.sweeps.store.jobs import read_jobs
from tests.command_line import (
    BARE,
    Outcome,
    drop_overridden,
    is_identical,
    read_json,
    read_weights,
    run,
    spawn,
    train_bare,
)
from tests.sweeps.outcomes import read_csv
from tests.sweeps.reports import Page
from tests.sweeps.test_search import load_trials
from tests.trouble import FaultInjector, inject_faults, wait_for_second_epoch

RATE = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
SEARCH = (
    *("-m", "hydra/sweeper=optuna", *BARE, FaultInjector.SETTING, "data=cubic", "trainer=cpu", "trainer.max_epochs=3"),
    *("hydra.launcher.jobs=3", "hydra.sweeper.pruner=halving", "hydra.sweeper.factor=2", "hydra.sweeper.trials=6"),
    *("model.hidden_size=4", RATE, "name=halved"),
)  # groups of four and of two trials; rungs after epochs 1 and 2


def list_trials(cwd: Path) -> list[tuple[Any, ...]]:
    trials = load_trials(cwd, "halved")
    return [(each.number, each.state.name, each.params, each.value, each.intermediate_values) for each in trials]


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Where the search ran, and what it printed."""
    cwd = tmp_path_factory.mktemp("halved")
    inject_faults(cwd, {})
    outcome = run("src.train", *SEARCH, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return cwd, outcome


def test_group_is_halved_by_its_metric(halved: tuple[Path, Outcome]) -> None:
    """Of four trials two go on after epoch 1 and one after epoch 2; pruned trials have the value of their last rung."""
    cwd, outcome = halved
    trials, jobs = load_trials(cwd, "halved"), read_jobs(cwd / "outputs" / "sweeps" / "halved")
    losses = [[float(row["val/loss"]) for row in read_csv(job.folder / "history.csv")] for job in jobs]
    for group in (range(4), range(4, 6)):
        left = list(group)
        for rung in (1, 2):
            ranked = [number for _, number in sorted((min(losses[number][:rung]), number) for number in left)]
            left, pruned = ranked[: -(-len(left) // 2)], ranked[-(-len(left) // 2) :]
            for number in pruned:
                assert trials[number].state == optuna.trial.TrialState.PRUNED
                assert max(trials[number].intermediate_values) == rung == len(losses[number])
                assert trials[number].value == pytest.approx(min(losses[number]), abs=0)
        (best,) = left
        assert (trials[best].value, len(losses[best])) == (jobs[best].metrics["best"], 3)
    assert sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials) == 4
    assert "6 trials (tpe, halving): 6 to do" in outcome.out and "6 jobs, 2 finished, 4 pruned" in outcome.out
    assert (
        "after epoch 1: 2 of 4 settings go on; best: " in outcome.out and "best of 6 trials, 4 pruned: " in outcome.out
    )


def test_survivor_equals_plain_run(halved: tuple[Path, Outcome], tmp_path: Path) -> None:
    """A trial that goes on to its end is, bit for bit, a run with its settings."""
    cwd, _ = halved
    job = next(job for job in read_jobs(cwd / "outputs" / "sweeps" / "halved") if job.status["status"] == "finished")
    inject_faults(tmp_path, {})
    plain = train_bare(*job.overrides, *BARE, cwd=tmp_path).folder
    assert is_identical(read_weights(plain), read_weights(job.folder))
    assert read_csv(plain / "history.csv") == read_csv(job.folder / "history.csv")


@pytest.mark.parametrize(("lines", "lost"), [(12, [1]), (15, [4, 5])])
def test_stopped_halved_search_equals_whole_one(
    lines: int, lost: list[int], halved: tuple[Path, Outcome], tmp_path: Path
) -> None:
    """With part of the journal and some jobs missing, and one worker, the same command reaches the same trials."""
    shutil.copytree(halved[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "outputs" / "sweeps" / "halved"
    journal = folder / "study.journal"
    content = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(content[:lines]))
    assert list_trials(tmp_path) != list_trials(halved[0])
    for number in lost:
        shutil.rmtree(next(folder.glob(f"{number}_*")))
    outcome = run("src.train", *drop_overridden(*SEARCH, "hydra.launcher.jobs=1"), cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    assert list_trials(tmp_path) == list_trials(halved[0])


def test_report_shows_pruned_trials(halved: tuple[Path, Outcome]) -> None:
    """The report counts pruned trials and marks them with the value of their last rung, not as the best so far."""
    folder = halved[0] / "outputs" / "sweeps" / "halved"
    pruned = [each for each in read_json(folder / "search.json")["trials"] if each["state"] == "pruned"]
    page = Page(folder / "report.html")
    (figure,) = [
        each for each in page.data if each.get("layout", {}).get("xaxis", {}).get("title") == {"text": "trial"}
    ]
    traces = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
    assert (traces["pruned"]["x"], traces["pruned"]["y"]) == (
        [each["number"] for each in pruned],
        [each["value"] for each in pruned],
    )
    assert traces["pruned"]["customdata"][0].endswith(f", pruned after epoch {pruned[0]['epochs']}")
    assert len(traces["trials"]["x"]) == 2
    assert "halved: 6 trials by tpe, 2 complete, 4 pruned; best val/loss " in page.sections["search"]


def test_repeatedly_killed_trial_of_group_fails(tmp_path: Path) -> None:
    """A trial that is killed each time before a rung has failed, and the others of its group go on."""
    inject_faults(tmp_path, {0: "kill"})
    rungs = ("hydra.sweeper.min_epochs=2", "hydra.sweeper.at_once=2", "hydra.sweeper.trials=2")
    outcome = run("src.train", *drop_overridden(*SEARCH, *rungs), cwd=tmp_path)
    assert outcome.code == 0 and "1 of 2 trials failed" in outcome.out
    assert [each[1] for each in list_trials(tmp_path)] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["hydra.sweeper.factor=3", "hydra.sweeper.at_once=2"],
            "hydra.sweeper.at_once=2: hydra.sweeper.pruner=halving ",
        ),
        (
            ["hydra.sweeper.pruner=asha", "hydra.sweeper.at_once=2"],
            "hydra.sweeper.at_once=2: hydra.sweeper.pruner=asha ",
        ),
        (
            ["hydra.sweeper.pruner=asha", "hydra/launcher=vectorized"],
            "hydra.sweeper.pruner=asha needs hydra/launcher=local",
        ),
        (["hydra.sweeper.sampler=gp"], "hydra.sweeper.sampler=gp learns nothing from pruned trials: use tpe"),
        (["hydra.sweeper.pruner=none"], "hydra.sweeper.factor=2 needs hydra.sweeper.pruner=halving"),
        (["hydra.sweeper.min_epochs=3"], "hydra.sweeper.min_epochs=3 must be below trainer.max_epochs=3"),
        (
            ["trainer.max_epochs=2,3"],
            "hydra.sweeper.pruner=halving compares its jobs with each other, and they differ in",
        ),
        (["data=cubic,xor"], "hydra.sweeper.pruner=halving compares its jobs with each other, and they differ in"),
    ],
)
def test_unusable_pruner_is_refused(given: list[str], line: str, tmp_path: Path) -> None:
    """A search that cannot be halved is refused in one line and leaves no jobs."""
    outcome = run("src.train", *drop_overridden(*SEARCH, *given), cwd=tmp_path)
    assert outcome.error.startswith(f"error: {line}"), outcome.error
    assert outcome.folders == []


def test_changed_pruner_is_refused(halved: tuple[Path, Outcome]) -> None:
    """A search goes on with the pruner that it began with."""
    without = [each for each in SEARCH if not each.startswith("hydra.sweeper.factor")]
    outcome = run("src.train", *drop_overridden(*without, "hydra.sweeper.pruner=none"), cwd=halved[0])
    assert outcome.error.startswith("error: hydra.sweeper.pruner is none and the search in outputs/sweeps/halved has ")


def test_optuna_without_gp_is_refused(tmp_path: Path) -> None:
    """An Optuna that has no Gaussian process is named in one line."""
    with mock.patch.object(optuna, "samplers", object()):
        outcome = run("src.train", "-m", "hydra/sweeper=optuna", RATE, "hydra.sweeper.sampler=gp", cwd=tmp_path)
    assert outcome.error.startswith(f"error: hydra.sweeper.sampler=gp: Optuna {optuna.__version__} does not have it")


ASYNCHRONOUS = (
    *("hydra.sweeper.pruner=asha", "hydra.sweeper.min_epochs=2", "hydra.launcher.jobs=2", "hydra.sweeper.trials=5"),
    "name=asha",
)  # one rung, after epoch 2


def test_asynchronous_search_waits_for_none(tmp_path: Path) -> None:
    """Others are suggested while a trial is held; after a kill each gets its result, and the best goes on."""
    inject_faults(tmp_path, {0: "hold", 1: "kill"})
    with spawn("src.train", *drop_overridden(*SEARCH, *ASYNCHRONOUS), cwd=tmp_path) as parent:
        wait_for_second_epoch(tmp_path, 0, 4)
        parent.send_signal(signal.SIGKILL)
        parent.communicate(timeout=60)
    assert [trial.state.name for trial in load_trials(tmp_path, "asha")[:2]] == ["RUNNING", "FAIL"]
    inject_faults(tmp_path, {})
    outcome = run("src.train", *drop_overridden(*SEARCH, *ASYNCHRONOUS), cwd=tmp_path)
    assert outcome.code == 0 and "5 trials (tpe, asha): " in outcome.out, outcome.text
    assert "another start may come to other trials" in outcome.out
    trials, jobs = load_trials(tmp_path, "asha"), read_jobs(tmp_path / "outputs" / "sweeps" / "asha")
    best = {}
    for trial, job in zip(trials, jobs, strict=True):
        rows = [float(row["val/loss"]) for row in read_csv(job.folder / "history.csv")]
        best[trial.number] = min(rows[:2])
        finished = (trial.state.name, len(rows), trial.value) == ("COMPLETE", 3, job.metrics["best"])
        pruned = (trial.state.name, len(rows), trial.value) == ("PRUNED", 2, min(rows))
        assert finished or pruned or trial.number == 1
    assert trials[min(best.keys() - {1}, key=lambda number: best[number])].state.name == "COMPLETE"
