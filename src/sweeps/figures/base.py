"""Draw figures over the runs of a sweep from their folders, when it ends or at any later time."""

import math
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.callbacks.figures.base import (
    limit_axis,
    set_decade_ticks,
    set_integer_ticks,
    set_percent_ticks,
)
from src.core.axes import AxisRange, find_axis_range, limit_error_bar
from src.core.colours import COLOURS, OTHER
from src.core.errors import InputError
from src.core.formatting import is_fraction
from src.sweeps.figures.images import read_png
from src.sweeps.store.aggregate import compute_mean, compute_std, format_mean_std, is_logarithmic, is_lower_better
from src.sweeps.store.runs import Run, group_by_caption
from src.sweeps.store.statistics import compute_wilson_interval

TOLERANCE = 1e-6  # metrics are computed in float32: 19 of 20 correct give 0.94999999
LINE_STYLES = ["-", "--", "-.", ":"]
RUN_COLOUR, MEAN_COLOUR = "#595959", "#000000"  # colours that do not stand for training, validation or a class
EDGE_MARGIN = 0.015  # distance of outliers' marks from the edge, as a fraction of the axis


class SweepFigure:
    """Base class of figures over several runs; a subclass defines `draw`, and `get_size` if needed.

    Args:
        name: the name of the file, ``figures/NAME.png`` in the sweep's folder.
        title: the title above the figure.
    """

    packages: tuple[str, ...] = ()  # packages outside this project whose classes the runs' configs may name

    def __init__(self, name: str, title: str = "") -> None:
        self.name, self.title = name, title

    def get_size(self, runs: list[Run]) -> tuple[float, float]:
        """Return width and height in inches, by default for one row per label."""
        groups = group_by_caption(runs)
        return (4.9 + 0.072 * max(map(len, groups)), 1.3 + 0.34 * len(groups))

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        raise AttributeError(f"{type(self).__name__} must define draw()")


