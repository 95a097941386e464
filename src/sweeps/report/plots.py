"""What each setting does to the metric that chooses: figures for plotly.js, as plain dictionaries.

plotly reads markup in texts (``<b>``, ``<a href>``): every text of a sweep goes through `plain`.
"""

import math
import statistics
from html import escape
from typing import Any, NamedTuple

from src.colours import COLOURS
from src.sweeps.report.levels import ABSENT, Levels, Scale, levels, scale
from src.sweeps.results import Board, measured
from src.sweeps.runs import Run, is_seed

LONGEST_TICK = 22
MANY = 200  # dots, which are smaller then
BLUE, VERMILION = COLOURS[:2]
Figure = dict[str, Any]  # as plotly.js takes it: "data" and "layout"


class Effect(NamedTuple):
    """A setting and the runs of a board that were made with its values.

    Attributes:
        key: the setting's full name.
        values: each run's value.
        levels: these values in their order.
        found: each run's metric; ``None`` if it has not finished or has none.
    """

    key: str
    values: list[Any]
    levels: Levels
    found: list[float | None]

    def at(self, level: int) -> list[float]:
        """The metrics of the runs at a level."""
        return [value for run in self.levels.members(level) if (value := self.found[run]) is not None]

    @property
    def strength(self) -> float:
        """How far apart the means at its levels lie."""
        means = [statistics.fmean(found) for level in range(len(self.levels.labels)) if (found := self.at(level))]
        return max(means) - min(means) if means else 0.0


def runs_of(board: Board) -> list[Run]:
    """A board's runs in the order of their numbers."""
    return sorted(
        (run for entry in board.entries for run in entry.runs), key=lambda run: (run.folder.parent, run.number)
    )


def metric_of(board: Board) -> str | None:
    """The metric that plots show: the one that chooses; without a validation set one of training, never of the test."""
    known = [run.metrics for run in runs_of(board)]
    fallback = [name for name in ("train/acc", "train/loss") if any(name in metrics for metrics in known)]
    return board.monitor or next(iter(fallback), None)


def effects(board: Board) -> list[Effect]:
    """The settings that vary in a board; the seeds only where nothing else does."""
    metric, runs = metric_of(board), runs_of(board)
    keys = list(dict.fromkeys(key for run in runs for key in run.swept))
    repeats = [key for key in keys if is_seed(key) or key == "data.fold"]
    known = [effect(key, runs, metric) for key in keys]
    varying = [each for each in known if len(each.levels.labels) > 1 and any(value is not None for value in each.found)]
    return [each for each in varying if each.key not in repeats] or varying


def effect(key: str, runs: list[Run], metric: str | None) -> Effect:
    values = [run.swept.get(key, ABSENT) for run in runs]
    return Effect(key, values, levels(values), [finished_value(run, metric) for run in runs])


def finished_value(run: Run, metric: str | None) -> float | None:
    """A run's metric, if the run has finished and the metric is a number."""
    value = run.metrics.get(metric) if metric and run.status == "finished" else None
    return float(value) if value is not None and math.isfinite(value) else None


# One setting


def effect_figure(each: Effect, board: Board) -> Figure:
    """Each run as a dot, and at each value the mean ± standard deviation of its runs."""
    metric, runs = metric_of(board) or "", runs_of(board)
    known = scale(each.values, each.levels)
    shown = [run for run, value in enumerate(each.found) if value is not None]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [known.beside(known.places[run], number) for number, run in enumerate(shown)],
        "y": [each.found[run] for run in shown],
        "text": [named(runs[run]) for run in shown],
        "hovertemplate": f"%{{text}}<br>{plain(metric)} %{{y}}<extra></extra>",
        "marker": {
            "color": BLUE,
            **({"size": 5, "opacity": 0.3} if len(shown) > MANY else {"size": 8, "opacity": 0.45}),
        },
    }
    found = [value for value in each.found if value is not None]
    yaxis = {"title": {"text": plain(metric)}, **metric_axis(metric, found)}
    layout = {"xaxis": setting_axis(each, known, runs), "yaxis": yaxis, "showlegend": False}
    return {"data": [dots, means(each, known, metric)], "layout": layout}


def means(each: Effect, known: Scale, metric: str) -> Figure:
    """The mean at each level, with its standard deviation; joined by a line where levels are numbers."""
    filled = [level for level in range(len(each.levels.labels)) if each.at(level)]
    spread = [statistics.stdev(each.at(level)) if len(each.at(level)) > 1 else 0 for level in filled]
    return {
        "type": "scatter",
        "mode": "lines+markers" if each.levels.ordered else "markers",
        "x": [known.centres[level] for level in filled],
        "y": [statistics.fmean(each.at(level)) for level in filled],
        "error_y": {"array": spread, "thickness": 1.5, "width": 5},
        "text": [plain(f"{each.key} {each.levels.labels[level]}") for level in filled],
        "customdata": [f"{measured(metric, each.at(level))} (n = {len(each.at(level))})" for level in filled],
        "hovertemplate": f"%{{text}}<br>{plain(metric)} %{{customdata}}<extra></extra>",
        "marker": {"color": VERMILION, "size": 10, "symbol": "diamond"},
        "line": {"color": VERMILION, "width": 1.5},
    }


def setting_axis(each: Effect, known: Scale, runs: list[Run]) -> Figure:
    """The axis of a setting: its values as ticks, and under each how many of its runs failed."""
    axis: Figure = {"title": {"text": plain(each.key)}, "range": known.ends, "zeroline": False}
    if known.kind == "log":
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    if each.levels.single or known.kind == "category":
        failed = [
            sum(runs[run].status == "failed" for run in each.levels.members(level))
            for level in range(len(each.levels.labels))
        ]
        axis["tickvals"] = known.centres
        axis["ticktext"] = [
            f"{tick(label)}{f'<br>{count} failed' if count else ''}"
            for label, count in zip(each.levels.labels, failed, strict=True)
        ]
    return axis


def metric_axis(metric: str, values: list[float]) -> Figure:
    """How a metric's values lie on an axis: accuracies in per cent, losses that span decades by their logarithm."""
    if "/acc" in metric:
        return {"tickformat": ".2~%"}
    if values and min(values) > 0 and max(values) > 10 * min(values):
        return {"type": "log", "exponentformat": "power"}
    return {}


# Words


def plain(text: str) -> str:
    """A text that plotly shows as it is."""
    return escape(text, quote=False)


def named(run: Run) -> str:
    """What a run is called where one points at it."""
    return plain(f"{run.number}: {run.title}")


def tick(label: str) -> str:
    """A value's name beside an axis."""
    return plain(label if len(label) <= LONGEST_TICK else f"{label[: LONGEST_TICK - 1]}…")
