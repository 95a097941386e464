"""How much each setting of a search matters, and how sure that is."""

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

MIN_TRIALS = 10  # complete trials needed to estimate importances
GOOD_FRACTION = 0.5  # fraction of the trials that counts as good; a smaller one makes the estimate less certain
RESAMPLES = 200  # for the intervals
MAX_RESAMPLED = 1000  # complete trials up to which there are intervals, since their time grows with the trials


def estimate_importance(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> dict[str, float]:
    """Estimate how much each setting matters for a trial to be in the better half, the most important first.

    The fractions add up to 1; empty with fewer than ``MIN_TRIALS`` complete trials. By PED-ANOVA
    (https://arxiv.org/abs/2304.10255).
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return _compute_importance(complete, directions) if len(complete) >= MIN_TRIALS else {}


def estimate_intervals(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> dict[str, tuple[float, float]]:
    """Return a 95% interval of each importance: what it is in resamples of the trials (percentile bootstrap).

    Empty where there are no importances, or more than ``MAX_RESAMPLED`` complete trials.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not MIN_TRIALS <= len(complete) <= MAX_RESAMPLED:
        return {}
    names, generator = sorted(complete[0].params), np.random.default_rng(0)
    found = []
    for drawn in generator.integers(len(complete), size=(RESAMPLES, len(complete))):
        importance = _compute_importance([complete[index] for index in drawn], directions)
        found.append([importance.get(name, 0.0) for name in names])
    low, high = np.percentile(np.array(found), [2.5, 97.5], axis=0)
    return {name: (float(low[index]), float(high[index])) for index, name in enumerate(names)}


def _compute_importance(complete: list[FrozenTrial], directions: Sequence[StudyDirection]) -> dict[str, float]:
    study = optuna.create_study(directions=list(directions))
    study.add_trials(complete)
    with warnings.catch_warnings(action="ignore"):
        evaluator = PedAnovaImportanceEvaluator(target_quantile=GOOD_FRACTION)
        return get_param_importances(study, evaluator=evaluator)
