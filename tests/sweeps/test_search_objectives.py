"""Searches by several metrics: the Pareto front, as values, in the leaderboard and in the report; and by a process."""

import math
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from src.api import Sweep
from src.core.errors import InputError
from src.storage.files import write_json
from src.sweeps.report.write import load_sweeps, write_report
from src.sweeps.search.space import read_space
from src.sweeps.search.study import Study, StudyInfo
from src.sweeps.store.jobs import read_jobs
from src.sweeps.store.searches import find_front
from tests.command_line import BARE, Outcome, drop_overridden, read_json, run
from tests.sweeps.reports import Page, make_accuracy_job
from tests.sweeps.test_search import load_trials

OBJECTIVES = "hydra.sweeper.objectives={val/loss: min, parameters: min}"
SEARCH = (
    *("-m", "hydra/sweeper=optuna", *BARE, "data=cubic", "trainer.max_epochs=1", "hydra.launcher.jobs=3"),
    *("model.hidden_size=interval(1,400)", "hydra.sweeper.trials=6", "hydra.sweeper.at_once=3", "name=several"),
)


@pytest.mark.parametrize(
    ("points", "modes", "front"),
    [
        ([(1, 5), (2, 4), (3, 3), (3, 4), (2, 4), (9, 9)], "min min", [0, 1, 2, 4]),
        ([(0.9, 100), (0.8, 10), (0.7, 20), (0.9, 90)], "max min", [1, 3]),
        ([(1, 1, 1), (1, 2, 2), (1, 2, 1), (2, 2, 2)], "min min max", [0, 1]),
        ([(math.nan, 0), (1, math.inf), (2, 2)], "min min", [2]),
        ([(), ()], "", []),
    ],
)
def test_front_has_points_that_none_beats(points: list[tuple[float, ...]], modes: str, front: list[int]) -> None:
    """A point is on the front if no other is as good in each value and better in one; of equal ones all are."""
    assert [place for place, is_on in enumerate(find_front(points, modes.split())) if is_on] == front


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Where a search by loss and size ran, and what it printed."""
    cwd = tmp_path_factory.mktemp("several")
    outcome = run("src.train", *SEARCH, OBJECTIVES, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return cwd, outcome


def list_front(trials: list[FrozenTrial]) -> list[int]:
    """The numbers of the trials that no other beats, by comparing each with each."""
    return [
        one.number
        for one in trials
        if not any(
            all(a <= b for a, b in zip(other.values, one.values, strict=True)) and other.values != one.values
            for other in trials
        )
    ]


def test_trials_have_value_for_each_objective(several: tuple[Path, Outcome]) -> None:
    """The journal has each trial's loss and number of parameters, which any Optuna program can read."""
    cwd, outcome = several
    trials = load_trials(cwd, "several")
    for trial, job in zip(trials, read_jobs(cwd / "outputs" / "sweeps" / "several"), strict=True):
        assert trial.values == [job.metrics["best"], 3 * job.settings["model.hidden_size"] + 1]
    front = list_front(trials)
    assert f"Pareto front of 6 trials, {len(front)} that no other beats in val/loss and parameters:" in outcome.out
    for number in front:
        size = trials[number].params["model.hidden_size"]
        assert f"  {number}, val/loss {trials[number].values[0]:.4g}, parameters {3 * size + 1}, with" in outcome.out
    assert "chosen: " not in outcome.out and "evaluate one of them: " in outcome.out


def test_leaderboard_begins_with_front(several: tuple[Path, Outcome]) -> None:
    """The leaderboard lists the Pareto front first, and nothing is chosen."""
    cwd, outcome = several
    trials, folder = load_trials(cwd, "several"), cwd / "outputs" / "sweeps" / "several"
    front = sorted(list_front(trials), key=lambda number: trials[number].values)
    assert "Pareto front of val/loss and parameters (◆) first; best first by val/loss" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if line.strip().endswith(" 1") and "◆" in line]
    assert [int(row[0]) for row in rows] == [trials[number].params["model.hidden_size"] for number in front]
    with pytest.raises(InputError, match=r"it was judged by val/loss and parameters: choose among \.runs"):
        _ = Sweep(folder).best
    assert "Pareto front: " + ", ".join(map(str, front)) in Page(folder / "report.html").sections["search"]


def test_search_by_several_metrics_resumes(several: tuple[Path, Outcome]) -> None:
    """The same search runs nothing again; one by other metrics, or by one, is refused."""
    cwd = several[0]
    assert run("src.train", *SEARCH, OBJECTIVES, cwd=cwd).folders == []
    for other in ("hydra.sweeper.objectives={val/loss: min, parameters: max}", "hydra.sweeper.objectives=null"):
        outcome = run("src.train", *SEARCH, other, cwd=cwd)
        assert outcome.error.startswith(f"error: {other.replace('=', ' is ', 1)} and the search in outputs/sweeps")
        assert "has {val/loss: min, parameters: min}: use that value, or" in outcome.error


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("{val/loss: min}", "={val/loss: min} must be null or two or more metrics with min or max, such as"),
        ("{val/loss: low, parameters: min}", "={val/loss: low, parameters: min} must be null or two or more metrics"),
        ("{val/acc: max, parameters: min}", "=val/acc is never measured; this run measures "),
        ("{val/loss: min, test/loss: min}", ": test/loss chooses nothing, or it would no longer be a test"),
    ],
)
def test_unusable_objectives_are_refused(given: str, line: str, tmp_path: Path) -> None:
    """Metrics that cannot judge a trial are refused in one line."""
    outcome = run("src.train", *SEARCH, f"hydra.sweeper.objectives={given}", cwd=tmp_path)
    assert outcome.error.startswith(f"error: hydra.sweeper.objectives{line}"), outcome.error
    halved = run("src.train", *drop_overridden(*SEARCH, OBJECTIVES, "hydra.sweeper.pruner=halving"), cwd=tmp_path)
    assert "compares trials by one metric: leave out hydra.sweeper.objectives" in halved.error