class MetricFigure(SweepFigure):
    """Base class of figures of one metric.

    Args:
        metric: its name in ``metrics.json`` or ``history.csv``, such as "test/acc"; null: the metric that most of
            the runs monitor, or the training loss if none has a monitored metric.
        kwargs: the arguments of `SweepFigure`.
    """

    def __init__(self, metric: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metric = metric

    def choose_metric(self, runs: list[Run]) -> str:
        """Return the name of the metric that is drawn for these runs."""
        judges = Counter(judge for run in runs if (judge := run.metrics.get("monitor")) in run.metrics)
        return self.metric or next((str(judge) for judge, _ in judges.most_common(1)), "train/loss")

    def collect_values(self, runs: list[Run]) -> dict[str, np.ndarray]:
        """Return the metric's values by the runs' labels; runs that lack it are left out.

        Raises:
            InputError: if no run has the metric.
        """
        metric = self.choose_metric(runs)
        found = {label: collect_metric(group, metric) for label, group in group_by_caption(runs).items()}
        if not any(len(values) for values in found.values()):
            raise InputError(f"none of the {len(runs)} runs has the metric {metric}")
        return {label: values for label, values in found.items() if len(values)}


class Scores(MetricFigure):
    """A plot of each run's metric as a dot, and of each label's mean with its standard deviation."""

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        axis, groups, metric = figure.subplots(), self.collect_values(runs), self.choose_metric(runs)
        every = np.concatenate(list(groups.values()))
        window = find_axis_range(
            every.tolist(), not is_lower_better(runs, metric), is_logarithmic(metric, every.tolist())
        )
        for row, values in enumerate(groups.values()):
            average = compute_mean(values.tolist())
            axis.scatter(values, np.full(len(values), row), color=RUN_COLOUR, alpha=0.65, s=30, linewidths=0)
            _mark_beyond(axis, values, row, window, RUN_COLOUR)
            if len(values) > 1:
                spread = np.array(limit_error_bar(average, compute_std(values.tolist()) or 0.0, is_fraction(metric)))[
                    :, None
                ]  # (2, 1)
                axis.errorbar(average, row, xerr=spread, color=MEAN_COLOUR, marker="D", markersize=5, capsize=4)
                _mark_beyond(axis, np.array([average]), row, window, MEAN_COLOUR)
            _annotate_right(axis, row, format_summary(metric, values))
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set(
            xlabel=describe_metric(metric) + (f"\n({window.describe()})" if window else ""),
            ylim=(len(groups) - 0.5, -0.5),
        )
        if is_fraction(metric):
            set_percent_ticks(axis.xaxis, 5)
        elif is_logarithmic(metric, shown := filter_visible(window, every).tolist()):
            axis.set_xscale("log")
            set_decade_ticks(axis.xaxis, shown)
        if window:
            axis.set_xlim(window.low, window.high)
        axis.grid(alpha=0.25)
        figure.suptitle(self.title)


class SuccessRate(MetricFigure):
    """A bar chart of each label's success rate: the fraction of runs whose metric reaches a threshold.

    Each bar has its 95% confidence interval (Wilson, 1927).

    Args:
        at_least: the threshold.
        kwargs: the arguments of `MetricFigure`.
    """

    def __init__(self, at_least: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.at_least = at_least

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        axis, groups, metric = figure.subplots(), self.collect_values(runs), self.choose_metric(runs)
        for row, values in enumerate(groups.values()):
            solved, count = int((values >= self.at_least - TOLERANCE).sum()), len(values)
            low, high = compute_wilson_interval(solved, count)
            axis.barh(row, solved / count, height=0.55, color=OTHER)
            axis.plot([low, high], [row, row], color="black", linewidth=1.2, marker="|", markersize=8)
            _annotate_right(axis, row, f"{solved} of {count}")
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set(xlim=(0, 1), ylim=(len(groups) - 0.5, -0.5))
        axis.set_xlabel(f"{describe_success(metric, self.at_least)}\n(line: 95% interval)")
        set_percent_ticks(axis.xaxis)
        figure.suptitle(self.title)


class Curves(MetricFigure):
    """A plot of the metric over the epochs, with a line for the mean of each label's runs and a faint line per run."""

    def count_columns(self, labels: Iterable[str]) -> int:
        """Return how many labels fit next to each other in the legend."""
        return max(1, int(7.4 // (0.65 + 0.066 * max(map(len, labels)))))

    def get_size(self, runs: list[Run]) -> tuple[float, float]:
        labels = group_by_caption(runs)
        return (7.6, 4.0 + 0.2 * math.ceil(len(labels) / self.count_columns(labels)))

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        axis, groups, metric = figure.subplots(), group_by_caption(runs), self.choose_metric(runs)
        points = {run.folder: _collect_points(run, metric) for run in runs}
        for number, (label, group) in enumerate(groups.items()):
            style: Any = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINE_STYLES[number // len(COLOURS) % 4]}
            curves = [curve for run in group if len(curve := points[run.folder])]
            for curve in curves if len(curves) > 1 else []:
                axis.plot(*curve.T, alpha=max(0.05, 0.6 / len(curves)), linewidth=0.8, **style)
            if curves:
                mean = _average_curves(curves)
                axis.plot(*mean.T, label=label, marker="o" if len(mean) < 20 else "", markersize=4, **style)
        if not axis.lines:
            raise InputError(f"none of the {len(runs)} runs has the metric {metric} in its history.csv")
        axis.set(xlabel="epoch", ylabel=describe_metric(metric))
        if beyond := limit_axis(
            axis, [curve[:, 1] for curve in points.values()], higher=not is_lower_better(runs, metric)
        ):
            axis.set_xlabel(f"epoch\n({beyond})")
        set_integer_ticks(axis.xaxis)
        if is_fraction(metric):
            set_percent_ticks(axis.yaxis)
        axis.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=self.count_columns(groups), fontsize=9)
        figure.suptitle(self.title)


def _average_curves(curves: list[np.ndarray]) -> np.ndarray:
    """Return the mean of curves of epochs and values, each (n, 2), at the epochs that all of them have."""
    epochs = reduce(np.intersect1d, [curve[:, 0] for curve in curves])
    values = np.mean([curve[np.isin(curve[:, 0], epochs), 1] for curve in curves], axis=0)
    return np.stack([epochs, values], axis=1)


class ImageGrid(SweepFigure):
    """A grid of one figure that each run has drawn.

    Args:
        picture: the figure's name, such as "descent".
        columns: the number of images in a row.
        kwargs: the arguments of `SweepFigure`.
    """

    def __init__(self, picture: str, columns: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.picture, self.columns = picture, columns

    def find_images(self, runs: list[Run]) -> list[tuple[str, Path]]:
        """Return the titles and the files of the runs that have drawn the figure.

        Raises:
            InputError: if no run has drawn it.
        """
        files = [(run.full_caption, run.folder / "figures" / f"{self.picture}.png") for run in runs]
        existing = [(title, path) for title, path in files if path.is_file()]
        if not existing:
            raise InputError(f"none of the {len(runs)} runs has the figure figures/{self.picture}.png")
        return existing

    def get_size(self, runs: list[Run]) -> tuple[float, float]:
        files = self.find_images(runs)
        width, height = read_png(files[0][1]).size
        columns = min(self.columns, len(files))
        return (columns * 4.4, math.ceil(len(files) / columns) * (4.4 * height / width + 0.3) + 0.3)

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        files = self.find_images(runs)
        columns = min(self.columns, len(files))
        axes = list(figure.subplots(math.ceil(len(files) / columns), columns, squeeze=False).flat)
        for axis in axes:
            axis.axis("off")
        for axis, (title, path) in zip(axes, files, strict=False):
            axis.imshow(np.asarray(read_png(path)))
            axis.set_title(title, fontsize=10)
        figure.suptitle(self.title)


def _collect_points(run: Run, metric: str) -> np.ndarray:
    """Return a run's metric over the epochs in which it was measured: (N, 2), epoch and value."""
    measured = [(row["epoch"], row[metric]) for row in run.history if {"epoch", metric} <= row.keys()]
    return np.array(measured).reshape(-1, 2)


def collect_metric(runs: list[Run], metric: str) -> np.ndarray:
    """Return the metric of the runs that have it: (N,)."""
    return np.array([run.metrics[metric] for run in runs if run.metrics.get(metric) is not None], dtype=float)


def describe_metric(metric: str) -> str:
    """Return a metric's name in words, as an axis label: "test accuracy"."""
    words = {"val": "validation", "train": "training", "acc": "accuracy"}
    return " ".join(words.get(part, part) for part in metric.split("/"))


def _annotate_right(axis: Axes, row: int, text: str) -> None:
    """Write a text to the right of a row."""
    axis.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)


def filter_visible(window: AxisRange | None, values: np.ndarray) -> np.ndarray:
    """Return the values that lie in the window; all if there is none."""
    return values if window is None else values[(values >= window.low) & (values <= window.high)]


def _mark_beyond(axis: Axes, values: np.ndarray, row: float, window: AxisRange | None, colour: str) -> None:
    """Mark the ends of the horizontal axis beyond which there are values."""
    if window is None:
        return
    for position, marker, beyond in (
        (1 - EDGE_MARGIN, ">", values > window.high),
        (EDGE_MARGIN, "<", values < window.low),
    ):
        if beyond.any():
            axis.plot(position, row, marker=marker, color=colour, transform=axis.get_yaxis_transform())


def format_summary(metric: str, values: np.ndarray) -> str:
    """Format mean ± standard deviation and number of values: "97.43 ± 0.21% (n=5)"."""
    return f"{format_mean_std(metric, values.tolist(), '.3g', '.3g')} (n={len(values)})"


def describe_success(metric: str, at_least: float) -> str:
    """Return the label of a success rate: "fraction of runs with test accuracy ≥ 95%"."""
    enough = f"{100 * at_least:.4g}%" if is_fraction(metric) else f"{at_least:.4g}"
    return f"fraction of runs with {describe_metric(metric)} ≥ {enough}"
