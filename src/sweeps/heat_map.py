"""A metric over two settings of a sweep, as a map of colours and numbers."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from src.axes import find_window
from src.colours import COLOURS
from src.sweeps.pictures import (
    ROUNDING,
    MetricPicture,
    in_words,
    is_logarithmic,
    is_share,
    lower_is_better,
    measured,
    within,
)
from src.sweeps.results import mean
from src.sweeps.runs import Run, said

NAMES = {"lr": "learning rate"}
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
            colour = ink(*image.cmap(image.norm(value))[:3]) if np.isfinite(value) else "black"
            axis.text(column, row, number(value, is_share(metric)), color=colour, ha="center", va="center", fontsize=9)
        best = np.nanmin(means) if lower else np.nanmax(means)
        frame(axis, np.argwhere(np.isclose(means, best, rtol=ROUNDING, atol=0)))
        label_axes(axis, runs, self.x, self.y)
        words = f"{in_words(metric)}{averaged([len(cell) for row in cells for cell in row])}"
        percent = PercentFormatter(1.0, decimals=None) if is_share(metric) else None
        extend = "neither" if window is None else ENDS[window.below > 0, window.above > 0]
        figure.colorbar(image, ax=axis, label=words, format=percent, extend=extend).outline.set_visible(False)
        figure.legend(handles=axis.patches[:1], loc="outside lower center", fontsize=9)
        figure.suptitle(self.title, fontsize=11)


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


def ink(*colour: float) -> str:
    """Black or white, whichever has the higher contrast with a colour: red, green and blue in [0, 1] (WCAG 2.1)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def averaged(counts: list[int]) -> str:
    """Over how many runs the means are, on a line of its own: "(mean of 3 runs)"."""
    low, high = min(filter(None, counts)), max(counts)
    if high == 1:
        return ""
    return f"\n(mean of {high} runs)" if low == high else f"\n(mean of {low} to {high} runs)"


def frame(axis: Axes, places: np.ndarray) -> None:
    """A frame around cells (N, 2), row and column."""
    for row, column in places:
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=COLOURS[1], linewidth=3)
        axis.add_patch(box).set_label("best")


def label_axes(axis: Axes, runs: list[Run], x: str, y: str) -> None:
    """The settings' names and values at the cells; nothing at an axis whose setting is not swept."""
    for part, key in ((axis.xaxis, x), (axis.yaxis, y)):
        names, last = levels(runs, key), key.split(".")[-1]
        swept = names != [None]
        part.set_ticks(range(len(names)), [name or NOTHING if swept else "" for name in names])
        part.set_label_text(NAMES.get(last, last.replace("_", " ")) if swept else "")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
