"""Build plotly.js heat maps of the metric over pairs of settings."""

import math
from itertools import combinations

from src.core.axes import find_axis_range
from src.core.formatting import format_metric, is_fraction
from src.sweeps.report.plots import (
    Effect,
    PlotlyFigure,
    choose_metric,
    format_tick,
    is_higher_better,
    to_plotly_text,
)
from src.sweeps.store.aggregate import compute_mean, format_mean_std, is_logarithmic
from src.sweeps.store.leaderboard import Leaderboard

MAX_PAIRS = 12
MAX_LABELLED_COLUMNS = 7  # with more columns the cells are too narrow for numbers
Cells = list[list[list[float]]]  # the metrics of the runs in each cell, [row][column]


def find_pairs(effects: list[Effect]) -> list[tuple[Effect, Effect]]:
    """Return all pairs of settings that some finished run has, those with the strongest effects first."""
    both = [pair for pair in combinations(effects, 2) if any(any(row) for row in _collect_cells(*pair))]
    return sorted(both, key=lambda pair: -(pair[0].spread + pair[1].spread))


def _collect_cells(x_effect: Effect, y_effect: Effect) -> Cells:
    """Return the metrics of the finished runs at each pair of levels, as [row][column]."""
    found: Cells = [[[] for _ in x_effect.levels.labels] for _ in y_effect.levels.labels]
    for column, row, value in zip(x_effect.levels.codes, y_effect.levels.codes, x_effect.metric_values, strict=True):
        if value is not None:
            found[row][column].append(value)
    return found


def make_pair_figure(x_effect: Effect, y_effect: Effect, board: Leaderboard) -> PlotlyFigure:
    """Return a heat map of the mean metric at each pair of levels, averaged over all other settings.

    Brighter is better. If some means are outliers, the colours span the others only, and the outliers get the colour
    at the end of the scale.
    """
    metric, found = choose_metric(board) or "", _collect_cells(x_effect, y_effect)
    means = [[compute_mean(cell) if cell else None for cell in row] for row in found]
    flat = [value for row in means for value in row if value is not None and math.isfinite(value)]
    higher = is_higher_better(board, metric)
    window = find_axis_range(flat, higher, is_logarithmic(metric, flat))
    shown = [value for value in flat if window is None or window.is_inside(value)]
    logarithmic = is_logarithmic(metric, shown)
    z = [[_compute_colour_position(value, min(shown), max(shown), logarithmic) for value in row] for row in means]
    heat = {
        "type": "heatmap",
        "z": z,
        "text": [[_format_mean(metric, value) for value in row] for row in means],
        "customdata": _format_hover_texts(x_effect, y_effect, found, metric),
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "colorscale": "Viridis",
        "reversescale": not higher,
        "colorbar": {"title": {"text": to_plotly_text(metric)}, **_make_colour_ticks(metric, shown, logarithmic)},
        "xgap": 2,
        "ygap": 2,
    }
    if len(x_effect.levels.labels) <= MAX_LABELLED_COLUMNS:
        heat["texttemplate"] = "%{text}"
    xaxis = _make_level_axis(x_effect)
    if window is not None:
        xaxis["title"]["text"] += f"<br>{window.describe('mean')}"
    return {"data": [heat], "layout": {"xaxis": xaxis, "yaxis": _make_level_axis(y_effect)}}


def _compute_colour_position(value: float | None, low: float, high: float, logarithmic: bool) -> float | None:
    """Return the position of a mean on the colour scale, clipped to its ends, or ``None`` if there is no mean."""
    if value is None or math.isnan(value):
        return None
    shown = min(max(value, low), high)
    return math.log10(shown) if logarithmic else shown


def _format_mean(metric: str, value: float | None) -> str:
    """Format a mean for its cell: "97.4%", "0.0123", or nothing."""
    return "" if value is None else format_metric(metric, value, digits=1, number_format=".3g")


def _format_hover_texts(x_effect: Effect, y_effect: Effect, metric_cells: Cells, metric: str) -> list[list[str]]:
    """Return the hover text of each cell, as [row][column]."""
    return [
        [
            f"{to_plotly_text(f'{x_effect.key} {first}')}<br>{to_plotly_text(f'{y_effect.key} {second}')}<br>"
            f"{to_plotly_text(metric)} {format_mean_std(metric, cell)} (n = {len(cell)})"
            for first, cell in zip(x_effect.levels.labels, row, strict=True)
        ]
        for second, row in zip(y_effect.levels.labels, metric_cells, strict=True)
    ]


def _make_colour_ticks(metric: str, values: list[float], logarithmic: bool) -> PlotlyFigure:
    """Return the tick settings of the colour bar; the labels of a logarithmic one are the original numbers."""
    if not logarithmic:
        return {"tickformat": ".2~%"} if is_fraction(metric) else {}
    low, high = math.log10(min(values)), math.log10(max(values))
    ticks = [low + part * (high - low) / 4 for part in range(5)]
    return {"tickvals": ticks, "ticktext": [f"{10**position:.2g}" for position in ticks]}


def _make_level_axis(effect: Effect) -> PlotlyFigure:
    """Return a categorical axis with one tick per level."""
    labels = effect.levels.labels
    return {
        "title": {"text": to_plotly_text(effect.key)},
        "tickvals": list(range(len(labels))),
        "ticktext": [format_tick(label) for label in labels],
        "showgrid": False,
        "zeroline": False,
    }
