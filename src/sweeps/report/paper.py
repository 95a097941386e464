"""Write the figures of a report for a paper: vector graphics of one column's width, with embedded fonts.

They are drawn from the same data as the plots of the page.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from src.core.colours import LINES_ON_LIGHT
from src.core.disk import StorageError
from src.core.errors import InputError
from src.core.formatting import describe_setting_name, get_short_names
from src.storage.files import open_atomic
from src.sweeps.figures.base import describe_metric
from src.sweeps.figures.callback import format_error, read_configured_figures
from src.sweeps.report import plots
from src.sweeps.report.curves import STAGES, collect_curves
from src.sweeps.report.plots import collect_effects, make_effect_figure
from src.sweeps.report.reading import Sweeps, get_sweep_names
from src.sweeps.store.aggregate import compute_mean
from src.sweeps.store.runs import Run, select_runs_with_metrics

COLUMN_WIDTH, PAGE_WIDTH = 3.35, 7.0  # inches: the width of a column and of a page's text
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.1,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # embedded TrueType: journals reject Type 3 fonts
    "svg.fonttype": "path",  # letters as outlines
    "svg.hashsalt": "report",  # fixed ids, so that the file is reproducible
}
UNDATED_METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
MARKERS = {"diamond": "D", "triangle-up": "^", "triangle-down": "v"}
Draw = Callable[[Figure], None]


def write_figures(
    sweeps: Sweeps, file_format: str, packages: tuple[str, ...], warn: Callable[[str], object]
) -> list[Path]:
    """Write the effects of the settings, the learning curves and the sweeps' own figures into ``figures/``.

    Args:
        sweeps: the sweeps; all files are written into ``figures/`` of the first.
        file_format: the file format, "pdf" or "svg".
        packages: packages outside this project whose classes the configs of the sweeps' figures and runs may name.
        warn: is called with one line for each figure that cannot be drawn.

    Returns:
        The paths of the files written.

    Raises:
        StorageError: if the first folder cannot be written.
    """
    home = sweeps.folders[0] / "figures"
    figures = {
        name: (COLUMN_WIDTH, height, draw)
        for name, height, draw in [*_prepare_effects(sweeps), *_prepare_curves(sweeps)]
    }
    figures |= _prepare_sweep_figures(sweeps, packages, warn)
    written = []
    for name, (width, height, draw) in figures.items():
        path = home / f"{name}.{file_format}"
        try:
            _write_figure(path, file_format, (width, height), draw)
            written.append(path)
        except StorageError:
            raise
        except Exception as error:  # the other figures can still be drawn
            warn(f"{path} cannot be drawn: {format_error(error)}")
    return written


def _write_figure(path: Path, file_format: str, size: tuple[float, float], draw: Draw) -> None:
    """Draw a figure of a size in inches and write it atomically."""
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        draw(figure)
        with open_atomic(path) as file:
            figure.savefig(file, format=file_format, metadata=UNDATED_METADATA[file_format])


def _make_file_name(*parts: str) -> str:
    """Return a file name made of parts: "effect_hidden_size"."""
    return "_".join(word for part in parts if (word := re.sub(r"[^\w.-]+", "_", part).strip("_.")))


# Effects of the settings


def _prepare_effects(sweeps: Sweeps) -> list[tuple[str, float, Draw]]:
    """Return the name, the height and the drawing function of each setting's effect, for all boards."""
    found, taken = sweeps.leaderboards, set[str]()
    figures: list[tuple[str, float, Draw]] = []
    for board in found:
        known = collect_effects(board)
        for each, setting in zip(known, get_short_names([effect.key for effect in known]), strict=True):
            name = _make_file_name("effect", setting, *([board.data or "other data"] if len(found) > 1 else []))
            name = name if name not in taken else f"{name}_{len(taken)}"
            taken.add(name)
            plot = make_effect_figure(each, board)
            figures.append((name, 2.3, partial(_draw_effect, plot=plot)))
    return figures


