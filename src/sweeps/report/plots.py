"""What each setting does to the metric that chooses: figures for plotly.js, as plain dictionaries.

plotly reads markup in texts (``<b>``, ``<a href>``): every text of a sweep goes through `plain`.
"""

import math
from html import escape
from typing import Any, NamedTuple

from src.core.axes import Window, find_reach, find_window
from src.core.colours import COLOURS
from src.sweeps.report.levels import ABSENT, Levels, Scale, levels, scale
from src.sweeps.store.leaderboard import Board, deviation, mean, measured
from src.sweeps.store.runs import Run, is_seed

LONGEST_TICK = 22
MANY = 200  # dots, which are smaller then
EDGE = 0.03  # of the height: where dots are marked that have no place on the axis
EDGE_AXIS = {"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False}
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
        means = [mean(found) for level in range(len(self.levels.labels)) if (found := self.at(level))]
        return max(means) - min(means) if means else 0.0


def runs_of(board: Board) -> list[Run]:
    """A board's runs in the order of their numbers."""
    return sorted(
        (run for entry in board.entries for run in entry.runs), key=lambda run: (run.folder.parent, run.number)
    )


def metric_of(board: Board) -> str | None:
    """The metric that plots show: the one that chooses; where there is none one of training, never of the test."""
    known = [run.metrics for run in runs_of(board)]
    fallback = [name for name in ("train/acc", "train/loss") if any(name in metrics for metrics in known)]
    return board.judge or next(iter(fallback), board.monitor)


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
    """Each run as a dot, and at each value the mean ± standard deviation of its runs; at the edge those far off."""
    metric, runs = metric_of(board) or "", runs_of(board)
    known = scale(each.values, each.levels)
    shown = [run for run, value in enumerate(each.found) if value is not None]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [known.beside(known.places[run], number) for number, run in enumerate(shown)],
        "y": [each.found[run] for run in shown],
        "text": [named(runs[run]) for run in shown],
        "customdata": [f"{each.found[run]:.5g}" for run in shown],
        "hovertemplate": f"%{{text}}<br>{plain(metric)} %{{customdata}}<extra></extra>",
        "cliponaxis": False,
        "marker": {
            "color": BLUE,
            **({"size": 5, "opacity": 0.3} if len(shown) > MANY else {"size": 8, "opacity": 0.45}),
        },
    }
    found = [value for value in each.found if value is not None]
    window = find_window(found, higher_is_better(board, metric), is_logarithmic(metric, found))
    average = means(each, known, metric, window)
    xaxis = setting_axis(each, known, runs)
    layout = {"xaxis": xaxis, "yaxis": metric_axis(metric, found, window), "showlegend": False}
    if window is None:
        return {"data": [dots, average], "layout": layout}
    xaxis["title"]["text"] += f"<br>{window.words()}"
    layout["yaxis2"] = EDGE_AXIS
    return {"data": [dots, *edges(dots, window), *edges(average, window), average], "layout": layout}


def edges(marks: Figure, window: Window) -> list[Figure]:
    """The marks of a trace that have no place on the axis, as triangles at its edge."""
    found = []
    for height, symbol, is_beyond in (
        (1 - EDGE, "triangle-up", lambda value: value > window.high),
        (EDGE, "triangle-down", lambda value: value < window.low),
    ):
        places = [place for place, value in enumerate(marks["y"]) if is_beyond(value)]
        told = {key: [marks[key][place] for place in places] for key in ("x", "text", "customdata")}
        marker = {"color": marks["marker"]["color"], "symbol": symbol, "size": 9}
        trace = {key: marks[key] for key in ("type", "hovertemplate")} | {"mode": "markers", "yaxis": "y2"}
        found.append({**trace, **told, "y": [height] * len(places), "marker": marker})
    return [trace for trace in found if trace["x"]]


def means(each: Effect, known: Scale, metric: str, window: Window | None) -> Figure:
    """The mean at each level, with its standard deviation if it is on the axis; joined where levels are numbers."""
    filled = [level for level in range(len(each.levels.labels)) if each.at(level)]
    found = [mean(each.at(level)) for level in filled]
    spread = [
        (deviation(each.at(level)) or 0) if window is None or window.has(value) else 0
        for level, value in zip(filled, found, strict=True)
    ]
    reaches = [find_reach(*pair, "/acc" in metric) for pair in zip(found, spread, strict=True)]
    below, above = [part[0] for part in reaches], [part[1] for part in reaches]
    return {
        "type": "scatter",
        "mode": "lines+markers" if each.levels.ordered else "markers",
        "x": [known.centres[level] for level in filled],
        "y": found,
        "error_y": {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1.5, "width": 5},
        "text": [plain(f"{each.key} {each.levels.labels[level]}") for level in filled],
        "customdata": [f"{measured(metric, each.at(level))} (n = {len(each.at(level))})" for level in filled],
        "hovertemplate": f"%{{text}}<br>{plain(metric)} %{{customdata}}<extra></extra>",
        "cliponaxis": False,
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


def higher_is_better(board: Board, metric: str) -> bool:
    return board.mode == "max" if board.judge and board.mode else "/acc" in metric


def is_logarithmic(metric: str, values: list[float]) -> bool:
    """Whether a metric's values lie by their logarithms: losses that span decades."""
    return "/acc" not in metric and bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def metric_axis(metric: str, values: list[float], window: Window | None = None) -> Figure:
    """The axis of a metric's values, or of the window on it; accuracies in per cent."""
    shown = [value for value in values if window is None or window.has(value)]
    axis: Figure = {"title": {"text": plain(metric)}}
    if "/acc" in metric:
        axis |= {"tickformat": ".2~%", "autorangeoptions": {"clipmin": 0, "clipmax": 1}}
    elif is_logarithmic(metric, shown):
        axis |= {"type": "log", "exponentformat": "power"}
    if window is not None:
        low, high = (max(window.low, 0.0), min(window.high, 1.0)) if "/acc" in metric else (window.low, window.high)
        axis["range"] = [math.log10(end) if "type" in axis else end for end in (low, high)]
    return axis


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
