"""Figure of the function that a network of one input has learned, and of its hidden units' contributions."""

from typing import NamedTuple

import torch
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import get_data_module
from src.callbacks.figures.decision_regions import choose_unit_colours
from src.callbacks.figures.snapshot import Snapshot, capture_last_hidden, eval_mode, prepare_inputs
from src.core.colours import MODEL, OTHER, TRUTH, choose_class_colour
from src.data.loading.samples import Samples

POINTS = 400  # along the input's range
MAX_LABELS = 8
MAX_FIT_RANGES = 4.0  # the vertical axis ends this many ranges of the samples beyond them
LEGEND = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}


class Curve(NamedTuple):
    """The curves to draw over the inputs x (N,); ``None`` for those that do not exist."""

    x: Tensor
    fit: Tensor  # (N,): the output, for classes the probability of class 1
    truth: Tensor | None  # (N,)
    units: Tensor  # (H, N): each unit's contribution to the output; for classes its value
    weights: Tensor  # (H,): of the output layer
    bias: float  # of the output layer


class Fit(Snapshot):
    """The fitted function of one input, and the hidden units that it consists of; for regression and two classes.

    Regression: the training points, the fitted curve and the contribution of each unit of the last hidden layer to it.
    Two classes: the probability of class 1 and each hidden unit's value. If the data module has ``truth(inputs)``,
    (N, 1) → (N,), the true function is drawn dashed.

    Args:
        every_n_epochs: draw also during training, every n epochs; 0: only the selected weights, after the test.
    """

    name = "fit"

    def draw_snapshot(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        data = get_data_module(trainer)
        samples: Samples | None = getattr(data, "train_set", None)
        suits = tuple(data.in_shape) == (1,) and not data.num_tokens and data.num_classes in (0, 2)
        if samples is None or not suits:
            return
        x = make_input_grid(samples.inputs)
        inputs = prepare_inputs(model, data, x)
        with eval_mode(model):
            has_one_output = model(inputs[:2]).shape == (2, 1)
        if has_one_output:
            truth = data.truth(x).flatten() if callable(getattr(data, "truth", None)) else None  # type: ignore[attr-defined]
            curve = compute_curve(model, x.flatten(), inputs, truth, classes=data.num_classes == 2)
            self.show(trainer, (9.0 if len(curve.units) else 4.8, 4.0), curve, samples, data.class_names, title)

    def draw(self, figure: Figure, curve: Curve, samples: Samples, names: tuple[str, ...], title: str) -> None:
        axes = list(figure.subplots(1, 2 if len(curve.units) else 1, squeeze=False).flat)
        draw_fit(axes[0], curve, samples, names)
        axes[0].set(title=f"Fit, {title}")
        if len(axes) == 2:
            _draw_units(axes[1], curve, classes=bool(names))
        for axis in axes:
            axis.set(xlabel="$x$", xlim=(float(curve.x[0]), float(curve.x[-1])))
            axis.grid(alpha=0.25)
            if axis.get_legend_handles_labels()[1]:
                axis.legend(**LEGEND)


def make_input_grid(inputs: Tensor) -> Tensor:
    """Return evenly spaced points (N, 1) over the range of the inputs (M, 1), extended by a tenth on both sides."""
    low, high = float(inputs.min()), float(inputs.max())
    margin = 0.1 * (high - low) or 0.5
    return torch.linspace(low - margin, high + margin, POINTS)[:, None]


def compute_contributions(model: LightningModule, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Compute the contribution of each unit of the last hidden layer to a model's single output.

    Args:
        model: a model whose last layer is fully connected.
        x: inputs as the network takes them, (N, …).

    Returns:
        The outputs (N,), the contributions (weight times value) of the units, (H, N), and the output's bias. The
        contributions and the bias sum to the outputs. If the last layer is not fully connected, the contributions
        are (0, N).
    """
    with eval_mode(model):
        outputs = model(x).squeeze(1).float().cpu()
    output_layer = capture_last_hidden(model, x)
    if output_layer is None:
        return outputs, torch.empty(0, len(x)), 0.0
    layer, hidden = output_layer
    parts = (layer.weight[0] * hidden).T.detach().float().cpu()
    return outputs, parts, 0.0 if layer.bias is None else float(layer.bias.detach())


def compute_curve(
    model: LightningModule, x: Tensor, network_inputs: Tensor, truth: Tensor | None, classes: bool
) -> Curve:
    """Compute the curves over x (N,).

    Args:
        model: a model with one output.
        x: inputs as stored, (N,).
        network_inputs: the same inputs as the network takes them, (N, 1).
        truth: the true function's values, (N,).
        classes: True for two classes, False for regression.
    """
    outputs, parts, bias = compute_contributions(model, network_inputs)
    found = capture_last_hidden(model, network_inputs)
    weights = torch.empty(0) if found is None else found[0].weight[0].detach().float().cpu()
    if not classes:
        return Curve(x, outputs, truth, parts, weights, bias)
    values = torch.empty(0, len(x)) if found is None else found[1].T.float().cpu()
    return Curve(x, outputs.sigmoid(), truth, values, weights, bias)


def draw_fit(axis: Axes, curve: Curve, samples: Samples, names: tuple[str, ...]) -> None:
    """Draw the training points, the truth and the fit."""
    size = 28 if samples.size <= 100 else 8
    if names:
        for number, (name, marker) in enumerate(zip(names, "os", strict=True)):
            points, colour = samples.inputs[samples.targets == number, 0], choose_class_colour(number)
            axis.scatter(
                points, torch.full_like(points, number), s=size, c=colour, marker=marker, label=f"class {name}"
            )
    else:
        axis.scatter(samples.inputs[:, 0], samples.targets, s=size, c=OTHER, label="training points")
    fitted = "probability of class " + names[1] if names else "fit"
    axis.plot(curve.x, curve.fit, color=MODEL, linewidth=2.5, label=fitted)
    if curve.truth is not None:
        axis.plot(curve.x, curve.truth, color=TRUTH, linewidth=1.2, linestyle="--", label="truth")
    other_values = [samples.targets.float(), *([] if curve.truth is None else [curve.truth])]
    low, high = (float(end) for end in torch.cat(other_values).aminmax())
    room = MAX_FIT_RANGES * (high - low or 1.0)
    if not low - room <= float(curve.fit.min()) <= float(curve.fit.max()) <= high + room:
        axis.set_ylim(low - room, high + room)  # a diverged fit would squeeze the samples and the truth
    axis.set_ylabel(fitted if names else "$y$")


def _draw_units(axis: Axes, curve: Curve, classes: bool) -> None:
    """Draw the hidden units: up to eight with their weights in the legend, more as thin lines."""
    few = len(curve.units) <= MAX_LABELS
    if not classes:
        axis.plot(curve.x, curve.fit, color=MODEL, alpha=0.35, linewidth=5, label="fit")
    parts = zip(curve.units, curve.weights.tolist(), choose_unit_colours(len(curve.units)), strict=True)
    for number, (unit, weight, colour) in enumerate(parts, start=1):
        name = f"h_{number}" if classes else f"w_{number}h_{number}"
        group_label = f"{len(curve.units)} units" if number == 1 else None
        label = f"${name}$, $w_{number} = {weight:.2g}$" if few else group_label
        axis.plot(curve.x, unit, color=colour, linewidth=1.5 if few else 0.6, alpha=1 if few else 0.6, label=label)
    summed = "probability = σ(Σ $w_jh_j + b$)" if classes else "fit = Σ $w_jh_j + b$"
    axis.set(
        title=f"{summed}, $b = {curve.bias:.2g}$", ylabel="hidden units $h_j$" if classes else "contributions $w_jh_j$"
    )