def _draw_effect(figure: Figure, plot: plots.PlotlyFigure) -> None:
    """Draw the traces of the page's figure: dots, marks at the edge, and means with their standard deviations."""
    axis = figure.subplots()
    for trace in plot["data"]:
        marker = trace["marker"]
        lines = "lines" in trace["mode"]
        axis.errorbar(
            trace["x"],
            trace["y"],
            yerr=_find_reach(trace.get("error_y")),
            clip_on=trace.get("cliponaxis", True),
            # Traces on plotly's second y-axis give their height as a fraction of the plot.
            transform=axis.get_xaxis_transform() if "yaxis" in trace else axis.transData,
            marker=MARKERS.get(marker.get("symbol", ""), "o"),
            markersize=marker["size"] / 2,
            markeredgewidth=0,
            linestyle="-" if lines else "none",
            color=marker["color"],
            alpha=marker.get("opacity"),
            elinewidth=0.9,
            capsize=2,
        )
    _set_axis(axis, "x", plot["layout"]["xaxis"])
    _set_axis(axis, "y", plot["layout"]["yaxis"])


def _find_reach(bars: plots.PlotlyFigure | None) -> list[list[float]] | None:
    """Return the lengths of error bars downwards and upwards, or ``None`` if a trace has none."""
    return [bars[key if key in bars else "array"] for key in ("arrayminus", "array")] if bars else None


def _set_axis(axis: Axes, which: str, axis_layout: plots.PlotlyFigure) -> None:
    """Apply the axis settings of the page's figure: label, scale, limits and ticks."""
    side = axis.xaxis if which == "x" else axis.yaxis
    logarithmic = axis_layout.get("type") == "log"
    axis.set(**{f"{which}label": _format_title(axis_layout["title"]["text"])})
    if logarithmic:
        axis.set(**{f"{which}scale": "log"})
    if "range" in axis_layout:  # plotly gives log10 of a logarithmic axis's limits
        low, high = axis_layout["range"]
        axis.set(**{f"{which}lim": (10**low, 10**high) if logarithmic else (low, high)})
    elif limits := axis_layout.get("autorangeoptions"):
        low, high = side.get_view_interval()
        axis.set(**{f"{which}lim": (max(low, limits["clipmin"]), min(high, limits["clipmax"]))})
    if "tickvals" in axis_layout:
        side.set_major_locator(FixedLocator(axis_layout["tickvals"]))
        side.set_major_formatter(FixedFormatter([_to_matplotlib_text(label) for label in axis_layout["ticktext"]]))
        side.set_minor_locator(NullLocator())
    if "%" in axis_layout.get("tickformat", ""):
        side.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _format_title(text: str) -> str:
    """Return an axis label in words, such as "hidden size" or "validation accuracy"; further lines are kept."""
    name, *more = _to_matplotlib_text(text).split("\n")
    return "\n".join([describe_metric(name) if "/" in name else describe_setting_name(name), *more])


def _to_matplotlib_text(text: str) -> str:
    """Convert a text for plotly into one for matplotlib: without HTML markup, with dollar signs escaped."""
    return unescape(text.replace("<br>", "\n")).replace("$", r"\$")


# Learning curves


