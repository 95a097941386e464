"""Build plotly.js figures of the effect of each setting on the metric, as plain dictionaries.

plotly interprets markup in texts (``<b>``, ``<a href>``), so every text of a sweep is escaped by `to_plotly_text`.
"""

import math
from html import escape
from typing import Any, NamedTuple

from src.core.axes import AxisRange, find_axis_range, limit_error_bar
from src.core.colours import COLOURS
from src.core.formatting import is_fraction
from src.sweeps.store.aggregate import compute_mean, compute_std, format_mean_std, is_logarithmic, is_lower_better
from src.sweeps.store.leaderboard import Leaderboard
from src.sweeps.store.levels import ABSENT, Levels, Scale, make_scale, split_into_levels
from src.sweeps.store.runs import Run, is_seed

MAX_TICK_LENGTH = 22
MANY_DOTS = 200  # above this number dots are drawn smaller
EDGE_MARGIN = 0.03  # distance of outliers' marks from the edge, as a fraction of the height
EDGE_AXIS = {"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False}
BLUE, VERMILION = COLOURS[:2]
PlotlyFigure = dict[str, Any]  # as plotly.js takes it: "data" and "layout"


class Effect(NamedTuple):
    """The effect of a setting on the metric over a board's runs.

    Attributes:
        key: the setting's full name.
        values: the setting's value in each run.
        levels: these values, binned and sorted.
        metric_values: each run's metric; ``None`` if the run has not finished or lacks it.
    """

    key: str
    values: list[Any]
    levels: Levels
    metric_values: list[float | None]

    def get_metric_values(self, level: int) -> list[float]:
        """Return the metrics of the finished runs at a level."""
        return [value for run in self.levels.find_runs(level) if (value := self.metric_values[run]) is not None]

    @property
    def spread(self) -> float:
        """The range of the means over the levels."""
        means = [
            compute_mean(found) for level in range(len(self.levels.labels)) if (found := self.get_metric_values(level))
        ]
        return max(means) - min(means) if means else 0.0


def _collect_runs(board: Leaderboard) -> list[Run]:
    """Return a board's runs, sorted by sweep and number."""
    return sorted(
        (run for entry in board.entries for run in entry.runs), key=lambda run: (run.folder.parent, run.number)
    )


def choose_metric(board: Leaderboard) -> str | None:
    """Return the metric that plots show: the one that ranks the board, otherwise one of training.

    It is never one of the test set, for nobody is to choose a setting by it.
    """
    known = [run.metrics for run in _collect_runs(board)]
    fallback = [name for name in ("train/acc", "train/loss") if any(name in metrics for metrics in known)]
    return board.ranking_metric or next(iter(fallback), board.monitor)


def collect_effects(board: Leaderboard) -> list[Effect]:
    """Return the effects of the settings that vary in a board; seeds and folds only if nothing else varies."""
    metric, runs = choose_metric(board), _collect_runs(board)
    keys = list(dict.fromkeys(key for run in runs for key in run.swept))
    repeats = [key for key in keys if is_seed(key) or key == "data.fold"]
    known = [_make_effect(key, runs, metric) for key in keys]
    varying = [
        each for each in known if len(each.levels.labels) > 1 and any(value is not None for value in each.metric_values)
    ]
    return [each for each in varying if each.key not in repeats] or varying


def _make_effect(key: str, runs: list[Run], metric: str | None) -> Effect:
    values = [run.swept.get(key, ABSENT) for run in runs]
    return Effect(key, values, split_into_levels(values), [_get_finished_value(run, metric) for run in runs])


def _get_finished_value(run: Run, metric: str | None) -> float | None:
    """Return a run's metric, or ``None`` if the run has not finished or the metric is missing or not finite."""
    value = run.metrics.get(metric) if metric and run.status == "finished" else None
    return float(value) if value is not None and math.isfinite(value) else None


# The figure of one setting


def make_effect_figure(setting_effect: Effect, board: Leaderboard) -> PlotlyFigure:
    """Return a figure with a dot for each run and the mean ± standard deviation at each level.

    Outliers are marked at the edge of the plot.
    """
    metric, runs = choose_metric(board) or "", _collect_runs(board)
    known = make_scale(setting_effect.values, setting_effect.levels)
    shown = [run for run, value in enumerate(setting_effect.metric_values) if value is not None]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [known.get_jittered(known.positions[run], number) for number, run in enumerate(shown)],
        "y": [setting_effect.metric_values[run] for run in shown],
        "text": [format_run(runs[run]) for run in shown],
        "customdata": [f"{setting_effect.metric_values[run]:.5g}" for run in shown],
        "hovertemplate": f"%{{text}}<br>{to_plotly_text(metric)} %{{customdata}}<extra></extra>",
        "cliponaxis": False,
        "marker": {
            "color": BLUE,
            **({"size": 5, "opacity": 0.3} if len(shown) > MANY_DOTS else {"size": 8, "opacity": 0.45}),
        },
    }
    found = [value for value in setting_effect.metric_values if value is not None]
    window = find_axis_range(found, is_higher_better(board, metric), is_logarithmic(metric, found))
    average = _make_mean_trace(setting_effect, known, metric, window)
    xaxis = _make_setting_axis(setting_effect, known, runs)
    layout = {"xaxis": xaxis, "yaxis": make_metric_axis(metric, found, window), "showlegend": False}
    if window is None:
        return {"data": [dots, average], "layout": layout}
    xaxis["title"]["text"] += f"<br>{window.describe()}"
    layout["yaxis2"] = EDGE_AXIS
    return {
        "data": [dots, *make_edge_marks(dots, window), *make_edge_marks(average, window), average],
        "layout": layout,
    }


