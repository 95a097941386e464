"""What two settings do together to the metric that chooses: heat maps for plotly.js."""

import math
from itertools import combinations

from src.core.axes import find_window
from src.sweeps.report.plots import Effect, Figure, higher_is_better, is_logarithmic, metric_of, plain, tick
from src.sweeps.store.leaderboard import Board, mean, measured

MOST_PAIRS = 12
MOST_ROOM = 7  # columns that have room for numbers
Cells = list[list[list[float]]]


def pairs(known: list[Effect]) -> list[tuple[Effect, Effect]]:
    """All pairs of settings that have a run in common, those with the strongest effects first."""
    both = [pair for pair in combinations(known, 2) if any(any(row) for row in cells(*pair))]
    return sorted(both, key=lambda pair: -(pair[0].strength + pair[1].strength))


def cells(across: Effect, down: Effect) -> Cells:
    """The metrics of the finished runs at each pair of levels, in rows."""
    found: Cells = [[[] for _ in across.levels.labels] for _ in down.levels.labels]
    for column, row, value in zip(across.levels.of, down.levels.of, across.found, strict=True):
        if value is not None:
            found[row][column].append(value)
    return found


def pair_figure(across: Effect, down: Effect, board: Board) -> Figure:
    """The mean of the metric at each pair of levels, over all else; the brighter the better, those far off as the end.

    Where accuracies or losses are far off, colours tell the others apart.
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
    """Where a mean lies among the colours, which end at the lowest and the highest one shown."""
    if value is None or math.isnan(value):
        return None
    shown = min(max(value, low), high)
    return math.log10(shown) if logarithmic else shown


def short_number(metric: str, value: float | None) -> str:
    """A mean as it is written into its cell."""
    if value is None:
        return ""
    return f"{value:.1%}" if "/acc" in metric else f"{value:.3g}"


def told(across: Effect, down: Effect, found: Cells, metric: str) -> list[list[str]]:
    """What is told of each cell where one points at it."""
    return [
        [
            f"{plain(f'{across.key} {first}')}<br>{plain(f'{down.key} {second}')}<br>"
            f"{plain(metric)} {measured(metric, cell)} (n = {len(cell)})"
            for first, cell in zip(across.levels.labels, row, strict=True)
        ]
        for second, row in zip(down.levels.labels, found, strict=True)
    ]


def colour_ticks(metric: str, values: list[float], logarithmic: bool) -> Figure:
    """The numbers beside the colours; of logarithms the numbers themselves."""
    if not logarithmic:
        return {"tickformat": ".2~%"} if "/acc" in metric else {}
    low, high = math.log10(min(values)), math.log10(max(values))
    places = [low + part * (high - low) / 4 for part in range(5)]
    return {"tickvals": places, "ticktext": [f"{10**place:.2g}" for place in places]}


def level_axis(each: Effect) -> Figure:
    """An axis with a step for each level."""
    labels = each.levels.labels
    return {
        "title": {"text": plain(each.key)},
        "tickvals": list(range(len(labels))),
        "ticktext": [tick(label) for label in labels],
        "showgrid": False,
        "zeroline": False,
    }
