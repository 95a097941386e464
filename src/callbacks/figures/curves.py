"""Figure of loss and accuracy over the epochs."""

import numpy as np
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.callbacks.figures.base import FigureCallback, limit_axis, tick_shares, tick_whole
from src.callbacks.history import History, Row
from src.core.colours import TRAIN, VALIDATION

STAGES = {"train": ("training", TRAIN), "val": ("validation", VALIDATION)}
TITLES = {"loss": "loss", "acc": "accuracy"}


def measured(rows: list[Row]) -> list[str]:
    """Return the metrics that were measured: loss, accuracy or both."""
    return [measure for measure in TITLES if any(f"{stage}/{measure}" in row for row in rows for stage in STAGES)]


class Curves(FigureCallback):
    """Training and validation curves in one figure, drawn when training ends."""

    name = "curves"
    of_samples = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history = next((callback for callback in trainer.callbacks if isinstance(callback, History)), None)  # type: ignore[attr-defined]
        if history is not None and measured(history.rows):
            best = getattr(trainer.checkpoint_callback, "monitor", None)
            mode = getattr(trainer.checkpoint_callback, "mode", "min")
            self.show(trainer, (8.0, 3.6), history.rows, history.chosen(best, mode).get("epoch") if best else None)

    def draw(self, figure: Figure, rows: list[Row], best_epoch: float | None) -> None:
        measures = measured(rows)
        axes = list(figure.subplots(1, len(measures), squeeze=False).flat)
        for axis, measure in zip(axes, measures, strict=True):
            curves = _draw_stages(axis, rows, measure)
            if best_epoch is not None:
                axis.axvline(best_epoch, color="0.6", linestyle=":", label="epoch kept")
            beyond = limit_axis(axis, curves, higher=False) if measure == "loss" else ""
            axis.set(xlabel=f"epoch\n({beyond})" if beyond else "epoch", title=TITLES[measure])
            tick_whole(axis.xaxis)
            if measure == "acc":
                tick_shares(axis.yaxis)
            axis.grid(alpha=0.25)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))


def _draw_stages(axis: Axes, rows: list[Row], measure: str) -> list[np.ndarray]:
    """Draw a metric's curve for each stage that measured it, and return the curves' values."""
    curves = []
    for stage, (label, colour) in STAGES.items():
        points = [(row["epoch"], row[f"{stage}/{measure}"]) for row in rows if f"{stage}/{measure}" in row]
        if points:
            marker = "o" if len(points) < 20 else ""
            axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, markersize=4)
            curves.append(np.array(points)[:, 1])
    return curves
