"""The learning curves of all runs, thinned out so that a page of a thousand runs opens in seconds."""

import math
from typing import Any

from src.core.axes import find_window_of_curves
from src.sweeps.report.levels import ABSENT, Levels, levels
from src.sweeps.report.plots import Figure, effects, is_logarithmic, metric_axis, named, plain
from src.sweeps.report.reading import History, Sweeps
from src.sweeps.store.leaderboard import boards, short
from src.sweeps.store.runs import Run

STAGES = ("train", "val")
METRICS = ("acc", "loss")
MOST_NUMBERS = 160_000  # in all curves together
MOST_POINTS, FEWEST_POINTS = 400, 12  # of a curve
Line = tuple[Any, list[float]]  # epochs and values


def curves(sweeps: Sweeps) -> dict[str, Any]:
    """Return what the page draws curves from.

    Returns:
        ``metrics``, their names, the one that chooses first; ``data``, the data sets, whose curves are drawn apart;
        ``axes``, for each data set the axis of each metric that it has and what runs go beyond it;
        ``epochs``, lists of epochs that curves share;
        ``thinned``, how many points a curve has at most, 0 if all have all of theirs; ``groups``, the ways to colour
        the runs, each with its ``title``, its ``name`` and ``labels`` for plotly, whether these are ``ordered``, and
        the level ``of`` each run; ``runs``, each with its ``name``, the place of its ``data``, the ``seconds`` that
        an epoch took on average, whether it is ``finished``, and its ``lines``: for "train/loss" which epochs and the
        values. A run without a curve is left out. No runs, no curves.
    """
    names = metrics(sweeps)
    lines = [full_lines(history, names) for history in sweeps.histories]
    drawn = [place for place, each in enumerate(lines) if each]
    points = max(FEWEST_POINTS, min(MOST_POINTS, MOST_NUMBERS // max(1, sum(map(len, lines)))))
    steps = strides(lines, points)
    epochs: dict[tuple[int, ...], int] = {}
    data = list(dict.fromkeys(sweeps.runs[place].data for place in drawn))
    return {
        "metrics": names,
        "data": [each or "other data" for each in data],
        "axes": [
            find_axes(names, [lines[place] for place in drawn if sweeps.runs[place].data == each]) for each in data
        ],
        "thinned": points if any(step > 1 for step in steps.values()) else 0,
        "groups": [
            {"title": name, "name": plain(name), "labels": [plain(label) for label in found.labels]}
            | {"ordered": found.ordered, "of": [found.of[place] for place in drawn]}
            for name, found in groups(sweeps).items()
        ],
        "runs": [
            {
                "name": named(run := sweeps.runs[place]),
                "data": data.index(run.data),
                "seconds": measure_epoch(run),
                "finished": run.status == "finished",
                "lines": {name: thin(*line, steps[name], epochs) for name, line in lines[place].items()},
            }
            for place in drawn
        ],
        "epochs": [list(each) for each in epochs],
    }


def measure_epoch(run: Run) -> float | None:
    """Return how long an epoch of a run took on average, validation included; ``None`` if that is not known."""
    seconds, epochs = run.metrics.get("seconds"), run.metrics.get("epochs")
    return float(f"{seconds / epochs:.4g}") if seconds and epochs else None


def metrics(sweeps: Sweeps) -> list[str]:
    """Which of the metrics there are over the epochs, by their names without the stage; what chooses comes first."""
    there = {name.split("/")[-1] for history in sweeps.histories for name in columns(history)}
    chooses = [board.monitor.split("/")[-1] for board in boards(sweeps.runs) if board.monitor]
    return [name for name in dict.fromkeys([*chooses, *METRICS]) if name in there]


def columns(history: History) -> set[str]:
    """The metrics of the stages that a history has."""
    names = set().union(*map(dict.keys, history)) if history else set()
    return {name for name in names if name.split("/")[0] in STAGES and name.count("/") == 1}


def full_lines(history: History, names: list[str]) -> dict[str, Line]:
    """A run's epochs and values of each metric and stage, where they are numbers."""
    lines = {}
    for name in [f"{stage}/{metric}" for stage in STAGES for metric in names]:
        rows = [row for row in history if "epoch" in row and math.isfinite(row.get(name, math.nan))]
        if rows:
            lines[name] = ([int(row["epoch"]) for row in rows], [row[name] for row in rows])
    return lines


def find_axes(names: list[str], lines: list[dict[str, Line]]) -> dict[str, Figure]:
    """Return the axes of those of the metrics that there are curves of."""
    there = {name.split("/")[-1] for each in lines for name in each}
    return {name: axis_of(name, lines) for name in names if name in there}


def axis_of(metric: str, lines: list[dict[str, Line]]) -> Figure:
    """The axis of a metric, for plotly, and as ``beyond`` in words how many runs go beyond it."""
    parts = [[value for stage in STAGES for value in each.get(f"{stage}/{metric}", ([], []))[1]] for each in lines]
    values = [value for part in parts for value in part]
    name = f"/{metric}"  # of both stages
    window = find_window_of_curves(parts, "/acc" in name, is_logarithmic(name, values))
    axis = {**metric_axis(name, values, window), "title": {"text": plain(metric)}}
    return {"axis": axis, "beyond": f"Beyond this axis: {window.words()}." if window else ""}


def strides(lines: list[dict[str, Line]], points: int) -> dict[str, int]:
    """By the metrics' names: how many epochs lie from point to point, so that no curve has more than so many."""
    longest: dict[str, int] = {}
    for each in lines:
        for name, (epochs, _) in each.items():
            longest[name] = max(longest.get(name, 0), len(epochs))
    return {name: math.ceil(length / points) for name, length in longest.items()}


def thin(epochs: list[int], values: list[float], stride: int, known: dict[tuple[int, ...], int]) -> Line:
    """A curve at every so many epochs and at its last; which list of epochs that is, is looked up or added."""
    kept = sorted({*range(0, len(epochs), stride), len(epochs) - 1})
    place = known.setdefault(tuple(epochs[each] for each in kept), len(known))
    return place, [float(f"{values[each]:.4g}") for each in kept]


def groups(sweeps: Sweeps) -> dict[str, Levels]:
    """The ways to tell the runs apart: by the setting with the strongest effect, the others, all, how they ended."""
    runs = sweeps.runs
    strength = {each.key: each.strength for board in boards(runs)[:1] for each in effects(board)}
    known = list(dict.fromkeys(key for run in runs for key in run.swept))
    keys = sorted(known, key=lambda key: -strength.get(key, -1.0))
    found = {
        name: levels([run.swept.get(key, ABSENT) for run in runs]) for key, name in zip(keys, short(keys), strict=True)
    }
    together = levels([run.label for run in runs])
    if together.single:
        found["all settings"] = together
    found["status"] = levels([run.status for run in runs])
    return {name: each for name, each in found.items() if len(each.labels) > 1} or {"all runs": found["status"]}
