"""Keeps what the benchmarks found: ``docs/bench.json``, and two pictures made from it."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from src.core.colours import COLOURS
from tests.bench.growth import AXES, MEMORY
from tests.bench.measuring import OURS, ROOT, Table

FILE = ROOT / "docs" / "bench.json"
PICTURE, GROWTH = (ROOT / "docs" / "images" / name for name in ("bench.png", "growth.png"))
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core")
Record = dict[str, Any]


def keep(name: str, table: Table) -> None:
    """Put a benchmark's table in the place of its last one, and draw the pictures anew."""
    record: Record = json.loads(FILE.read_text()) if FILE.exists() else {}
    values = {row: [float(f"{value:.5g}") for value in found] for row, found in table.values.items()}
    versions = {package: version(package) for package in PACKAGES}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    record[name] = {**table._asdict(), "values": values, "versions": versions, "machine": machine}
    FILE.write_text(json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False) + "\n")
    draw_ratios({key: found for key, found in record.items() if found["against"] == OURS}, PICTURE)
    if "growth" in record:
        draw_growth(record["growth"]["values"], GROWTH)


def draw_ratios(record: Record, path: Path) -> None:
    """How many times as long as ours each other way takes: the median, and the range of single measurements."""
    rows = [(name, row) for name, found in record.items() for row in found["values"] if row != OURS]
    figure, axis = plt.subplots(figsize=(9, 1 + 0.32 * (len(rows) + len(record))), layout="constrained")
    y, ticks = 0.0, []
    for name, found in record.items():
        y -= 0.6
        axis.text(0.0, y, name.replace("_", " "), transform=axis.get_yaxis_transform(), weight="bold", va="center")
        ours = np.median(found["values"][OURS])
        for row, values in found["values"].items():
            if row == OURS:
                continue
            y -= 1
            times = np.asarray(values) / ours
            times = 1 / times if found["unit"].endswith("/s") else times
            middle = float(np.median(times))
            axis.plot([times.min(), times.max()], [y, y], color=COLOURS[0], alpha=0.4, linewidth=3)
            axis.plot(middle, y, "o", color=COLOURS[0])
            where = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
            axis.annotate(f"{middle:.3g}×", (times.max(), y), **where)
            ticks.append((y, row))
        y -= 0.4
    axis.axvline(1, color=COLOURS[1], linewidth=1)
    axis.set(xscale="log", xlabel="time, as a multiple of this project's", ylim=(y, 0))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}×")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.12)
    axis.set_yticks([at for at, _ in ticks], [row for _, row in ticks])
    axis.set_title("Left of the line: faster than this project; right of it: slower", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_growth(values: dict[str, list[float]], path: Path) -> None:
    """Seconds over each axis, beside the straight line through 0 and the last point; memory below."""
    figure, panels = plt.subplots(2, len(AXES), figsize=(14.5, 5.5), sharex="col", sharey="row", layout="constrained")
    for (above, below), (name, sizes) in zip(panels.T, AXES.items(), strict=True):
        x, seconds = np.asarray(sizes), medians(values, "", name)
        above.loglog(x, seconds, "o-", color=COLOURS[0])
        above.loglog(x, seconds[-1] * x / x[-1], "--", color="grey", linewidth=1, label="proportional")
        above.set_title(f"… with {name}", fontsize=10)
        if f"{MEMORY}{name} {sizes[0]}" in values:
            below.plot(x, medians(values, MEMORY, name), "o-", color=COLOURS[1])
        else:
            below.text(0.5, 0.5, "see sweep_memory", transform=below.transAxes, ha="center", color="grey")
        below.set_xticks(x, [f"{size:,}" for size in sizes])
        below.xaxis.set_minor_locator(NullLocator())
        below.set_xlabel(name)
    panels[0, 0].set_ylabel("seconds")
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[1, 0].set(ylabel="peak memory, MB", ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def medians(values: dict[str, list[float]], prefix: str, axis: str) -> np.ndarray:
    return np.asarray([np.median(values[f"{prefix}{axis} {size}"]) for size in AXES[axis]])