def make_edge_marks(marks: PlotlyFigure, window: AxisRange) -> list[PlotlyFigure]:
    """Return the marks of a trace that lie beyond the axis, as traces of triangles at its edge."""
    found = []
    for height, symbol, is_beyond in (
        (1 - EDGE_MARGIN, "triangle-up", lambda value: value > window.high),
        (EDGE_MARGIN, "triangle-down", lambda value: value < window.low),
    ):
        beyond = [index for index, value in enumerate(marks["y"]) if is_beyond(value)]
        copied = {key: [marks[key][index] for index in beyond] for key in ("x", "text", "customdata")}
        marker = {"color": marks["marker"]["color"], "symbol": symbol, "size": 9}
        trace = {key: marks[key] for key in ("type", "hovertemplate")} | {"mode": "markers", "yaxis": "y2"}
        found.append({**trace, **copied, "y": [height] * len(beyond), "marker": marker, "showlegend": False})
    return [trace for trace in found if trace["x"]]


def _make_mean_trace(setting_effect: Effect, axis_scale: Scale, metric: str, window: AxisRange | None) -> PlotlyFigure:
    """Return a trace of the mean at each level, with the standard deviation if the mean is on the axis.

    A line joins the means if the levels are numbers.
    """
    filled = [level for level in range(len(setting_effect.levels.labels)) if setting_effect.get_metric_values(level)]
    found = [compute_mean(setting_effect.get_metric_values(level)) for level in filled]
    spread = [
        (compute_std(setting_effect.get_metric_values(level)) or 0) if window is None or window.is_inside(value) else 0
        for level, value in zip(filled, found, strict=True)
    ]
    reaches = [limit_error_bar(*pair, is_fraction(metric)) for pair in zip(found, spread, strict=True)]
    below, above = [part[0] for part in reaches], [part[1] for part in reaches]
    return {
        "type": "scatter",
        "mode": "lines+markers" if setting_effect.levels.is_numeric else "markers",
        "x": [axis_scale.centres[level] for level in filled],
        "y": found,
        "error_y": {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1.5, "width": 5},
        "text": [to_plotly_text(f"{setting_effect.key} {setting_effect.levels.labels[level]}") for level in filled],
        "customdata": [
            f"{format_mean_std(metric, setting_effect.get_metric_values(level))} (n = "
            f"{len(setting_effect.get_metric_values(level))})"
            for level in filled
        ],
        "hovertemplate": f"%{{text}}<br>{to_plotly_text(metric)} %{{customdata}}<extra></extra>",
        "cliponaxis": False,
        "marker": {"color": VERMILION, "size": 10, "symbol": "diamond"},
        "line": {"color": VERMILION, "width": 1.5},
    }


def _make_setting_axis(setting_effect: Effect, axis_scale: Scale, runs: list[Run]) -> PlotlyFigure:
    """Return the axis of a setting, with its values as ticks and the number of failed runs under each."""
    axis: PlotlyFigure = {
        "title": {"text": to_plotly_text(setting_effect.key)},
        "range": axis_scale.limits,
        "zeroline": False,
    }
    if axis_scale.axis_type == "log":
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    if setting_effect.levels.is_exact or axis_scale.axis_type == "category":
        failed = [
            sum(runs[run].status == "failed" for run in setting_effect.levels.find_runs(level))
            for level in range(len(setting_effect.levels.labels))
        ]
        axis["tickvals"] = axis_scale.centres
        axis["ticktext"] = [
            f"{format_tick(label)}{f'<br>{count} failed' if count else ''}"
            for label, count in zip(setting_effect.levels.labels, failed, strict=True)
        ]
    return axis


def is_higher_better(board: Leaderboard, metric: str) -> bool:
    return not is_lower_better(_collect_runs(board), metric)


def make_metric_axis(metric: str, values: list[float], window: AxisRange | None = None) -> PlotlyFigure:
    """Return the axis of a metric, limited to the window if there is one; accuracies are in per cent."""
    shown = [value for value in values if window is None or window.is_inside(value)]
    axis: PlotlyFigure = {"title": {"text": to_plotly_text(metric)}}
    if is_fraction(metric):
        axis |= {"tickformat": ".2~%", "autorangeoptions": {"clipmin": 0, "clipmax": 1}}
    elif is_logarithmic(metric, shown):
        axis |= {"type": "log", "exponentformat": "power"}
    if window is not None:
        low, high = (max(window.low, 0.0), min(window.high, 1.0)) if is_fraction(metric) else (window.low, window.high)
        axis["range"] = [math.log10(end) if "type" in axis else end for end in (low, high)]
    return axis


# Texts


def to_plotly_text(text: str) -> str:
    """Escape a text, so that plotly shows it verbatim."""
    return escape(text, quote=False)


def format_run(run: Run) -> str:
    """Return a run's name for hover texts."""
    return to_plotly_text(f"{run.number}: {run.title}")


def format_tick(label: str) -> str:
    """Return a tick label, shortened to `MAX_TICK_LENGTH` characters."""
    return to_plotly_text(label if len(label) <= MAX_TICK_LENGTH else f"{label[: MAX_TICK_LENGTH - 1]}…")
