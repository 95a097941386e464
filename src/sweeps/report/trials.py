"""Figures for plotly.js of the trials of searches: the best value so far, or their Pareto front."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

from src.core.axes import find_axis_range
from src.sweeps.report.plots import (
    EDGE_AXIS,
    EDGE_MARGIN,
    PlotlyFigure,
    make_edge_marks,
    make_metric_axis,
    to_plotly_text,
)
from src.sweeps.store.aggregate import is_logarithmic
from src.sweeps.store.searches import SearchState, Trial, format_objective, select_front

MIN_EXPECTED = 10  # trials for the expected best of fewer


class ShownSearch(NamedTuple):
    """A search as it is shown.

    Attributes:
        name: the name of its sweep.
        state: its trials and what they show.
        titles: the titles of its jobs, by their numbers.
        colours: the colour of its trials and the colour of the line of its best value so far or its front.
    """

    name: str
    state: SearchState
    titles: dict[int, str]
    colours: tuple[str, str]

    @property
    def complete_trials(self) -> list[tuple[Trial, float]]:
        """The trials that have run to their ends, with their values; none if they are judged by several metrics."""
        return self.list_trials("complete")

    def list_trials(self, state: str) -> list[tuple[Trial, float]]:
        """Return the trials in a state that have a value, with it."""
        return [(each, each.value) for each in self.state.trials if each.state == state and each.value is not None]

    @property
    def best_of(self) -> Callable[..., Any]:
        """The function that returns the best of several values: ``max`` or ``min``."""
        return max if self.state.mode == "max" else min

    @property
    def judged_by(self) -> tuple[tuple[str, str], ...]:
        """The metrics that its trials are judged by, with their modes; searches are compared if these are the same."""
        return tuple((self.state.objectives or {self.state.metric: self.state.mode}).items())


# The best so far


def draw_progress(metric: str, part: list[ShownSearch]) -> PlotlyFigure:
    """Draw a dot for each trial and a step line of the best value so far.

    Trials that failed, or whose values are far off, are marked at the edge.
    """
    values = [value for search in part for kind in ("complete", "pruned") for _, value in search.list_trials(kind)]
    last = max((search.state.trials[-1].number for search in part if search.state.trials), default=0)
    window = find_axis_range(values, part[0].state.mode == "max", is_logarithmic(metric, values))
    layout = {
        "xaxis": {"title": {"text": "trial"}, "zeroline": False, "range": [-1, last + 1]},
        "yaxis": {"zeroline": False, **make_metric_axis(metric, values, window)},
        "yaxis2": EDGE_AXIS,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
    }
    traces = [trace for search in part for trace in _build_traces(search, several=len(part) > 1)]
    if window:
        trials = [trace for trace in traces if trace["mode"] == "markers" and trace["yaxis"] == "y"]
        traces += [mark for trace in trials for mark in make_edge_marks(trace, window)]
    return {"data": traces, "layout": layout}


def _build_traces(search: ShownSearch, several: bool) -> list[PlotlyFigure]:
    """Return the traces of one search, without empty ones; of several, the legend names each search's line."""
    name = to_plotly_text(search.name)
    failed = [trial for trial in search.state.trials if trial.state == "failed"]
    traces = [
        _make_marker_trace(search, [trial for trial, _ in search.complete_trials], "circle", "trials"),
        _make_best_trace(search, name if several else "best so far"),
        *_make_expected_traces(search, f"{name}: " if several else ""),
        _make_marker_trace(search, [trial for trial, _ in search.list_trials("pruned")], "circle-open", "pruned"),
        _make_marker_trace(search, failed, "x", "failed", EDGE_MARGIN),
    ]
    legends = [{"legendgroup": name, "showlegend": trace["mode"] == "lines"} if several else {} for trace in traces]
    return [trace | legend for trace, legend in zip(traces, legends, strict=True) if trace["x"]]


def _make_marker_trace(
    search: ShownSearch, trials: list[Trial], symbol: str, name: str, height: float | None = None
) -> PlotlyFigure:
    """Return a trace with a mark for each trial: at its value or, if ``height`` is set, at that height."""
    on_axis = height is None
    values = [trial.value for trial in trials]
    metric = to_plotly_text(search.state.metric)
    labels = [
        "failed"
        if trial.value is None
        else f"{metric} {trial.value:.5g}" + (f", pruned after epoch {trial.epochs}" if trial.state == "pruned" else "")
        for trial in trials
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.number for trial in trials],
        "y": values if on_axis else [height] * len(trials),
        "yaxis": "y" if on_axis else "y2",
        "text": [search.titles.get(trial.job, str(trial.job)) for trial in trials],
        "customdata": labels,
        "hovertemplate": "trial %{x}: %{customdata}<br>job %{text}<extra></extra>",
        "marker": {"color": search.colours[0], "symbol": symbol, "size": 7, "opacity": 0.5 if on_axis else 0.9},
    }


