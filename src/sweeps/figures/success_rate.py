"""Draw success rates over one setting, with a line for each value of another."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.callbacks.figures.base import set_percent_ticks
from src.core.formatting import describe_setting_name, format_setting_value
from src.sweeps.figures.base import (
    LINE_STYLES,
    TOLERANCE,
    MetricFigure,
    collect_metric,
    describe_success,
)
from src.sweeps.figures.heat_map import find_levels, format_level
from src.sweeps.store.runs import Run
from src.sweeps.store.statistics import compute_wilson_interval


class SuccessRateLines(MetricFigure):
    """A line plot of success rates: the fraction of runs whose metric reaches a threshold.

    Bands show 95% confidence intervals (Wilson, 1927).

    Args:
        at_least: the threshold.
        x: the setting along the horizontal axis, such as "model.hidden_size".
        by: the setting with one line per value, such as "optimizer.lr".
        kwargs: the arguments of `MetricFigure`.
    """

    def __init__(self, at_least: float, x: str, by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.at_least, self.x, self.by = at_least, x, by

    def get_size(self, runs: list[Run]) -> tuple[float, float]:
        return (7.6, 4.4)

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        self.collect_values(runs)  # raises if no run has the metric
        axis, metric, columns = figure.subplots(), self.choose_metric(runs), find_levels(runs, self.x)
        lines = find_levels(runs, self.by)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, max(len(lines), 2)))
        for number, line in enumerate(lines):
            members = [run for run in runs if format_level(run, self.by) == line]
            rates = [
                self.compute_success_rate([run for run in members if format_level(run, self.x) == value], metric)
                for value in columns
            ]
            _draw_line(
                axis, rates, str(format_setting_value(line)), colours[number], LINE_STYLES[number % len(LINE_STYLES)]
            )
        axis.set_xticks(range(len(columns)), [str(format_setting_value(value)) for value in columns])
        axis.set(
            xlabel=describe_setting_name(self.x),
            ylabel=describe_success(metric, self.at_least),
            ylim=(-0.02, 1.02),
        )
        set_percent_ticks(axis.yaxis)
        axis.grid(alpha=0.25)
        axis.legend(title=describe_setting_name(self.by), loc="best")
        figure.suptitle(self.title)

    def compute_success_rate(self, runs: list[Run], metric: str) -> tuple[float, float, float]:
        """Return the success rate of runs and the limits of its interval, or NaN if no run has the metric."""
        values = collect_metric(runs, metric)
        if not len(values):
            return (np.nan, np.nan, np.nan)
        enough = int((values >= self.at_least - TOLERANCE).sum())
        return (enough / len(values), *compute_wilson_interval(enough, len(values)))


def _draw_line(
    axis: Axes, rate_intervals: Sequence[tuple[float, float, float]], label: str, colour: Any, line_style: str
) -> None:
    """Draw a line with its band through ``rate_intervals``: a success rate and its interval's limits each."""
    rates, low, high = np.array(rate_intervals).T
    positions = np.arange(len(rate_intervals))
    axis.fill_between(positions, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(positions, rates, color=colour, linestyle=line_style, marker="o", markersize=4, label=label)
