"""Draw a heat map of a metric over two settings of a sweep."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.callbacks.figures.base import tick_decades, tick_shares
from src.core.axes import find_window
from src.core.colours import choose_ink
from src.sweeps.figures.base import (
    ROUNDING,
    MetricPicture,
    in_words,
    is_logarithmic,
    is_share,
    lower_is_better,
    measured,
    within,
)
from src.sweeps.store.leaderboard import mean
from src.sweeps.store.runs import Run, name_in_words, said

NOTHING = "–"
ENDS = {(True, False): "min", (False, True): "max", (True, True): "both"}  # (below, above): ends of the colour bar


class HeatMap(MetricPicture):
    """A heat map of the mean metric over all runs with the same values of two settings; brighter is better.

    The best mean has a frame. On both axes numbers are sorted, and other values follow them. A setting that is not
    swept makes a single row or column.

    Args:
        x: the setting along the horizontal axis, such as "optimizer.lr".
        y: the setting along the vertical axis.
        settings: the arguments of `MetricPicture`.
    """

    def __init__(self, x: str, y: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.x, self.y = x, y

    def size(self, runs: list[Run]) -> tuple[float, float]:
        return (max(5.4, 2.4 + 0.86 * len(levels(runs, self.x))), max(2.9, 1.9 + 0.52 * len(levels(runs, self.y))))

    def cells(self, runs: list[Run]) -> list[list[np.ndarray]]:
        """Return the metric's values in each cell, as [y][x]; runs that lack the metric are left out."""
        metric = self.metric_of(runs)
        rows, columns = levels(runs, self.y), levels(runs, self.x)
        return [
            [measured([run for run in runs if (level(run, self.y), level(run, self.x)) == (row, column)], metric)
             for column in columns]
            for row in rows
        ]  # fmt: skip

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        self.values(runs)  # raises if no run has the metric
        axis, metric, cells = figure.subplots(), self.metric_of(runs), self.cells(runs)
        means = np.array([[mean(cell) for cell in row] for row in cells])  # (y, x)
        lower, found = lower_is_better(runs, metric), means[np.isfinite(means)]
        window = find_window(found.tolist(), not lower, is_logarithmic(metric, found))
        shown = within(window, found)
        norm = (LogNorm if is_logarithmic(metric, shown) else Normalize)(shown.min(), shown.max())
        image = axis.imshow(means, cmap="viridis_r" if lower else "viridis", norm=norm, origin="lower", aspect="auto")
        for (row, column), value in np.ndenumerate(means):
            colour = choose_ink(*image.cmap(image.norm(value))[:3]) if np.isfinite(value) else "black"
            axis.text(column, row, number(value, is_share(metric)), color=colour, ha="center", va="center", fontsize=9)
        best = np.nanmin(means) if lower else np.nanmax(means)
        frame(axis, np.argwhere(np.isclose(means, best, rtol=ROUNDING, atol=0)))
        label_axes(axis, runs, self.x, self.y)
        words = f"{in_words(metric)}{averaged([len(cell) for row in cells for cell in row])}"
        extend = "neither" if window is None else ENDS[window.below > 0, window.above > 0]
        bar = figure.colorbar(image, ax=axis, label=words, extend=extend)
        bar.outline.set_visible(False)
        if is_share(metric):
            tick_shares(bar.ax.yaxis)
        elif is_logarithmic(metric, shown):
            tick_decades(bar.ax.yaxis, shown.tolist())
        figure.legend(handles=axis.patches[:1], loc="outside lower center", fontsize=9)
        figure.suptitle(self.title)


def level(run: Run, key: str) -> str | None:
    """Return a run's value of a setting as text, or ``None`` if the setting was not swept."""
    return said(run.swept[key]) if key in run.swept else None


def levels(runs: list[Run], key: str) -> list[str | None]:
    """Return the distinct values of a setting: sorted numbers, then other values in order of appearance."""
    values = {level(run, key): run.swept.get(key) for run in runs}

    def place(name: str | None) -> float:
        value = values[name]
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else np.inf

    return sorted(values, key=place)


def number(mean: float, share: bool) -> str:
    """Format a cell's mean: "97.43%", "0.0123", or a dash if there is none."""
    if not np.isfinite(mean):
        return NOTHING
    return f"{100 * mean:.2f}%" if share else f"{mean:.3g}"


def averaged(counts: list[int]) -> str:
    """Return a separate line on how many runs were averaged: "(mean of 3 runs)"; nothing if each mean is of one run."""
    low, high = min(filter(None, counts)), max(counts)
    if high == 1:
        return ""
    return f"\n(mean of {high} runs)" if low == high else f"\n(mean of {low} to {high} runs)"


def frame(axis: Axes, places: np.ndarray) -> None:
    """Draw a frame around cells; ``places`` (N, 2) holds their rows and columns."""
    for row, column in places:
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=3)
        axis.add_patch(box).set_label("best")


def label_axes(axis: Axes, runs: list[Run], x: str, y: str) -> None:
    """Label the axes with the settings' names and values; an axis whose setting is not swept gets no labels."""
    for part, key in ((axis.xaxis, x), (axis.yaxis, y)):
        names = levels(runs, key)
        swept = names != [None]
        part.set_ticks(range(len(names)), [name or NOTHING if swept else "" for name in names])
        part.set_label_text(name_in_words(key) if swept else "")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