def _prepare_curves(sweeps: Sweeps) -> list[tuple[str, float, Draw]]:
    """Return the name, the height and the drawing function of each metric's curves, for all data sets."""
    content = collect_curves(sweeps)
    figures: list[tuple[str, float, Draw]] = []
    for index, (data, axes) in enumerate(zip(content["data"], content["axes"], strict=True)):
        runs = [number for number, run in enumerate(content["runs"]) if run["data"] == index and run["finished"]]
        for metric in axes if runs else ():
            name = _make_file_name("curves", metric, *([data] if len(content["data"]) > 1 else []))
            rows = -(-len({content["groups"][0]["of"][run] for run in runs}) // 2)  # of the legend, with two columns
            draw = partial(_draw_curves, curve_data=content, metric=metric, runs=runs, axes=axes)
            figures.append((name, 2.3 + 0.16 * rows, draw))
    return figures


def _draw_curves(
    figure: Figure, curve_data: dict[str, Any], metric: str, runs: list[int], axes: plots.PlotlyFigure
) -> None:
    """Draw the mean curve of each colour's runs: training dotted, validation with a band from minimum to maximum."""
    axis, group = figure.subplots(), curve_data["groups"][0]
    handles: dict[str, Line2D] = {}
    for level, label in enumerate(group["labels"]):
        members = [curve_data["runs"][run]["lines"] for run in runs if group["of"][run] == level]
        for stage in reversed(STAGES):
            lines = [lines[f"{stage}/{metric}"] for lines in members if f"{stage}/{metric}" in lines]
            if drawn := _draw_mean(axis, curve_data["epochs"], lines, stage, _choose_colour(group, level)):
                handles.setdefault(_to_matplotlib_text(label), drawn)
    _set_axis(axis, "y", axes[metric]["axis"])
    axis.set_xlabel("\n".join(filter(None, ["epoch", axes[metric]["beyond"]])))
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if len(handles) > 1:
        title = _format_title(group["name"])
        figure.legend(list(handles.values()), list(handles), title=title, ncols=2, loc="outside lower center")


def _draw_mean(
    axis: Axes, epochs: list[list[int]], lines: list[tuple[int, list[float]]], stage: str, colour: str
) -> Line2D | None:
    """Draw the mean of curves at their common epochs, for validation with a band from minimum to maximum."""
    found = defaultdict[int, list[float]](list)
    for index, values in lines:
        for epoch, value in zip(epochs[index], values, strict=True):
            found[epoch].append(value)
    common = sorted(epoch for epoch, values in found.items() if len(values) == len(lines))
    if not common:
        return None
    if stage == "val" and len(lines) > 1:
        low, high = [[end(found[epoch]) for epoch in common] for end in (min, max)]
        axis.fill_between(common, low, high, color=colour, alpha=0.15, linewidth=0)
    style, few = ":" if stage == "train" else "-", "o" if len(common) < 4 else ""
    means = [compute_mean(found[epoch]) for epoch in common]
    return axis.plot(common, means, style, color=colour, marker=few, markersize=2.5)[0]


def _choose_colour(group: dict[str, Any], level: int) -> str:
    """Return the colour of a level; numbers get one from a continuous colour map."""
    if not group["ordered"]:
        return LINES_ON_LIGHT[level]
    return to_hex(colormaps["viridis"](0.71 * level / max(1, len(group["labels"]) - 1)))


# Figures configured in the sweeps


def _prepare_sweep_figures(
    sweeps: Sweeps, packages: tuple[str, ...], warn: Callable[[str], object]
) -> dict[str, tuple[float, float, Draw]]:
    """Return the size and the drawing function of each figure that the sweeps configured, by file name."""
    figures = {}
    for folder, sweep in get_sweep_names(sweeps.folders).items():
        if not (folder / "multirun.yaml").is_file():
            continue
        try:
            pictures = read_configured_figures(folder, packages)
            runs = select_runs_with_metrics(folder, sweeps.get_own_runs(folder)) if pictures else []
        except InputError as error:
            warn(str(error))
            continue
        for name, settings in pictures.items():
            file = _make_file_name(name, *([sweep] if len(sweeps.folders) > 1 else []))
            try:
                figures[file] = _prepare_sweep_figure(name, settings, packages, runs)
            except Exception as error:  # the other figures can still be drawn
                warn(f"figure {name} cannot be drawn: {format_error(error)}")
    return figures


def _prepare_sweep_figure(
    name: str, settings: dict[str, Any], packages: tuple[str, ...], runs: list[Run]
) -> tuple[float, float, Draw]:
    """Return the size and the drawing function of a figure that a sweep configured, scaled down to a page's width."""
    from src.training.build import instantiate_checked  # imports PyTorch

    picture = instantiate_checked(f"figure {name}", settings, name=name)
    picture.packages = packages
    width, height = picture.get_size(runs)
    factor = min(1.0, PAGE_WIDTH / width)
    return width * factor, height * factor, lambda figure: picture.draw(figure, runs)
