"""Draw success rates over one setting, with a line for each value of another."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.callbacks.figures.base import tick_shares
from src.sweeps.figures.base import DASHES, ROUNDING, MetricPicture, in_words, is_share, measured, wilson
from src.sweeps.figures.heat_map import level, levels
from src.sweeps.store.runs import Run, name_in_words, said


class ShareLines(MetricPicture):
    """A line plot of success rates: the fraction of runs whose metric reaches a threshold.

    Bands show 95% confidence intervals (Wilson, 1927).

    Args:
        at_least: the threshold.
        x: the setting along the horizontal axis, such as "model.hidden_size".
        by: the setting with one line per value, such as "optimizer.lr".
        settings: the arguments of `MetricPicture`.
    """

    def __init__(self, at_least: float, x: str, by: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.at_least, self.x, self.by = at_least, x, by

    def size(self, runs: list[Run]) -> tuple[float, float]:
        return (7.6, 4.4)

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        self.values(runs)  # raises if no run has the metric
        axis, metric, columns = figure.subplots(), self.metric_of(runs), levels(runs, self.x)
        lines = levels(runs, self.by)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, max(len(lines), 2)))
        for number, line in enumerate(lines):
            members = [run for run in runs if level(run, self.by) == line]
            rates = [self.share([run for run in members if level(run, self.x) == value], metric) for value in columns]
            draw_line(axis, rates, str(said(line)), colours[number], DASHES[number % len(DASHES)])
        enough = f"{100 * self.at_least:.4g}%" if is_share(metric) else f"{self.at_least:.4g}"
        axis.set_xticks(range(len(columns)), [str(said(value)) for value in columns])
        axis.set(
            xlabel=name_in_words(self.x), ylabel=f"share of runs with {in_words(metric)} ≥ {enough}", ylim=(-0.02, 1.02)
        )
        tick_shares(axis.yaxis)
        axis.grid(alpha=0.25)
        axis.legend(title=name_in_words(self.by), loc="best")
        figure.suptitle(self.title)

    def share(self, runs: list[Run], metric: str) -> tuple[float, float, float]:
        """Return the success rate of runs and the limits of its interval, or NaN if no run has the metric."""
        values = measured(runs, metric)
        if not len(values):
            return (np.nan, np.nan, np.nan)
        enough = int((values >= self.at_least - ROUNDING).sum())
        return (enough / len(values), *wilson(enough, len(values)))


def draw_line(axis: Axes, shares: Sequence[tuple[float, float, float]], label: str, colour: Any, dashes: str) -> None:
    """Draw a line with its band through ``shares``: triples of a success rate and the limits of its interval."""
    rates, low, high = np.array(shares).T
    positions = np.arange(len(shares))
    axis.fill_between(positions, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(positions, rates, color=colour, linestyle=dashes, marker="o", markersize=4, label=label)
