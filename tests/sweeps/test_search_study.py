"""A search's trials: what is suggested, what is kept, and how surely it is told what mattered."""

import math
from pathlib import Path

import optuna
import pytest

from src.core.errors import InputError
from src.sweeps.search.importance import estimate_importance, estimate_intervals
from src.sweeps.search.space import SearchSpace, read_space
from src.sweeps.search.study import Study, StudyInfo

INFO = StudyInfo("val/acc", "max", {"hydra.sweeper.seed": 0})


@pytest.fixture
def space() -> SearchSpace:
    typed = ["lr=tag(log,interval(1e-4,1e-1))", "width=interval(1,100)", "dropout=interval(0,0.5)", "norm=true,false"]
    return read_space(typed, None)


def start_study(path: Path, space: SearchSpace, sampler: str = "tpe", seed: int = 0) -> Study:
    study = Study(path / "study.journal", space, sampler, seed)
    study.start(INFO)
    return study


def score(trial: optuna.trial.FrozenTrial) -> float:
    """The rate matters by far the most: best at 1e-2."""
    return 1 - 0.1 * abs(math.log10(trial.params["lr"]) + 2) + 1e-4 * trial.params["width"]


def run_trials(study: Study, trials: int, at_once: int = 4) -> list[dict[str, float]]:
    while len(study.trials) < trials:
        for _ in range(at_once):
            study.suggest_trial()
        for trial in study.running_trials:
            study.record_result(trial.number, score(trial))
    return [trial.params for trial in study.trials]


def test_suggestions_survive_restarts(space: SearchSpace, tmp_path: Path) -> None:
    """Suggestions depend on the trials and the seed, not on the process."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    whole = run_trials(start_study(tmp_path / "one", space), 20)
    start_study(tmp_path / "other", space).suggest_trial()
    for number in range(20):
        again = Study(tmp_path / "other" / "study.journal", space, "tpe", 0)  # as after a kill, at any moment
        if len(again.trials) < min(20, number // 4 * 4 + 4):
            again.suggest_trial()
        elif number % 4 == 3:
            for trial in again.running_trials:
                again.record_result(trial.number, score(trial))
        if number % 4 == 3:
            again = Study(tmp_path / "other" / "study.journal", space, "tpe", 0)
            while len(again.trials) % 4:
                again.suggest_trial()
            for trial in again.running_trials:
                again.record_result(trial.number, score(trial))
    assert [trial.params for trial in again.trials] == whole[: len(again.trials)]
    assert len(again.trials) == 20


def test_seeds_and_trials_draw_different_values(space: SearchSpace, tmp_path: Path) -> None:
    """Each seed and each trial suggests different values."""
    found = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        found += run_trials(start_study(tmp_path / str(seed), space, "random", seed), 8)
    assert len({params["lr"] for params in found}) == 16


def test_tpe_beats_random_search(space: SearchSpace, tmp_path: Path) -> None:
    means = {}
    for sampler in ("tpe", "random"):
        (tmp_path / sampler).mkdir()
        run_trials(study := start_study(tmp_path / sampler, space, sampler), 40)
        last = [trial.value or 0.0 for trial in study.trials[20:]]
        means[sampler] = sum(last) / len(last)
    assert means["tpe"] > means["random"] + 0.03


def test_failed_trial_has_no_value(space: SearchSpace, tmp_path: Path) -> None:
    study = start_study(tmp_path, space)
    study.suggest_trial()
    study.record_result(0, None)
    assert (study.trials[0].state.name, study.trials[0].value) == ("FAIL", None)
    assert study.running_trials == []


def test_study_info_is_saved(space: SearchSpace, tmp_path: Path) -> None:
    study = start_study(tmp_path, space)
    study.suggest_trial()
    assert Study(study.path, space, "tpe", 0).info == INFO


def test_study_without_trials_has_no_info(space: SearchSpace, tmp_path: Path) -> None:
    study = start_study(tmp_path, space)
    assert Study(study.path, space, "tpe", 0).info is None


def test_damaged_journal_is_refused(space: SearchSpace, tmp_path: Path) -> None:
    """A damaged journal gives a one-line error."""
    study = start_study(tmp_path, space)
    study.path.write_text("no journal\n" + study.path.read_text())
    with pytest.raises(InputError, match=r"study.journal is damaged \(line 1 is damaged\): remove it, and"):
        Study(study.path, space, "tpe", 0)


def test_leftover_optuna_lock_is_ignored(space: SearchSpace, tmp_path: Path) -> None:
    """A lock that another program has left does not delay a search."""
    study = start_study(tmp_path, space)
    study.suggest_trial()
    (tmp_path / "study.journal.lock").symlink_to(study.path)
    Study(study.path, space, "tpe", 0).suggest_trial()  # Optuna itself would wait for half a minute
    assert len(Study(study.path, space, "tpe", 0).trials) == 2


def test_decisive_setting_is_most_important(space: SearchSpace, tmp_path: Path) -> None:
    """The setting that decides the result has the highest importance, and an interval above those of the others."""
    study = start_study(tmp_path, space, "random")
    run_trials(study, 8)
    assert estimate_importance(study.trials, study.directions) == {}  # too few to tell
    assert estimate_intervals(study.trials, study.directions) == {}
    run_trials(study, 40)
    found = estimate_importance(study.trials, study.directions)
    assert next(iter(found)) == "lr" and found["lr"] > 0.6
    assert sum(found.values()) == pytest.approx(1)
    intervals = estimate_intervals(study.trials, study.directions)
    assert intervals["lr"][0] > max(high for name, (_, high) in intervals.items() if name != "lr")
    assert all(0 <= low < high <= 1 for low, high in intervals.values())
