"""What a search has found: its best trial, or those on the Pareto front, as texts and for the report."""

import shlex
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from src.core.formatting import format_count, format_setting_value
from src.sweeps.search.space import SearchSpace
from src.sweeps.search.study import STATES, StudyInfo
from src.sweeps.store.aggregate import format_mean_std
from src.sweeps.store.jobs import Job
from src.sweeps.store.searches import find_front, format_objective

MAX_FRONT = 20  # trials of a front that are listed


def describe_trial(trial: FrozenTrial, job: Job, several: bool) -> dict[str, Any]:
    """Return a trial for the report; ``several``: it is judged by several metrics."""
    known = {"number": trial.number, "job": job.number, "state": STATES[trial.state]}
    if several:
        return {**known, "value": None, "values": trial.values}
    rungs = {"epochs": max(trial.intermediate_values)} if trial.intermediate_values else {}
    return {**known, "value": trial.value, **rungs}


def describe_outcome(trials: Sequence[FrozenTrial], info: StudyInfo, space: SearchSpace) -> str:
    """Return lines on the best trial, or on those on the Pareto front, with overrides for the command line."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    of = f"of {format_count(len(complete) + pruned, 'trial')}{f', {pruned} pruned' if pruned else ''}"
    if info.objectives:
        is_on_front = find_front([trial.values for trial in complete], info.judged_by.values())
        front = [trial for trial, is_on in zip(complete, is_on_front, strict=True) if is_on]
        front.sort(key=lambda trial: trial.values)
        title = f"Pareto front {of}, {len(front)} that no other beats in {' and '.join(info.judged_by)}:"
        lines = [f"  {_describe_front_trial(trial, info, space)}" for trial in front[:MAX_FRONT]]
        more = [f"  … and {len(front) - MAX_FRONT} more: see the report"] if len(front) > MAX_FRONT else []
        return "\n".join([title, *lines, *more])
    sign = -1 if info.mode == "max" else 1
    best = min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))
    value = format_mean_std(info.metric, [best.value or 0.0])
    return f"best {of}: {best.number}, {info.metric} {value}, with {_format_settings(best, space)}"


def _describe_front_trial(trial: FrozenTrial, info: StudyInfo, space: SearchSpace) -> str:
    pairs = zip(info.judged_by, trial.values, strict=True)
    values = ", ".join(f"{name} {format_objective(name, [value])}" for name, value in pairs)
    return f"{trial.number}, {values}, with {_format_settings(trial, space)}"


def _format_settings(trial: FrozenTrial, space: SearchSpace) -> str:
    """Return a trial's settings, ready to be typed."""
    return shlex.join(
        f"{setting.key}={format_setting_value(trial.params[setting.name])}" for setting in space.dimensions
    )
