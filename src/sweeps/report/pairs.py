"""What two settings do together to the metric that chooses: heat maps for plotly.js."""

import math
import statistics
from itertools import combinations

from src.sweeps.report.plots import Effect, Figure, metric_axis, metric_of, plain, tick
from src.sweeps.results import Board, measured

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
    """The mean of the metric at each pair of levels, over all else; the brighter the better."""
    metric, found = metric_of(board) or "", cells(across, down)
    means = [[statistics.fmean(cell) if cell else None for cell in row] for row in found]
    flat = [value for row in means for value in row if value is not None]
    logarithmic = "type" in metric_axis(metric, flat)
    heat = {
        "type": "heatmap",
        "z": [[math.log10(value) if logarithmic and value else value for value in row] for row in means],
        "text": [[short_number(metric, value) for value in row] for row in means],
        "customdata": told(across, down, found, metric),
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "colorscale": "Viridis",
        "reversescale": not higher_is_better(board, metric),
        "colorbar": {"title": {"text": plain(metric)}, **colour_ticks(metric, flat, logarithmic)},
        "xgap": 2,
        "ygap": 2,
    }
    if len(across.levels.labels) <= MOST_ROOM:
        heat["texttemplate"] = "%{text}"
    return {"data": [heat], "layout": {"xaxis": level_axis(across), "yaxis": level_axis(down)}}


def higher_is_better(board: Board, metric: str) -> bool:
    return board.mode == "max" if board.mode else "/acc" in metric


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
        return metric_axis(metric, values)
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
