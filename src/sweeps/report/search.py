"""Figures for plotly.js of a search: the best value so far over its trials, and the importance of each setting."""

from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from src.core.axes import find_axis_range
from src.core.colours import LINES_ON_LIGHT
from src.core.formatting import format_count, format_metrics
from src.storage import schema
from src.storage.schema import DamagedError
from src.sweeps.report.plots import (
    BLUE,
    EDGE_AXIS,
    EDGE_MARGIN,
    VERMILION,
    PlotlyFigure,
    format_run,
    make_edge_marks,
    make_metric_axis,
    to_plotly_text,
)
from src.sweeps.report.reading import Sweeps, get_sweep_names
from src.sweeps.store.aggregate import is_logarithmic

MIN_EXPECTED = 10  # trials for the expected best of fewer
EXPECTED = "Dashed: the best of this number of random trials on average; dotted: what it reaches in 95% of cases"
SEARCH_FILE = "search.json"  # file with the state of a search, in its sweep's folder


class Trial(NamedTuple):
    """A trial of a search.

    Attributes:
        number: its number in the search.
        job: the number of its job in the sweep.
        state: "complete", "failed" or "running".
        value: the metric, if it is complete.
    """

    number: int
    job: int
    state: str
    value: float | None


class SearchState(NamedTuple):
    """A search and its trials so far.

    Attributes:
        name: the name of its sweep.
        sampler: "tpe" or "random".
        metric: the monitored metric.
        mode: "min" or "max".
        trials: in the order of their numbers.
        importance: by setting, fractions that add up to 1; empty if there are too few trials.
        titles: the titles of its jobs, by their numbers.
        colours: the colour of its trials and the colour of the line of its best value so far.
    """

    name: str
    sampler: str
    metric: str
    mode: str
    trials: list[Trial]
    importance: dict[str, float]
    titles: dict[int, str]
    colours: tuple[str, str]

    @property
    def complete_trials(self) -> list[tuple[Trial, float]]:
        return [(trial, trial.value) for trial in self.trials if trial.value is not None]

    @property
    def best_of(self) -> Callable[..., Any]:
        """The function that returns the best of several values: ``max`` or ``min``."""
        return max if self.mode == "max" else min


class SearchFigures(NamedTuple):
    """The figures and texts of the searches by one metric; ``importance`` is ``None`` with too few trials."""

    metric: str
    lines: list[str]
    progress: PlotlyFigure
    importance: PlotlyFigure | None


def draw_searches(sweeps: Sweeps) -> list[SearchFigures]:
    """Draw the searches among the sweeps, those by the same metric together."""
    read = [_read_search(sweeps, folder, name) for folder, name in get_sweep_names(sweeps.folders).items()]
    parts: dict[tuple[str, str], list[SearchState]] = {}
    for search in filter(None, read):
        parts.setdefault((search.metric, search.mode), []).append(search)
    return [_draw_search_figures(metric, _set_colours(part)) for (metric, _), part in parts.items()]


def _read_search(sweeps: Sweeps, folder: Path, name: str) -> SearchState | None:
    """Read the search in a folder, if there is one; if its file is damaged, add that to ``sweeps.notes``."""
    titles = {run.number: format_run(run) for run in sweeps.runs if run.folder.parent == folder}
    try:
        state = schema.read_checked(folder / SEARCH_FILE, schema.SEARCH)
    except DamagedError as error:
        sweeps.warnings.append(str(error))
        return None
    if state is None:
        return None
    trials = [Trial(**{field: trial[field] for field in Trial._fields}) for trial in state["trials"]]
    about = {key: state[key] for key in ("sampler", "metric", "mode", "importance")}
    return SearchState(name=name, trials=trials, titles=titles, colours=(BLUE, VERMILION), **about)


def _set_colours(part: list[SearchState]) -> list[SearchState]:
    """Give each search a different colour, if there are several."""
    if len(part) == 1:
        return part
    return [search._replace(colours=(LINES_ON_LIGHT[index % 12],) * 2) for index, search in enumerate(part)]


def _draw_search_figures(metric: str, part: list[SearchState]) -> SearchFigures:
    bars = [search for search in part if search.importance]
    return SearchFigures(
        metric,
        [*map(_summarize_search, part), *([EXPECTED] if any(map(_has_expected_best, part)) else [])],
        _draw_progress(metric, part),
        _draw_importance(bars) if bars else None,
    )


