"""Tests of what is drawn over several runs; the runs are mostly folders made by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from src.callbacks import figure as figures
from src.records import write_table
from src.sweeps.pictures import SweepPicture
from src.sweeps.runs import Run


def made_job(
    sweep: Path, name: str, *overrides: str, metrics: Any = None, history: list[dict[str, float]] | None = None
) -> Path:
    """A job's folder in a sweep's, as a run leaves it; without metrics as one that has just begun."""
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if history is not None:
        write_table(folder / "history.csv", history)
    return folder


def made_runs(sweep: Path, metric: str, values: Mapping[str, Sequence[float | None]]) -> list[Run]:
    """Runs that differ in ``model.hidden_size`` and their seeds: for each size the metric of its seeds."""
    return [
        Run(sweep / f"{size}_{seed}", {"model.hidden_size": size, "seed": str(seed)}, {metric: value})
        for size, row in values.items()
        for seed, value in enumerate(row)
    ]


def drawn(picture: SweepPicture, runs: list[Run]) -> list[Any]:
    """The axes of a picture drawn as for its file, in which nothing is cut off."""
    seen: list[Figure] = []

    def draw(figure: Figure) -> None:
        picture.draw(figure, runs)
        seen.append(figure)

    width, height = picture.size(runs)
    figures.drawn((width, height), draw)
    box = seen[0].get_tightbbox()
    assert min(box.x0, box.y0) > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01
    assert seen[0].get_suptitle() == picture.title
    return seen[0].axes