def _make_best_trace(search: ShownSearch, name: str) -> PlotlyFigure:
    """Return a step line of the best value so far, up to the last trial."""
    complete = search.complete_trials
    best = list(accumulate((value for _, value in complete), search.best_of))
    numbers = [trial.number for trial, _ in complete]
    if numbers and search.state.trials[-1].number > numbers[-1]:
        numbers, best = [*numbers, search.state.trials[-1].number], [*best, best[-1]]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": numbers,
        "y": best,
        "line": {"color": search.colours[1], "width": 2, "shape": "hv"},
        "hovertemplate": f"best up to trial %{{x}}: {to_plotly_text(search.state.metric)} %{{y}}<extra></extra>",
    }


def has_expected_best(search: ShownSearch) -> bool:
    is_random = search.state.sampler == "random" and not any(trial.state == "pruned" for trial in search.state.trials)
    return is_random and len(search.complete_trials) >= MIN_EXPECTED


def _make_expected_traces(search: ShownSearch, prefix: str) -> list[PlotlyFigure]:
    """Return two lines over the number of trials: the expected best of that many, and what it reaches in 95% of cases.

    They hold for trials that are independent, so a search that learns from its trials has none.
    """
    if not has_expected_best(search):
        return []
    values = [value for _, value in search.complete_trials]
    import numpy as np

    from src.sweeps.store.statistics import compute_expected_best, compute_likely_least  # imports SciPy

    sign = 1 if search.state.mode == "max" else -1
    counts = np.unique(np.geomspace(1, len(values), 60).round().astype(int))
    lines = {
        "expected best of random trials": (compute_expected_best(sign * np.array(values), counts), "dash"),
        "reached in 95% of cases": (compute_likely_least(sign * np.array(values), counts), "dot"),
    }
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": prefix + name,
            "x": [int(count) - 1 for count, value in zip(counts, best, strict=True) if np.isfinite(value)],
            "y": [float(sign * value) for value in best if np.isfinite(value)],
            "line": {"color": search.colours[0], "width": 1.5, "dash": dash},
            "hovertemplate": f"{prefix}{name}: {to_plotly_text(search.state.metric)} %{{y}}<extra></extra>",
        }
        for name, (best, dash) in lines.items()
    ]


# Several metrics


def draw_front(part: list[ShownSearch], up: int, across: int) -> PlotlyFigure:
    """Draw the trials by two of their metrics, given by their places, and the Pareto front.

    Trials whose values are far off in the first of them are marked at the edge.
    """
    (metric, mode), (other, _) = part[0].judged_by[up], part[0].judged_by[across]
    points = [trial.values for search in part for trial in search.state.trials if trial.values]
    high, wide = ([values[place] for values in points] for place in (up, across))
    window = find_axis_range(high, mode == "max", is_logarithmic(metric, high))
    layout = {
        "xaxis": {"zeroline": False, **make_metric_axis(other, wide)},
        "yaxis": {"zeroline": False, **make_metric_axis(metric, high, window)},
        "yaxis2": EDGE_AXIS,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
    }
    traces = [trace for search in part for trace in _build_front_traces(search, up, across, several=len(part) > 1)]
    marks = [mark for trace in traces for mark in make_edge_marks(trace, window)] if window else []
    return {"data": [*traces, *marks], "layout": layout}


def _build_front_traces(search: ShownSearch, up: int, across: int, several: bool) -> list[PlotlyFigure]:
    """Return the traces of a search's other trials and of those on its front; of two metrics, a line borders these."""
    front, prefix = select_front(search.state), f"{to_plotly_text(search.name)}: " if several else ""
    rest = [trial for trial in search.state.trials if trial.values and trial not in front]
    front.sort(key=lambda trial: (trial.values or [])[across])
    # Between two trials of the front, the better one in the metric below is what a value there can be had for.
    shape = "vh" if search.judged_by[across][1] == "max" else "hv"
    line = {"mode": "lines+markers", "line": {"color": search.colours[1], "width": 1.5, "shape": shape}}
    border = line if len(search.judged_by) == 2 else {}
    dots = _make_front_trace(search, rest, (up, across)) | {"name": f"{prefix}trials"}
    edge = _make_front_trace(search, front, (up, across)) | {"name": f"{prefix}Pareto front", **border}
    dots["marker"] = {"color": search.colours[0], "size": 7, "opacity": 0.45}
    edge["marker"] = {"color": search.colours[1], "size": 10, "symbol": "diamond"}
    return [trace for trace in (dots, edge) if trace["x"]]


def _make_front_trace(search: ShownSearch, trials: list[Trial], axes: tuple[int, int]) -> PlotlyFigure:
    names = [metric for metric, _ in search.judged_by]
    known = [dict(zip(names, trial.values or [], strict=True)) for trial in trials]
    y, x = ([values[names[place]] for values in known] for place in axes)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "yaxis": "y",
        "text": [search.titles.get(trial.job, str(trial.job)) for trial in trials],
        "customdata": [
            f"trial {trial.number}: {to_plotly_text(_format_values(values))}"
            for trial, values in zip(trials, known, strict=True)
        ],
        "hovertemplate": "%{customdata}<br>job %{text}<extra></extra>",
    }


def _format_values(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {format_objective(name, [value])}" for name, value in values.items())