FOUND = {"val/acc": [0.9, 0.8, 0.7, 0.95, None], "parameters": [100, 10, 20, 300, None]}  # None: failed


def make_search(folder: Path, **more: object) -> Path:
    """A search by accuracy and size with these results."""
    trials = []
    for number, (acc, size) in enumerate(zip(*FOUND.values(), strict=True)):
        status = {} if acc is not None else {"status": "failed", "reason": "diverged"}
        make_accuracy_job(folder, f"{number}_x", f"optimizer.lr={number + 1}", "data=xor", val=acc, **status)
        if acc is not None:
            metrics = folder / f"{number}_x" / "metrics.json"
            write_json(metrics, read_json(metrics) | {"parameters": size})
        state, values = ("failed", None) if acc is None else ("complete", [acc, size])
        trials.append({"number": number, "job": number, "state": state, "value": None, "values": values})
    about = {"sampler": "tpe", "metric": "val/acc", "mode": "max", "importance": {"optimizer.lr": 1.0}}
    objectives = {"val/acc": "max", "parameters": "min"}
    write_json(folder / "search.json", about | {"objectives": objectives, "trials": trials} | more)
    return folder


def test_report_draws_pareto_front(tmp_path: Path) -> None:
    """The report has a picture of the trials by both metrics, the front joined by a line, with its settings."""
    intervals = {"optimizer.lr": [0.25, 1.0]}
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", importance_intervals=intervals)])))
    (figure,) = [
        each for each in page.data if each.get("layout", {}).get("xaxis", {}).get("title") == {"text": "parameters"}
    ]
    dots, front = figure["data"]
    assert (dots["x"], dots["y"]) == ([20], [0.7])
    assert (front["x"], front["y"], front["line"]["shape"]) == ([10, 100, 300], [0.8, 0.9, 0.95], "hv")
    assert front["text"] == ["1: lr 2", "0: lr 1", "3: lr 4"]
    assert front["customdata"][0] == "trial 1: val/acc 80.00%, parameters 10"
    said = page.sections["search"]
    assert "one: 5 trials by tpe, 4 complete, 1 failed; 3 on the Pareto front: 1, 0, 3" in said
    assert "importances from 4 complete trials, which is few" in said
    (bars,) = [each["data"][0] for each in page.data if "layout" in each and each["layout"].get("barmode")]
    assert (bars["error_x"]["array"], bars["error_x"]["arrayminus"]) == ([0.0], [0.75])
    marks = [row[3] for row in page.rows if row[-1:] and row[0] in "12345" and "◆" in row]
    assert len(marks) == 3


@pytest.mark.parametrize(
    "more", [{"objectives": {"val/acc": "max"}}, {"importance_intervals": {"lr": [0.5]}}, {"objectives": {"a": 1}}]
)
def test_damaged_objectives_are_reported(more: dict[str, object], tmp_path: Path) -> None:
    """Values that do not belong to the objectives are damage, and the rest of the report is shown."""
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", **more)])))
    assert "search.json is damaged: " in page.text and "search" not in page.sections


@pytest.mark.parametrize("objectives", [None, {"val/acc": "max", "size": "min"}])
def test_gaussian_process_survives_restarts(objectives: dict[str, str] | None, tmp_path: Path) -> None:
    """A Gaussian process, too, suggests from the earlier trials and the number alone, by one metric or several."""
    space = read_space(["lr=tag(log,interval(1e-4,1e-1))", "norm=true,false"], None)
    found = []
    for name, restarts in (("whole", False), ("stopped", True)):
        path = tmp_path / name / "study.journal"
        path.parent.mkdir()
        study = Study(path, space, "gp", 0)
        study.start(StudyInfo("val/acc", "max", {"hydra.sweeper.seed": 0}, objectives))
        for number in range(12):
            study.suggest_trial(number // 2 * 2)
            if restarts:
                study = Study(path, space, "gp", 0)
            if number % 2:
                for trial in study.running_trials:
                    score = -abs(math.log10(trial.params["lr"]) + 2)
                    study.record_result(trial.number, [score, trial.params["lr"]] if objectives else score)
        found.append([trial.params for trial in study.trials])
        assert study.directions[0] == StudyDirection.MAXIMIZE and len(study.directions) == len(objectives or "1")
    assert found[0] == found[1]
    assert 10**-2.3 < found[0][-1]["lr"] < 10**-1.7 or objectives
