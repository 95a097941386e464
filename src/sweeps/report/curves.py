"""Collect the learning curves of all runs, subsampled so that a page of a thousand runs opens in seconds."""

import math
from typing import Any

from src.core.axes import find_curves_range
from src.core.formatting import get_short_names, is_fraction
from src.sweeps.report.plots import (
    PlotlyFigure,
    collect_effects,
    format_run,
    make_metric_axis,
    to_plotly_text,
)
from src.sweeps.report.reading import History, Sweeps
from src.sweeps.store.aggregate import is_logarithmic
from src.sweeps.store.levels import ABSENT, Levels, split_into_levels
from src.sweeps.store.runs import Run

STAGES = ("train", "val")
METRICS = ("acc", "loss")
MAX_VALUES = 160_000  # values in all curves together
MAX_POINTS, MIN_POINTS = 400, 12  # limits for the points of one curve
Line = tuple[Any, list[float]]  # epochs (or the index of a list of epochs) and values


def collect_curves(sweeps: Sweeps) -> dict[str, Any]:
    """Return the data from which the page draws the learning curves, as a JSON-like dictionary.

    Returns:
        ``_find_metrics``: the metrics' names, the monitored one first.
        ``data``: the data sets, each of which gets its own plot.
        ``axes``: for each data set the axis of each metric that it has, and a text on the runs that go beyond it.
        ``epochs``: lists of epochs, to which the curves refer by index.
        ``thinned``: the largest number of points of a curve, 0 if no curve was subsampled.
        ``_group_runs``: the ways to colour the runs, each with its ``title``, its ``name`` and ``labels`` for plotly, a
        flag ``ordered`` for numbers, and the level ``of`` each run.
        ``runs``: each with its ``name``, the index of its ``data``, the mean ``seconds`` per epoch, a flag
        ``finished``, and its ``lines``: by names such as "train/loss" the index of the list of epochs and the values.
        Runs without a curve are left out, so ``runs`` may be empty.
    """
    names = _find_metrics(sweeps)
    lines = [_extract_lines(history, names) for history in sweeps.histories]
    drawn = [index for index, each in enumerate(lines) if each]
    # More runs get fewer points each, so that the size of the page stays bounded.
    points = max(MIN_POINTS, min(MAX_POINTS, MAX_VALUES // max(1, sum(map(len, lines)))))
    steps = _compute_strides(lines, points)
    epochs: dict[tuple[int, ...], int] = {}
    data = list(dict.fromkeys(sweeps.runs[index].data for index in drawn))
    return {
        "metrics": names,
        "data": [each or "other data" for each in data],
        "axes": [
            _find_axes(names, [lines[index] for index in drawn if sweeps.runs[index].data == each]) for each in data
        ],
        "thinned": points if any(step > 1 for step in steps.values()) else 0,
        "groups": [
            {"title": name, "name": to_plotly_text(name), "labels": [to_plotly_text(label) for label in found.labels]}
            | {"ordered": found.is_numeric, "of": [found.codes[index] for index in drawn]}
            for name, found in _group_runs(sweeps).items()
        ],
        "runs": [
            {
                "name": format_run(run := sweeps.runs[index]),
                "data": data.index(run.data),
                "seconds": _measure_epoch(run),
                "finished": run.status == "finished",
                "lines": {name: _subsample_curve(*line, steps[name], epochs) for name, line in lines[index].items()},
            }
            for index in drawn
        ],
        "epochs": [list(each) for each in epochs],
    }


def _measure_epoch(run: Run) -> float | None:
    """Return the mean seconds per epoch of a run, validation included, or ``None`` if unknown."""
    seconds, epochs = run.metrics.get("seconds"), run.metrics.get("epochs")
    return float(f"{seconds / epochs:.4g}") if seconds and epochs else None


def _find_metrics(sweeps: Sweeps) -> list[str]:
    """Return the metrics that the histories have, named without the stage; monitored metrics come first."""
    available = {name.split("/")[-1] for history in sweeps.histories for name in _find_metric_columns(history)}
    monitored = [board.monitor.split("/")[-1] for board in sweeps.leaderboards if board.monitor]
    return [name for name in dict.fromkeys([*monitored, *METRICS]) if name in available]


def _find_metric_columns(history: History) -> set[str]:
    """Return the names of a history's training and validation metrics."""
    names = set().union(*map(dict.keys, history)) if history else set()
    return {name for name in names if name.split("/")[0] in STAGES and name.count("/") == 1}


def _extract_lines(history: History, names: list[str]) -> dict[str, Line]:
    """Return a run's epochs and finite values for each metric and stage."""
    lines = {}
    for name in [f"{stage}/{metric}" for stage in STAGES for metric in names]:
        rows = [row for row in history if "epoch" in row and math.isfinite(row.get(name, math.nan))]
        if rows:
            lines[name] = ([int(row["epoch"]) for row in rows], [row[name] for row in rows])
    return lines


def _find_axes(names: list[str], lines: list[dict[str, Line]]) -> dict[str, PlotlyFigure]:
    """Return the axes of the metrics that have curves."""
    available = {name.split("/")[-1] for each in lines for name in each}
    return {name: _make_axis(name, lines) for name in names if name in available}


def _make_axis(metric: str, lines: list[dict[str, Line]]) -> PlotlyFigure:
    """Return a metric's plotly ``axis``, and as ``beyond`` a text on how many runs go beyond it."""
    parts = [[value for stage in STAGES for value in each.get(f"{stage}/{metric}", ([], []))[1]] for each in lines]
    values = [value for part in parts for value in part]
    name = f"/{metric}"  # stands for both stages
    window = find_curves_range(parts, is_fraction(name), is_logarithmic(name, values))
    axis = {**make_metric_axis(name, values, window), "title": {"text": to_plotly_text(metric)}}
    return {"axis": axis, "beyond": f"Beyond this axis: {window.describe()}." if window else ""}


def _compute_strides(lines: list[dict[str, Line]], points: int) -> dict[str, int]:
    """Return the stride over the epochs for each metric, such that no curve has more than ``points`` points."""
    longest: dict[str, int] = {}
    for run_lines in lines:
        for name, (epochs, _) in run_lines.items():
            longest[name] = max(longest.get(name, 0), len(epochs))
    return {name: math.ceil(length / points) for name, length in longest.items()}


def _subsample_curve(
    epochs: list[int], values: list[float], stride: int, epoch_lists: dict[tuple[int, ...], int]
) -> Line:
    """Subsample a curve with a stride, and keep its last point.

    Args:
        epochs: the curve's epochs.
        values: its values.
        stride: how many epochs lie between two points.
        epoch_lists: the lists of epochs in use, each with its index; a new one is added.

    Returns:
        The index of the list of epochs, and the values with four digits.
    """
    kept = sorted({*range(0, len(epochs), stride), len(epochs) - 1})
    index = epoch_lists.setdefault(tuple(epochs[point] for point in kept), len(epoch_lists))
    return index, [float(f"{values[point]:.4g}") for point in kept]


def _group_runs(sweeps: Sweeps) -> dict[str, Levels]:
    """Return the ways to colour the runs, each with its levels.

    They are each setting, the one with the strongest effect first, then all settings together and the run's status.
    """
    runs = sweeps.runs
    strength = {each.key: each.spread for board in sweeps.leaderboards[:1] for each in collect_effects(board)}
    known = list(dict.fromkeys(key for run in runs for key in run.swept))
    keys = sorted(known, key=lambda key: -strength.get(key, -1.0))
    found = {
        name: split_into_levels([run.swept.get(key, ABSENT) for run in runs])
        for key, name in zip(keys, get_short_names(keys), strict=True)
    }
    together = split_into_levels([run.label for run in runs])
    if together.is_exact:
        found["all settings"] = together
    found["status"] = split_into_levels([run.status for run in runs])
    return {name: each for name, each in found.items() if len(each.labels) > 1} or {"all runs": found["status"]}
