"""Figures of what a run learned over its epochs: loss and accuracy."""

import numpy as np
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.callbacks.figures.base import FigureCallback, get_data_module, limit_axis, set_integer_ticks, set_percent_ticks
from src.callbacks.history import Row, find_history
from src.core.colours import TRAIN, VALIDATION

STAGES = {"train": ("training", TRAIN), "val": ("validation", VALIDATION)}
TITLES = {"loss": "loss", "acc": "accuracy"}


def _find_measured_metrics(rows: list[Row]) -> list[str]:
    """Return the metrics that were measured: loss, accuracy or both."""
    return [measure for measure in TITLES if any(f"{stage}/{measure}" in row for row in rows for stage in STAGES)]


class Curves(FigureCallback):
    """Training and validation curves in one figure, drawn when training ends."""

    name = "curves"
    needs_samples = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history = find_history(trainer)
        if history is not None and _find_measured_metrics(history.rows):
            best = getattr(trainer.checkpoint_callback, "monitor", None)
            mode = getattr(trainer.checkpoint_callback, "mode", "min")
            self.show(
                trainer, (8.0, 3.6), history.rows, history.select_best_row(best, mode).get("epoch") if best else None
            )

    def draw(self, figure: Figure, rows: list[Row], best_epoch: float | None) -> None:
        measures = _find_measured_metrics(rows)
        axes = list(figure.subplots(1, len(measures), squeeze=False).flat)
        for axis, measure in zip(axes, measures, strict=True):
            curves = _draw_stages(axis, rows, measure)
            if best_epoch is not None:
                axis.axvline(best_epoch, color="0.6", linestyle=":", label="selected epoch")
            beyond = limit_axis(axis, curves, higher=False) if measure == "loss" else ""
            axis.set(xlabel=f"epoch\n({beyond})" if beyond else "epoch", title=TITLES[measure])
            set_integer_ticks(axis.xaxis)
            if measure == "acc":
                set_percent_ticks(axis.yaxis)
            axis.grid(alpha=0.25)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))


def _draw_stages(axis: Axes, rows: list[Row], metric: str) -> list[np.ndarray]:
    """Draw a metric's curve for each stage that measured it, and return the curves' values."""
    curves = []
    for stage, (label, colour) in STAGES.items():
        points = [(row["epoch"], row[f"{stage}/{metric}"]) for row in rows if f"{stage}/{metric}" in row]
        if points:
            marker = "o" if len(points) < 20 else ""
            axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, markersize=4)
            curves.append(np.array(points)[:, 1])
    return curves


class CostAndAccuracy(FigureCallback):
    """The total training loss (left axis) and the accuracy (right axis) over the epochs; for classes."""

    name = "cost_and_accuracy"
    needs_samples = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history = find_history(trainer)
        train_set = getattr(get_data_module(trainer), "train_set", None)
        if history is None or train_set is None:
            return
        epochs, losses, accuracies = compute_totals(history.rows, train_set.size)
        if epochs:
            self.show(trainer, (5.6, 3.8), epochs, losses, accuracies)

    def draw(self, figure: Figure, epochs: list[float], losses: list[float], accuracies: list[float]) -> None:
        left = figure.subplots()
        right = left.twinx()
        marker = "o" if len(epochs) < 20 else ""
        for axis, values, name, side, style in (
            (left, losses, "total training loss", "left", "-"),
            (right, accuracies, "training accuracy", "right", "--"),
        ):
            label = f"{name} ({side} axis)"
            axis.plot(epochs, values, color=TRAIN, linestyle=style, marker=marker, markersize=4, label=label)
            axis.set_ylabel(name)
        left.set(xlabel="epoch", title="Cost and accuracy", ylim=(0, None))
        set_integer_ticks(left.xaxis)
        set_percent_ticks(right.yaxis)
        right.spines["right"].set_visible(True)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)


def compute_totals(rows: list[Row], sample_count: int) -> tuple[list[float], list[float], list[float]]:
    """Return the epochs, total training losses and accuracies of the rows that have both metrics.

    Args:
        rows: the metrics of each epoch.
        sample_count: number of training samples; the total loss is the mean loss times this.
    """
    complete = [row for row in rows if "train/loss" in row and "train/acc" in row]
    losses = [row["train/loss"] * sample_count for row in complete]
    return [row["epoch"] for row in complete], losses, [row["train/acc"] for row in complete]