def _summarize_search(search: SearchState) -> str:
    """Summarize a search in one line."""
    states = [trial.state for trial in search.trials]
    counts = [f"{count} {state}" for state in ("complete", "failed", "running") if (count := states.count(state))]
    text = f"{search.name}: {format_count(len(states), 'trial')} by {search.sampler}, {', '.join(counts)}"
    if not search.complete_trials:
        return text
    trial, value = search.best_of(search.complete_trials, key=itemgetter(1))
    return f"{text}; best {format_metrics({search.metric: value})} in trial {trial.number}"


# The best so far


def _draw_progress(metric: str, part: list[SearchState]) -> PlotlyFigure:
    """Draw a dot for each trial and a step line of the best value so far.

    Trials that failed, or whose values are far off, are marked at the edge.
    """
    values = [value for search in part for _, value in search.complete_trials]
    last = max((search.trials[-1].number for search in part if search.trials), default=0)
    window = find_axis_range(values, part[0].mode == "max", is_logarithmic(metric, values))
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


def _build_traces(search: SearchState, several: bool) -> list[PlotlyFigure]:
    """Return the traces of one search, without empty ones; of several, the legend names each search's line."""
    name = to_plotly_text(search.name)
    failed = [trial for trial in search.trials if trial.state == "failed"]
    traces = [
        _make_marker_trace(search, [trial for trial, _ in search.complete_trials], "circle", "trials"),
        _make_best_trace(search, name if several else "best so far"),
        *_make_expected_traces(search, f"{name}: " if several else ""),
        _make_marker_trace(search, failed, "x", "failed", EDGE_MARGIN),
    ]
    legends = [{"legendgroup": name, "showlegend": trace["mode"] == "lines"} if several else {} for trace in traces]
    return [trace | legend for trace, legend in zip(traces, legends, strict=True) if trace["x"]]


def _make_marker_trace(
    search: SearchState, trials: list[Trial], symbol: str, name: str, height: float | None = None
) -> PlotlyFigure:
    """Return a trace with a mark for each trial: at its value or, if ``height`` is set, at that height."""
    on_axis = height is None
    values = [trial.value for trial in trials]
    labels = ["failed" if value is None else f"{to_plotly_text(search.metric)} {value:.5g}" for value in values]
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


def _make_best_trace(search: SearchState, name: str) -> PlotlyFigure:
    """Return a step line of the best value so far, up to the last trial."""
    complete = search.complete_trials
    best = list(accumulate((value for _, value in complete), search.best_of))
    numbers = [trial.number for trial, _ in complete]
    if numbers and search.trials[-1].number > numbers[-1]:
        numbers, best = [*numbers, search.trials[-1].number], [*best, best[-1]]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": numbers,
        "y": best,
        "line": {"color": search.colours[1], "width": 2, "shape": "hv"},
        "hovertemplate": f"best up to trial %{{x}}: {to_plotly_text(search.metric)} %{{y}}<extra></extra>",
    }


def _has_expected_best(search: SearchState) -> bool:
    return search.sampler == "random" and len(search.complete_trials) >= MIN_EXPECTED


def _make_expected_traces(search: SearchState, prefix: str) -> list[PlotlyFigure]:
    """Return two lines over the number of trials: the expected best of that many, and what it reaches in 95% of cases.

    They hold for trials that are independent, so a search that learns from its trials has none.
    """
    if not _has_expected_best(search):
        return []
    values = [value for _, value in search.complete_trials]
    import numpy as np

    from src.sweeps.store.statistics import compute_expected_best, compute_likely_least  # imports SciPy

    sign = 1 if search.mode == "max" else -1
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
            "hovertemplate": f"{prefix}{name}: {to_plotly_text(search.metric)} %{{y}}<extra></extra>",
        }
        for name, (best, dash) in lines.items()
    ]


# Importance of the settings


def _draw_importance(part: list[SearchState]) -> PlotlyFigure:
    """Draw a bar for the importance of each setting, the longest on top; those of several searches side by side."""
    names = dict.fromkeys(name for search in part for name in search.importance)
    # plotly draws the first at the bottom
    settings = sorted(names, key=lambda name: sum(search.importance.get(name, 0.0) for search in part))
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": to_plotly_text(search.name),
            "y": [to_plotly_text(name) for name in settings],
            "x": [search.importance.get(name) for name in settings],
            "hovertemplate": "%{y} %{x:.0%}<extra></extra>",
            "marker": {"color": search.colours[0]},
        }
        for search in part
    ]
    layout = {
        "xaxis": {
            "title": {"text": "fraction of the difference"},
            "tickformat": ".0%",
            "rangemode": "tozero",
        },
        "yaxis": {"ticks": ""},
        "barmode": "group",
        "showlegend": False,
    }
    return {"data": bars, "layout": layout}
