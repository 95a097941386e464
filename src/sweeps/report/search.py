"""The searches in a report: what each has found, and the importance of each setting."""

from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from src.core.colours import LINES_ON_LIGHT
from src.core.formatting import format_count, format_metrics
from src.storage.schema import DamagedError
from src.sweeps.report.plots import BLUE, VERMILION, PlotlyFigure, format_run, to_plotly_text
from src.sweeps.report.reading import Sweeps, get_sweep_names
from src.sweeps.report.trials import ShownSearch, draw_front, draw_progress, has_expected_best
from src.sweeps.store.searches import SearchState, read_search, select_front

FEW_TRIALS = 30  # complete trials below which importances are said to rest on few
EXPECTED = "Dashed: the best of this number of random trials on average; dotted: what it reaches in 95% of cases"


class Chart(NamedTuple):
    """A figure and what it shows, in words for those who cannot see it."""

    figure: PlotlyFigure
    label: str


class SearchFigures(NamedTuple):
    """The figures and texts of the searches that are judged by the same metrics.

    Attributes:
        title: the metrics.
        lines: a line of text for each search, and others.
        charts: the best so far or the Pareto front, and the importance of the settings if there are enough trials.
        several: True if they are judged by several metrics.
        importance: True if there is a chart of importances.
    """

    title: str
    lines: list[str]
    charts: list[Chart]
    several: bool
    importance: bool


def draw_searches(sweeps: Sweeps) -> list[SearchFigures]:
    """Draw the searches among the sweeps, those by the same metrics together."""
    read = [_read_shown(sweeps, folder, name) for folder, name in get_sweep_names(sweeps.folders).items()]
    parts: dict[tuple[tuple[str, str], ...], list[ShownSearch]] = {}
    for search in filter(None, read):
        parts.setdefault(search.judged_by, []).append(search)
    return [_draw_search_figures(_set_colours(part)) for part in parts.values()]


def _read_shown(sweeps: Sweeps, folder: Path, name: str) -> ShownSearch | None:
    """Read the search in a folder, if there is one; if its file is damaged, add that to ``sweeps.notes``."""
    titles = {run.number: format_run(run) for run in sweeps.runs if run.folder.parent == folder}
    try:
        state = read_search(folder)
    except DamagedError as error:
        sweeps.warnings.append(str(error))
        return None
    return ShownSearch(name, state, titles, (BLUE, VERMILION)) if state else None


def _set_colours(part: list[ShownSearch]) -> list[ShownSearch]:
    """Give each search a different colour, if there are several."""
    if len(part) == 1:
        return part
    return [search._replace(colours=(LINES_ON_LIGHT[index % 12],) * 2) for index, search in enumerate(part)]


def _draw_search_figures(part: list[ShownSearch]) -> SearchFigures:
    metrics = [metric for metric, _ in part[0].judged_by]
    several = len(metrics) > 1
    if several:
        charts = [
            Chart(draw_front(part, 0, place), f"the trials by {metrics[0]} and {metrics[place]}")
            for place in range(1, len(metrics))
        ]
    else:
        charts = [Chart(draw_progress(metrics[0], part), f"the best {metrics[0]} so far over the trials")]
    if bars := [search for search in part if search.state.importance]:
        charts.append(Chart(_draw_importance(bars), "the importance of each setting"))
    expected = [EXPECTED] if any(map(has_expected_best, part)) else []
    lines = [*map(_summarize_search, part), *expected, *_describe_certainty(bars)]
    return SearchFigures(" and ".join(metrics), lines, charts, several, bool(bars))


def _summarize_search(search: ShownSearch) -> str:
    """Summarize a search in one line."""
    states = [trial.state for trial in search.state.trials]
    counts = [
        f"{count} {state}" for state in ("complete", "pruned", "failed", "running") if (count := states.count(state))
    ]
    text = f"{search.name}: {format_count(len(states), 'trial')} by {search.state.sampler}, {', '.join(counts)}"
    if front := select_front(search.state):
        return f"{text}; {len(front)} on the Pareto front: {', '.join(str(trial.number) for trial in front)}"
    if not search.complete_trials:
        return text
    trial, value = search.best_of(search.complete_trials, key=itemgetter(1))
    return f"{text}; best {format_metrics({search.state.metric: value})} in trial {trial.number}"


# Importance of the settings


def _draw_importance(part: list[ShownSearch]) -> PlotlyFigure:
    """Draw a bar for the importance of each setting, the longest on top; those of several searches side by side."""
    names = dict.fromkeys(name for search in part for name in search.state.importance)
    # plotly draws the first at the bottom
    settings = sorted(names, key=lambda name: sum(search.state.importance.get(name, 0.0) for search in part))
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": to_plotly_text(search.name),
            "y": [to_plotly_text(name) for name in settings],
            "x": [search.state.importance.get(name) for name in settings],
            "hovertemplate": "%{y} %{x:.0%}%{customdata}<extra></extra>",
            "customdata": [_format_interval(search.state.intervals.get(name)) for name in settings],
            **({"error_x": _make_interval_bars(search.state, settings)} if search.state.intervals else {}),
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


def _make_interval_bars(state: SearchState, settings: list[str]) -> PlotlyFigure:
    """Return the error bars of the importances; none for a setting without an interval."""
    found = [(state.importance.get(name, 0.0), *state.intervals.get(name, [0.0, 0.0])) for name in settings]
    above, below = (
        [max(high - value, 0.0) for value, _, high in found],
        [max(value - low, 0.0) for value, low, _ in found],
    )
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5, "width": 4}


def _format_interval(interval: list[float] | None) -> str:
    return f" ({interval[0]:.0%} to {interval[1]:.0%})" if interval else ""


def _describe_certainty(part: list[ShownSearch]) -> list[str]:
    """Return a line for each search with intervals of its importances: of how many trials they are."""
    lines = []
    for search in part:
        count = sum(trial.state == "complete" for trial in search.state.trials)
        few = ", which is few: do not trust them" if count < FEW_TRIALS else ""
        if search.state.intervals:
            lines.append(f"{search.name}: importances from {format_count(count, 'complete trial')}{few}")
    return lines
