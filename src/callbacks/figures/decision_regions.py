"""Figure of the predicted class over the plane, for models of two inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import torch
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.callbacks.figures.base import get_data_module, has_class_names
from src.callbacks.figures.snapshot import Snapshot, capture_layer, eval_mode, prepare_inputs
from src.core.colours import MODEL, TRUTH, choose_class_colour
from src.data.loading.samples import Samples

POINTS = 200  # of the grid along each axis
MAX_LINES = 8
Transform = Callable[[Tensor], Tensor]


class Plane(NamedTuple):
    """The predicted classes (H, W) over a grid of points xs (W,) by ys (H,)."""

    xs: Tensor
    ys: Tensor
    classes: Tensor


class DecisionRegions(Snapshot):
    """The plane coloured by predicted class, with the training samples; for two inputs.

    Two kinds of lines are drawn over it:

    - where the units of the first layer change sign, if that layer is fully connected and has up to eight units
      (without a hidden layer this is the decision line);
    - the true boundary, dashed, if the data module has ``boundary(x1)``, which returns its x2, (N,) → (N,).

    Args:
        every_n_epochs: draw also during training, every n epochs; 0: only the selected weights, after the test.
    """

    name = "decision_regions"

    def draw_snapshot(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        data = get_data_module(trainer)
        samples: Samples | None = getattr(data, "train_set", None)
        suits = tuple(data.in_shape) == (2,) and not data.num_tokens and has_class_names(data)
        if samples is None or not suits or not hasattr(model, "predict"):
            return

        def prepare(inputs: Tensor) -> Tensor:
            return prepare_inputs(model, data, inputs)

        plane = predict_grid(model, samples.inputs, prepare)
        boundary = getattr(data, "boundary", None)
        truth = boundary(plane.xs) if callable(boundary) else None
        self.show(
            trainer, (5.2, 4.6), plane, samples, data.class_names, title, find_unit_boundaries(model, prepare), truth
        )

    def draw(
        self,
        figure: Figure,
        plane: Plane,
        samples: Samples,
        names: tuple[str, ...],
        title: str,
        units: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> None:
        axis = figure.subplots()
        draw_classes(axis, plane, samples, names)
        if units is not None and len(units) <= MAX_LINES:
            draw_lines(axis, units)
        if truth is not None:
            axis.plot(plane.xs, truth, color=TRUTH, linestyle="--", linewidth=1.2, label="truth")
        axis.set(xlabel="$x_1$", ylabel="$x_2$", title=f"Decision regions, {title}")
        add_legend_below(axis, columns=max(len(names), 4))


def draw_classes(axis: Axes, plane: Plane, samples: Samples, names: tuple[str, ...]) -> None:
    """Colour the plane by class in pale colours and draw the samples on it: inputs (N, 2), targets (N,)."""
    colours = [choose_class_colour(number) for number in range(len(names))]
    pale = ListedColormap([[0.7 + 0.3 * part for part in to_rgb(colour)] for colour in colours])
    xs, ys, classes = plane
    extent = (float(xs[0]), float(xs[-1]), float(ys[0]), float(ys[-1]))
    axis.imshow(
        classes.numpy(), cmap=pale, vmin=-0.5, vmax=len(names) - 0.5, extent=extent, origin="lower", aspect="auto"
    )
    axis.set(xlim=extent[:2], ylim=extent[2:])
    size, edge = (70, 1.0) if samples.size <= 20 else (28, 0.7) if samples.size <= 300 else (12, 0.3)
    for number, (name, marker) in enumerate(zip(names, "os^DvP*X" * len(names), strict=False)):
        points = samples.inputs[samples.targets == number].numpy()
        axis.scatter(
            points[:, 0],
            points[:, 1],
            c=colours[number],
            marker=marker,
            s=size,
            edgecolors="0.2",
            linewidths=edge,
            label=f"class {name}",
        )


def draw_lines(axis: Axes, units: Tensor) -> None:
    """Draw w1·x1 + w2·x2 + b = 0 for each row (w1, w2, b) of units (H, 3); skip units with zero weights."""
    colours = choose_unit_colours(len(units)) if len(units) > 1 else [MODEL]
    for number, ((w1, w2, b), colour) in enumerate(zip(units.tolist(), colours, strict=False), start=1):
        square = w1**2 + w2**2
        if square > 0:
            x, y = -b * w1 / square, -b * w2 / square  # the line's point nearest to the origin
            label = f"unit {number}" if len(units) > 1 else "learned line"
            axis.axline((x, y), (x - w2 / square**0.5, y + w1 / square**0.5), color=colour, linewidth=1.8, label=label)


def choose_unit_colours(count: int) -> list[Any]:
    """Return a colour for each of ``count`` hidden units, in order."""
    return list(matplotlib.colormaps["viridis"](torch.linspace(0, 0.8, max(count, 2)).numpy()))[:count]


def add_legend_below(axis: Axes, columns: int) -> None:
    """Add a legend below the axis that reads row by row instead of column by column."""
    handles, labels = axis.get_legend_handles_labels()
    order = [number for column in range(columns) for number in range(column, len(handles), columns)]
    axis.legend(
        [handles[number] for number in order],
        [labels[number] for number in order],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=min(columns, len(handles)),
        columnspacing=1.2,
    )


def make_grid_around(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a grid over the points (N, 2) with a margin: its xs (W,), its ys (H,) and its points (H·W, 2)."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    margin = torch.where(high > low, 0.15 * (high - low), 0.5)
    xs, ys = [torch.linspace(float(a), float(b), POINTS) for a, b in zip(low - margin, high + margin, strict=True)]
    return xs, ys, torch.cartesian_prod(ys, xs).flip(1)  # x first


def predict_grid(model: LightningModule, inputs: Tensor, prepare: Transform = lambda inputs: inputs) -> Plane:
    """Predict the class at each point of a grid around the inputs (N, 2).

    Args:
        model: a model with ``predict``.
        inputs: the points that the grid has to cover.
        prepare: converts inputs as stored to inputs of the network.
    """
    xs, ys, grid = make_grid_around(inputs)
    with eval_mode(model):
        classes: Tensor = model.predict(model(prepare(grid)))  # type: ignore[operator]
    return Plane(xs, ys, classes.view(POINTS, POINTS).cpu())


def find_unit_boundaries(model: LightningModule, prepare: Transform = lambda inputs: inputs) -> Tensor:
    """Return the lines at which the first layer's units change sign: rows (w1, w2, b), (H, 3).

    The result is (0, 3) if the network does not begin with a fully connected layer of the plane's two coordinates
    as they are, or if a batch norm after it would move the lines.
    """
    no_lines = torch.empty(0, 3)
    net = getattr(model, "net", None)
    leaves = [leaf for leaf in net.modules() if not list(leaf.children())] if isinstance(net, nn.Module) else []
    index = next((index for index, leaf in enumerate(leaves) if isinstance(leaf, nn.Linear)), None)
    if index is None or isinstance(leaves[min(index + 1, len(leaves) - 1)], _BatchNorm):
        return no_lines
    # Probe: the layer must receive exactly the coordinates that the model was given.
    layer, corners = leaves[index], torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
    assert isinstance(layer, nn.Linear)
    captured = capture_layer(model, layer, prepare(corners)) if layer.in_features == 2 else None
    if captured is None or not torch.equal(captured[0].cpu().float(), corners):
        return no_lines
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
    return torch.cat([layer.weight.detach().cpu().float(), bias[:, None].cpu().float()], dim=1)
