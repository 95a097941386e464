"""A metric over two settings of a sweep, as a map of colours and numbers."""

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
ENDS = {(True, False): "min", (False, True): "max", (True, True): "both"}  # of the colours, beyond which values lie


class HeatMap(MetricPicture):
    """The mean of the metric over all runs that share two settings' values, brighter where it is better.

    The best mean has a frame. Numbers are in their order on both axes, other values behind them; a setting that is
    not swept makes a single row or column.

    Args:
        x: the setting along the horizontal axis, such as "optimizer.lr".
        y: the one along the vertical axis.
        settings: those of `MetricPicture`.
    """

    def __init__(self, x: str, y: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.x, self.y = x, y

    def size(self, runs: list[Run]) -> tuple[float, float]:
        return (max(5.4, 2.4 + 0.86 * len(levels(runs, self.x))), max(2.9, 1.9 + 0.52 * len(levels(runs, self.y))))

    def cells(self, runs: list[Run]) -> list[list[np.ndarray]]:
        """The metric's values in each cell, [y][x]; runs that lack it are left out."""
        metric = self.metric_of(runs)
        rows, columns = levels(runs, self.y), levels(runs, self.x)
        return [
            [measured([run for run in runs if (level(run, self.y), level(run, self.x)) == (row, column)], metric)
             for column in columns]
            for row in rows
        ]  # fmt: skip

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        self.values(runs)  # raises where there are none
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
    """A run's value of a setting as it is said; ``None`` where it was not swept."""
    return said(run.swept[key]) if key in run.swept else None


def levels(runs: list[Run], key: str) -> list[str | None]:
    """The different values of a setting: numbers in their order, then the others as they come."""
    values = {level(run, key): run.swept.get(key) for run in runs}

    def place(name: str | None) -> float:
        value = values[name]
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else np.inf

    return sorted(values, key=place)


def number(mean: float, share: bool) -> str:
    """A cell's mean: "97.43%", "0.0123"; a dash where there is none."""
    if not np.isfinite(mean):
        return NOTHING
    return f"{100 * mean:.2f}%" if share else f"{mean:.3g}"


def averaged(counts: list[int]) -> str:
    """Over how many runs the means are, on a line of its own: "(mean of 3 runs)"."""
    low, high = min(filter(None, counts)), max(counts)
    if high == 1:
        return ""
    return f"\n(mean of {high} runs)" if low == high else f"\n(mean of {low} to {high} runs)"


def frame(axis: Axes, places: np.ndarray) -> None:
    """A frame around cells (N, 2), row and column."""
    for row, column in places:
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=3)
        axis.add_patch(box).set_label("best")


def label_axes(axis: Axes, runs: list[Run], x: str, y: str) -> None:
    """The settings' names and values at the cells; nothing at an axis whose setting is not swept."""
    for part, key in ((axis.xaxis, x), (axis.yaxis, y)):
        names = levels(runs, key)
        swept = names != [None]
        part.set_ticks(range(len(names)), [name or NOTHING if swept else "" for name in names])
        part.set_label_text(name_in_words(key) if swept else "")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
