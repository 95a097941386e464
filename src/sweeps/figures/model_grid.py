"""Draw the functions that several runs have learned, in a grid of small plots with shared axes."""

import math
from textwrap import fill
from typing import Any

from lightning import LightningModule
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.callbacks.figures.base import format_percent, has_class_names
from src.callbacks.figures.decision_regions import (
    MAX_LINES,
    draw_classes,
    draw_lines,
    find_unit_boundaries,
    predict_grid,
)
from src.callbacks.figures.fitted_function import compute_curve, draw_fit, make_input_grid
from src.core import devices
from src.core.colours import MODEL
from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.storage.configs import open_config
from src.storage.weights import load_weights
from src.sweeps.figures.base import SweepFigure
from src.sweeps.store.runs import Run
from src.training.build import build_model, build_tensor_data
from src.training.checkpointing.checkpoint import find_checkpoint

MAX_TITLE_WIDTH = 36  # characters per line of a plot's title


class ModelGrid(SweepFigure):
    """A grid with one plot per run: the fitted curve for data of one input, the decision regions for two inputs.

    The models are loaded from their checkpoints.

    Args:
        columns: the number of plots in a row.
        kwargs: the arguments of `SweepFigure`.
    """

    def __init__(self, columns: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = columns

    def get_size(self, runs: list[Run]) -> tuple[float, float]:
        columns = min(self.columns, len(runs))
        return (max(columns * 2.7, 5.4), math.ceil(len(runs) / columns) * 2.35 + 0.7)

    def draw(self, figure: Figure, runs: list[Run]) -> None:
        columns = min(self.columns, len(runs))
        rows = math.ceil(len(runs) / columns)
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for number, (axis, run) in enumerate(zip(axes, runs, strict=False)):
            draw_model(axis, *_load_run(run, self.packages))
            axis.set_title(fill(run.full_caption, MAX_TITLE_WIDTH) + f"\n{format_score(run)}", fontsize=9)
            lowest = number + columns >= len(runs)
            axis.set(xlabel=axis.get_xlabel() if lowest else "", ylabel="" if number % columns else axis.get_ylabel())
            axis.tick_params(labelbottom=lowest)
        for axis in axes[len(runs) :]:
            axis.axis("off")
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
        figure.suptitle(self.title)


def _load_run(run: Run, packages: tuple[str, ...]) -> tuple[TensorDataModule, LightningModule]:
    """Return a run's data, set up, and its model with the weights of the chosen checkpoint."""
    config = open_config(run.folder, packages)
    data = build_tensor_data(config)
    data.setup()
    model = build_model(config, data, devices.CPU)
    load_weights(model, find_checkpoint(run.folder, None))
    return data, model


def draw_model(axis: Axes, data: TensorDataModule, model: LightningModule) -> None:
    """Draw the model's curve or decision regions, with the training samples.

    Raises:
        InputError: if the data have other inputs or targets.
    """
    assert data.train_set is not None
    shape = () if data.num_tokens or data.num_values > 1 else tuple(data.in_shape)
    if shape == (2,) and has_class_names(data):
        draw_classes(axis, predict_grid(model, data.train_set.inputs, data.transform), data.train_set, data.class_names)
        units = find_unit_boundaries(model, data.transform)
        if len(units) <= MAX_LINES:
            draw_lines(axis, units)
        for line in axis.lines:
            line.set(color=MODEL, linewidth=1.5, label="decision line of a unit, $w \\cdot x + b = 0$")
        axis.set(xlabel="$x_1$", ylabel="$x_2$")
    elif shape == (1,) and (has_class_names(data) or not data.class_names) and data.num_classes in (0, 2):
        x, truth = make_input_grid(data.train_set.inputs), getattr(data, "truth", None)
        curve = compute_curve(
            model, x.flatten(), data.transform(x), truth(x) if truth else None, bool(data.class_names)
        )
        draw_fit(axis, curve, data.train_set, data.class_names)
        axis.set(xlabel="$x$", ylabel="probability" if data.class_names else "$y$")
    else:
        raise InputError("panels need data with one input and a value or two classes, or with two inputs and classes")


def format_score(run: Run) -> str:
    """Format a run's test metric: "98.2% correct", "error 0.031", or nothing."""
    if (accuracy := run.metrics.get("test/acc")) is not None:
        return f"{format_percent(accuracy, 1).replace('.0%', '%')} correct"
    loss = run.metrics.get("test/loss")
    return "" if loss is None else f"error {loss:.2g}"
