"""Tests of sweeps; the runs that are shown are mostly folders made by hand."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from src.callbacks.figures import base as figures
from src.storage.files import write_csv, write_json
from src.sweeps.figures.base import SweepFigure
from src.sweeps.store.runs import Run

GROUPS = ("experiment", "model", "data", "optimizer", "scheduler")


def made_job(
    sweep: Path,
    name: str,
    *overrides: str,
    metrics: Any = None,
    history: list[dict[str, float]] | None = None,
    status: str | None = None,
    reason: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A job's folder in a sweep's, as a run leaves it; its number is what the name begins with.

    Without a status one with metrics has finished, and one without is new. ``settings`` are those
    that the overrides do not tell.
    """
    folder = sweep / name
    folder.mkdir(parents=True)
    typed = dict(override.lstrip("+").split("=", 1) for override in overrides if override[0] != "~")
    parsed = {key: OmegaConf.from_dotlist([f"x={value}"]) for key, value in typed.items()}
    known = {key: OmegaConf.to_container(value)["x"] for key, value in parsed.items()}  # type: ignore[index, call-overload]
    notes = {
        "number": int(re.match(r"\d+", name)[0]),  # type: ignore[index]
        "identity": name,
        "overrides": list(overrides),
        "choices": {key: value for key, value in known.items() if key in GROUPS},
        "settings": {key: value for key, value in known.items() if key not in GROUPS} | dict(settings or {}),
    }
    write_json(folder / "job.json", notes)
    if status or metrics is not None:
        write_json(folder / "status.json", {"status": status or "finished", "reason": reason, "message": None})
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if history is not None:
        write_csv(folder / "history.csv", history)
    return folder


def made_run(swept: Mapping[str, Any], metrics: Mapping[str, Any], folder: Path = Path("sweep/7_some")) -> Run:
    """A finished run of these swept settings."""
    return Run(folder, 7, dict(swept), swept.get("seed"), "finished", None, None, dict(metrics), None)


def made_runs(sweep: Path, metric: str, values: Mapping[str, Sequence[float | None]]) -> list[Run]:
    """Runs that differ in ``model.hidden_size`` and their seeds: for each size the metric of its seeds."""
    return [
        made_run({"model.hidden_size": size, "seed": seed}, {metric: value}, sweep / f"{size}_{seed}")
        for size, row in values.items()
        for seed, value in enumerate(row)
    ]


def drawn(picture: SweepFigure, runs: list[Run]) -> list[Any]:
    """The axes of a picture drawn as for its file, in which nothing is cut off."""
    seen: list[Figure] = []

    def draw(figure: Figure) -> None:
        picture.draw(figure, runs)
        seen.append(figure)

    width, height = picture.get_size(runs)
    figures.draw_figure((width, height), draw)
    box = seen[0].get_tightbbox()
    assert min(box.x0, box.y0) > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01
    assert seen[0].get_suptitle() == picture.title
    return seen[0].axes
