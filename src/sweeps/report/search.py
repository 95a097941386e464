"""How a search went: the best so far over its trials, and how much each setting mattered; figures for plotly.js."""

import math
from collections.abc import Callable
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from src.core.axes import Window, find_window
from src.core.colours import TWELVE_ON_LIGHT
from src.storage import schema
from src.storage.schema import DamagedError
from src.sweeps.report.plots import BLUE, EDGE, EDGE_AXIS, VERMILION, Figure, is_logarithmic, metric_axis, named, plain
from src.sweeps.report.reading import Sweeps, names
from src.sweeps.store.leaderboard import many

TOLD = "search.json"  # what a search tells of itself, in its sweep's folder


class Trial(NamedTuple):
    """A trial: its number, its job's number, "complete", "failed" or "running", and the metric if it is complete."""

    number: int
    job: int
    state: str
    value: float | None


class Search(NamedTuple):
    """What one search tells of itself.

    Attributes:
        name: what its sweep is called.
        sampler: "tpe" or "random".
        metric: the monitored metric.
        mode: "min" or "max".
        trials: in the order of their numbers.
        importance: by setting, in the end 1 together; empty where there are too few trials.
        titles: of its jobs, by their numbers.
        colours: of its trials and of its best so far.
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
    def complete(self) -> list[tuple[Trial, float]]:
        return [(trial, trial.value) for trial in self.trials if trial.value is not None]

    @property
    def better(self) -> Callable[[float, float], float]:
        """The better of two values."""
        return max if self.mode == "max" else min


class Shown(NamedTuple):
    """What the page shows of searches by one metric; ``importance`` is ``None`` where there are too few trials."""

    metric: str
    lines: list[str]
    progress: Figure
    importance: Figure | None


def searches(sweeps: Sweeps) -> list[Shown]:
    """What there is to show of the searches among the sweeps, those by the same metric together."""
    found = [each for folder, name in names(sweeps.folders).items() if (each := read_search(sweeps, folder, name))]
    parts: dict[tuple[str, str], list[Search]] = {}
    for each in found:
        parts.setdefault((each.metric, each.mode), []).append(each)
    return [shown(metric, coloured(part)) for (metric, _), part in parts.items()]


def read_search(sweeps: Sweeps, folder: Path, name: str) -> Search | None:
    """The search in a folder, if there is one; what is damaged is noted."""
    titles = {run.number: named(run) for run in sweeps.runs if run.folder.parent == folder}
    try:
        told = schema.read(folder / TOLD, schema.SEARCH)
    except DamagedError as error:
        sweeps.notes.append(str(error))
        return None
    if told is None:
        return None
    trials = [Trial(**{field: each[field] for field in Trial._fields}) for each in told["trials"]]
    about = {key: told[key] for key in ("sampler", "metric", "mode", "importance")}
    return Search(name=name, trials=trials, titles=titles, colours=(BLUE, VERMILION), **about)


def coloured(part: list[Search]) -> list[Search]:
    """Searches each in a colour of its own, where there are several."""
    if len(part) == 1:
        return part
    return [each._replace(colours=(TWELVE_ON_LIGHT[place % 12],) * 2) for place, each in enumerate(part)]


def shown(metric: str, part: list[Search]) -> Shown:
    bars = [each for each in part if each.importance]
    return Shown(metric, [words(each) for each in part], progress(metric, part), importance(bars) if bars else None)


def words(search: Search) -> str:
    """How a search went, in a line."""
    states = [trial.state for trial in search.trials]
    counts = [f"{count} {state}" for state in ("complete", "failed", "running") if (count := states.count(state))]
    line = f"{search.name}: {many(len(states), 'trial')} by {search.sampler}, {', '.join(counts)}"
    if not search.complete:
        return line
    value = reduce(search.better, (value for _, value in search.complete))
    trial = next(trial for trial, found in search.complete if found == value)
    told = f"{value:.2%}" if "/acc" in search.metric else f"{value:.4g}"
    return f"{line}; best {search.metric} {told} in trial {trial.number}"


# The best so far


def progress(metric: str, part: list[Search]) -> Figure:
    """A dot for each trial and, as steps, the best so far; at the edge those that failed or are far off."""
    values = [value for each in part for _, value in each.complete]
    last = max((each.trials[-1].number for each in part if each.trials), default=0)
    window = find_window(values, part[0].mode == "max", is_logarithmic(metric, values))
    layout = {
        "xaxis": {"title": {"text": "trial"}, "zeroline": False, "range": [-1, last + 1]},
        "yaxis": {"zeroline": False, **metric_axis(metric, values, window)},
        "yaxis2": EDGE_AXIS,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
    }
    return {"data": [trace for each in part for trace in traces(each, window, len(part) > 1)], "layout": layout}


def traces(search: Search, window: Window | None, several: bool) -> list[Figure]:
    """The marks of one search."""
    low, high = (window.low, window.high) if window else (-math.inf, math.inf)
    below = [trial for trial, value in search.complete if value < low]
    above = [trial for trial, value in search.complete if value > high]
    failed = [trial for trial in search.trials if trial.state == "failed"]
    name = plain(search.name)
    found = [
        dots(search, [trial for trial, _ in search.complete], "circle", "trials"),
        steps(search, name if several else "best so far"),
        dots(search, below, "triangle-down", "far below", EDGE),
        dots(search, above, "triangle-up", "far above", 1 - EDGE),
        dots(search, failed, "x", "failed", EDGE),
    ]
    if several:  # the line stands for all of them
        found = [{**trace, "legendgroup": name, "showlegend": trace["mode"] == "lines"} for trace in found]
    return [trace for trace in found if trace["x"]]


def dots(search: Search, trials: list[Trial], symbol: str, name: str, height: float | None = None) -> Figure:
    """A mark for each trial: at its value, or where it has no place on the axis at a height of its own."""
    on_axis = height is None
    values = [trial.value for trial in trials]
    told = ["failed" if value is None else f"{plain(search.metric)} {value:.5g}" for value in values]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.number for trial in trials],
        "y": values if on_axis else [height] * len(trials),
        "yaxis": "y" if on_axis else "y2",
        "text": [search.titles.get(trial.job, str(trial.job)) for trial in trials],
        "customdata": told,
        "hovertemplate": "trial %{x}: %{customdata}<br>job %{text}<extra></extra>",
        "marker": {"color": search.colours[0], "symbol": symbol, "size": 7, "opacity": 0.5 if on_axis else 0.9},
    }


def steps(search: Search, name: str) -> Figure:
    """The best so far, up to the last trial."""
    complete = search.complete
    best = list(accumulate((value for _, value in complete), search.better))
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
        "hovertemplate": f"best up to trial %{{x}}: {plain(search.metric)} %{{y}}<extra></extra>",
    }


# What mattered


def importance(part: list[Search]) -> Figure:
    """A bar for each setting, the longest on top; of several searches side by side."""
    total: dict[str, float] = {}
    for search in part:
        for name, share in search.importance.items():
            total[name] = total.get(name, 0.0) + share
    settings = sorted(total, key=lambda name: total[name])  # plotly begins at the bottom
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(search.name),
            "y": [plain(name) for name in settings],
            "x": [search.importance.get(name) for name in settings],
            "hovertemplate": "%{y} %{x:.0%}<extra></extra>",
            "marker": {"color": search.colours[0]},
        }
        for search in part
    ]
    layout = {
        "xaxis": {
            "title": {"text": "share of the difference"},
            "tickformat": ".0%",
            "rangemode": "tozero",
        },
        "yaxis": {"ticks": ""},
        "barmode": "group",
        "showlegend": False,
    }
    return {"data": bars, "layout": layout}
