"""Draw a heat map of a metric over two settings of a sweep."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from src.callbacks.figures.base import set_decade_ticks, set_percent_ticks
from src.core.axes import find_axis_range
from src.core.colours import choose_contrast_colour
from src.core.formatting import NO_VALUE, describe_setting_name, format_metric, format_setting_value, is_fraction
from src.sweeps.figures.base import (
    TOLERANCE,
    MetricFigure,
    collect_metric,
    describe_metric,
    filter_visible,
)
from src.sweeps.store.aggregate import compute_mean, is_logarithmic, is_lower_better
from src.sweeps.store.runs import Run

COLORBAR_EXTEND = {
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}  # (below, above): ends of the colour bar


class HeatMap(MetricFigure):
    """A heat map of the mean metric over all runs with the same values of two settings; brighter is better.

    The best mean has a frame. On both axes numbers are sorted, and other values follow them. A setting that is not
    swept makes a single row or column.

    Args:
        x: the setting along the horizontal axis, such as "optimizer.lr".
        y: the setting along the vertical axis.
        kwargs: the arguments of `MetricFigure`.
    """

    def __init__(self, x: str, y: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x, self.y = x, y

    def get_size(self, runs: list[Run]) -> tuple[float, float]:
        return (
            max(5.4, 2.4 + 0.86 * len(find_levels(runs, self.x))),
            max(2.9, 1.9 + 0.52 * len(find_levels(runs, self.y))),
        )

    def collect_cells(self, runs: list[Run]) -> list[list[np.ndarray]]:
        """Return the metric's values in each cell, as [y][x]; runs that lack the metric are left out."""
        metric = self.choose_metric(runs)
        rows, columns = find_levels(runs, self.y), find_levels(runs, self.x)
        return [
            [collect_metric([run for run in runs if (format_level(run, self.y), format_level(run, self.x)) == (row,
            column)], metric) for column in columns]
            for row in rows
        ]  # fmt: skip

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        self.collect_values(runs)  # raises if no run has the metric
        axis, metric, cells = figure.subplots(), self.choose_metric(runs), self.collect_cells(runs)
        means = np.array([[compute_mean(cell) for cell in row] for row in cells])  # (y, x)
        lower, found = is_lower_better(runs, metric), means[np.isfinite(means)]
        window = find_axis_range(found.tolist(), not lower, is_logarithmic(metric, found.tolist()))
        shown = filter_visible(window, found)
        norm = (LogNorm if is_logarithmic(metric, shown.tolist()) else Normalize)(shown.min(), shown.max())
        image = axis.imshow(means, cmap="viridis_r" if lower else "viridis", norm=norm, origin="lower", aspect="auto")
        for (row, column), value in np.ndenumerate(means):
            colour = choose_contrast_colour(*image.cmap(image.norm(value))[:3]) if np.isfinite(value) else "black"
            axis.text(column, row, format_mean(metric, value), color=colour, ha="center", va="center", fontsize=9)
        best = np.nanmin(means) if lower else np.nanmax(means)
        _highlight_cells(axis, np.argwhere(np.isclose(means, best, rtol=TOLERANCE, atol=0)))
        _set_axis_labels(axis, runs, self.x, self.y)
        words = f"{describe_metric(metric)}{_format_run_count([len(cell) for row in cells for cell in row])}"
        extend = "neither" if window is None else COLORBAR_EXTEND[window.below > 0, window.above > 0]
        bar = figure.colorbar(image, ax=axis, label=words, extend=extend)
        bar.outline.set_visible(False)
        if is_fraction(metric):
            set_percent_ticks(bar.ax.yaxis)
        elif is_logarithmic(metric, shown.tolist()):
            set_decade_ticks(bar.ax.yaxis, shown.tolist())
        figure.legend(handles=axis.patches[:1], loc="outside lower center", fontsize=9)
        figure.suptitle(self.title)


def format_level(run: Run, key: str) -> str | None:
    """Return a run's value of a setting as text, or ``None`` if the setting was not swept."""
    return format_setting_value(run.swept[key]) if key in run.swept else None


def find_levels(runs: list[Run], key: str) -> list[str | None]:
    """Return the distinct values of a setting: sorted numbers, then other values in order of appearance."""
    values = {format_level(run, key): run.swept.get(key) for run in runs}

    def get_sort_key(name: str | None) -> float:
        value = values[name]
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else np.inf

    return sorted(values, key=get_sort_key)


def format_mean(metric: str, value: float) -> str:
    """Format a cell's mean: "97.43%", "0.0123", or a dash if there is none."""
    return format_metric(metric, value, number_format=".3g") if np.isfinite(value) else NO_VALUE


def _format_run_count(counts: list[int]) -> str:
    """Return a separate line on how many runs were averaged: "(mean of 3 runs)"; nothing if each mean is of one run."""
    low, high = min(filter(None, counts)), max(counts)
    if high == 1:
        return ""
    return f"\n(mean of {high} runs)" if low == high else f"\n(mean of {low} to {high} runs)"


def _highlight_cells(axis: Axes, cells: np.ndarray) -> None:
    """Draw a frame around cells; ``_collect_cells`` (N, 2) holds their rows and columns."""
    for row, column in cells:
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=3)
        axis.add_patch(box).set_label("best")


def _set_axis_labels(axis: Axes, runs: list[Run], x: str, y: str) -> None:
    """Label the axes with the settings' names and values; an axis whose setting is not swept gets no labels."""
    for part, key in ((axis.xaxis, x), (axis.yaxis, y)):
        names = find_levels(runs, key)
        swept = names != [None]
        part.set_ticks(range(len(names)), [name or NO_VALUE if swept else "" for name in names])
        part.set_label_text(describe_setting_name(key) if swept else "")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
