"""Build plotly.js figures of the effect of each setting on the metric, as plain dictionaries.

plotly interprets markup in texts (``<b>``, ``<a href>``), so every text of a sweep is escaped by `plain`.
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
MANY = 200  # above this number dots are drawn smaller
EDGE = 0.03  # distance of outliers' marks from the edge, as a fraction of the height
EDGE_AXIS = {"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False}
BLUE, VERMILION = COLOURS[:2]
Figure = dict[str, Any]  # as plotly.js takes it: "data" and "layout"


class Effect(NamedTuple):
    """The effect of a setting on the metric over a board's runs.

    Attributes:
        key: the setting's full name.
        values: the setting's value in each run.
        levels: these values, binned and sorted.
        found: each run's metric; ``None`` if the run has not finished or lacks it.
    """

    key: str
    values: list[Any]
    levels: Levels
    found: list[float | None]

    def at(self, level: int) -> list[float]:
        """Return the metrics of the finished runs at a level."""
        return [value for run in self.levels.members(level) if (value := self.found[run]) is not None]

    @property
    def strength(self) -> float:
        """The range of the means over the levels."""
        means = [mean(found) for level in range(len(self.levels.labels)) if (found := self.at(level))]
        return max(means) - min(means) if means else 0.0


def runs_of(board: Board) -> list[Run]:
    """Return a board's runs, sorted by sweep and number."""
    return sorted(
        (run for entry in board.entries for run in entry.runs), key=lambda run: (run.folder.parent, run.number)
    )


def metric_of(board: Board) -> str | None:
    """Return the metric that plots show: the one that ranks the board, otherwise one of training.

    It is never one of the test set, for nobody is to choose a setting by it.
    """
    known = [run.metrics for run in runs_of(board)]
    fallback = [name for name in ("train/acc", "train/loss") if any(name in metrics for metrics in known)]
    return board.judge or next(iter(fallback), board.monitor)


def effects(board: Board) -> list[Effect]:
    """Return the effects of the settings that vary in a board; seeds and folds only if nothing else varies."""
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
    """Return a run's metric, or ``None`` if the run has not finished or the metric is missing or not finite."""
    value = run.metrics.get(metric) if metric and run.status == "finished" else None
    return float(value) if value is not None and math.isfinite(value) else None


# The figure of one setting


def effect_figure(each: Effect, board: Board) -> Figure:
    """Return a figure with a dot for each run and the mean ± standard deviation at each level.

    Outliers are marked at the edge of the plot.
    """
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
    """Return the marks of a trace that lie beyond the axis, as traces of triangles at its edge."""
    found = []
    for height, symbol, is_beyond in (
        (1 - EDGE, "triangle-up", lambda value: value > window.high),
        (EDGE, "triangle-down", lambda value: value < window.low),
    ):
        beyond = [index for index, value in enumerate(marks["y"]) if is_beyond(value)]
        copied = {key: [marks[key][index] for index in beyond] for key in ("x", "text", "customdata")}
        marker = {"color": marks["marker"]["color"], "symbol": symbol, "size": 9}
        trace = {key: marks[key] for key in ("type", "hovertemplate")} | {"mode": "markers", "yaxis": "y2"}
        found.append({**trace, **copied, "y": [height] * len(beyond), "marker": marker})
    return [trace for trace in found if trace["x"]]


def means(each: Effect, known: Scale, metric: str, window: Window | None) -> Figure:
    """Return a trace of the mean at each level, with the standard deviation if the mean is on the axis.

    A line joins the means if the levels are numbers.
    """
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
    """Return the axis of a setting, with its values as ticks and the number of failed runs under each."""
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
    """Return True if a metric needs a logarithmic axis: positive losses that span more than a decade."""
    return "/acc" not in metric and bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def metric_axis(metric: str, values: list[float], window: Window | None = None) -> Figure:
    """Return the axis of a metric, limited to the window if there is one; accuracies are in per cent."""
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


# Texts


def plain(text: str) -> str:
    """Escape a text, so that plotly shows it verbatim."""
    return escape(text, quote=False)


def named(run: Run) -> str:
    """Return a run's name for hover texts."""
    return plain(f"{run.number}: {run.title}")


def tick(label: str) -> str:
    """Return a tick label, shortened to `LONGEST_TICK` characters."""
    return plain(label if len(label) <= LONGEST_TICK else f"{label[: LONGEST_TICK - 1]}…")
