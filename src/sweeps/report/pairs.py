"""Build plotly.js heat maps of the metric over pairs of settings."""

import math
from itertools import combinations

from src.core.axes import find_window
from src.sweeps.report.plots import Effect, Figure, higher_is_better, is_logarithmic, metric_of, plain, tick
from src.sweeps.store.leaderboard import Board, mean, measured

MOST_PAIRS = 12
MOST_ROOM = 7  # with more columns the cells are too narrow for numbers
Cells = list[list[list[float]]]  # the metrics of the runs in each cell, [row][column]


def pairs(known: list[Effect]) -> list[tuple[Effect, Effect]]:
    """Return all pairs of settings that some finished run has, those with the strongest effects first."""
    both = [pair for pair in combinations(known, 2) if any(any(row) for row in cells(*pair))]
    return sorted(both, key=lambda pair: -(pair[0].strength + pair[1].strength))


def cells(across: Effect, down: Effect) -> Cells:
    """Return the metrics of the finished runs at each pair of levels, as [row][column]."""
    found: Cells = [[[] for _ in across.levels.labels] for _ in down.levels.labels]
    for column, row, value in zip(across.levels.of, down.levels.of, across.found, strict=True):
        if value is not None:
            found[row][column].append(value)
    return found


def pair_figure(across: Effect, down: Effect, board: Board) -> Figure:
    """Return a heat map of the mean metric at each pair of levels, averaged over all other settings.

    Brighter is better. If some means are outliers, the colours span the others only, and the outliers get the colour
    at the end of the scale.
    """
    metric, found = metric_of(board) or "", cells(across, down)
    means = [[mean(cell) if cell else None for cell in row] for row in found]
    flat = [value for row in means for value in row if value is not None and math.isfinite(value)]
    higher = higher_is_better(board, metric)
    window = find_window(flat, higher, is_logarithmic(metric, flat))
    shown = [value for value in flat if window is None or window.has(value)]
    logarithmic = is_logarithmic(metric, shown)
    z = [[place_of(value, min(shown), max(shown), logarithmic) for value in row] for row in means]
    heat = {
        "type": "heatmap",
        "z": z,
        "text": [[short_number(metric, value) for value in row] for row in means],
        "customdata": told(across, down, found, metric),
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "colorscale": "Viridis",
        "reversescale": not higher,
        "colorbar": {"title": {"text": plain(metric)}, **colour_ticks(metric, shown, logarithmic)},
        "xgap": 2,
        "ygap": 2,
    }
    if len(across.levels.labels) <= MOST_ROOM:
        heat["texttemplate"] = "%{text}"
    xaxis = level_axis(across)
    if window is not None:
        xaxis["title"]["text"] += f"<br>{window.words('mean')}"
    return {"data": [heat], "layout": {"xaxis": xaxis, "yaxis": level_axis(down)}}


def place_of(value: float | None, low: float, high: float, logarithmic: bool) -> float | None:
    """Return the position of a mean on the colour scale, clipped to its ends, or ``None`` if there is no mean."""
    if value is None or math.isnan(value):
        return None
    shown = min(max(value, low), high)
    return math.log10(shown) if logarithmic else shown


def short_number(metric: str, value: float | None) -> str:
    """Format a mean for its cell: "97.4%", "0.0123", or nothing."""
    if value is None:
        return ""
    return f"{value:.1%}" if "/acc" in metric else f"{value:.3g}"


def told(across: Effect, down: Effect, found: Cells, metric: str) -> list[list[str]]:
    """Return the hover text of each cell, as [row][column]."""
    return [
        [
            f"{plain(f'{across.key} {first}')}<br>{plain(f'{down.key} {second}')}<br>"
            f"{plain(metric)} {measured(metric, cell)} (n = {len(cell)})"
            for first, cell in zip(across.levels.labels, row, strict=True)
        ]
        for second, row in zip(down.levels.labels, found, strict=True)
    ]


def colour_ticks(metric: str, values: list[float], logarithmic: bool) -> Figure:
    """Return the tick settings of the colour bar; the labels of a logarithmic one are the original numbers."""
    if not logarithmic:
        return {"tickformat": ".2~%"} if "/acc" in metric else {}
    low, high = math.log10(min(values)), math.log10(max(values))
    ticks = [low + part * (high - low) / 4 for part in range(5)]
    return {"tickvals": ticks, "ticktext": [f"{10**position:.2g}" for position in ticks]}


def level_axis(each: Effect) -> Figure:
    """Return a categorical axis with one tick per level."""
    labels = each.levels.labels
    return {
        "title": {"text": plain(each.key)},
        "tickvals": list(range(len(labels))),
        "ticktext": [tick(label) for label in labels],
        "showgrid": False,
        "zeroline": False,
    }
