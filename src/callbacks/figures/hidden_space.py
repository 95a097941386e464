"""Figure of the samples in the space of two hidden units, with the decision line there."""

import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.callbacks.figures.base import get_data_module, has_class_names
from src.callbacks.figures.decision_regions import (
    POINTS,
    Plane,
    add_legend_below,
    draw_classes,
    draw_lines,
    make_grid_around,
)
from src.callbacks.figures.snapshot import Snapshot, capture_last_hidden, eval_mode, prepare_inputs
from src.data.base import EVAL_BATCH_SIZE
from src.data.loading.samples import Samples

MAX_SAMPLES = 2000


class HiddenSpace(Snapshot):
    """Training samples in the space of the last hidden layer, if it has two units; for classes.

    The plane is coloured by the class that the output layer predicts at each point. For a binary task the decision line
    is drawn too. At most 2,000 training samples are shown.

    Args:
        every_n_epochs: draw also during training, every n epochs; 0: only the selected weights, after the test.
    """

    name = "hidden_space"

    def draw_snapshot(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        data = get_data_module(trainer)
        samples: Samples | None = getattr(data, "train_set", None)
        if samples is None or not has_class_names(data) or not hasattr(model, "predict"):
            return
        samples = subsample(samples)
        parts = [
            compute_hidden_values(model, prepare_inputs(model, data, part))
            for part in samples.inputs.split(EVAL_BATCH_SIZE)
        ]
        available = [part for part in parts if part is not None]
        if available:
            layer, values = available[0][0], torch.cat([hidden for _, hidden in available])
            line = get_decision_line(layer) if layer.out_features == 1 else None
            plane = predict_hidden_grid(model, layer, values)
            self.show(trainer, (5.2, 4.6), plane, Samples(values, samples.targets), data.class_names, title, line)

    def draw(
        self,
        figure: Figure,
        plane: Plane,
        samples: Samples,
        names: tuple[str, ...],
        title: str,
        line: Tensor | None,
    ) -> None:
        axis = figure.subplots()
        draw_classes(axis, plane, samples, names)
        if line is not None:
            draw_lines(axis, line)
        axis.set(xlabel="$z_1$, first hidden unit", ylabel="$z_2$, second hidden unit", title=f"Hidden space, {title}")
        add_legend_below(axis, columns=max(len(names), 4))


def subsample(samples: Samples) -> Samples:
    """Return at most 2,000 of the samples, always the same ones."""
    if samples.size <= MAX_SAMPLES:
        return samples
    return samples.take(torch.randperm(samples.size, generator=torch.Generator().manual_seed(0))[:MAX_SAMPLES])


def compute_hidden_values(model: LightningModule, inputs: Tensor) -> tuple[nn.Linear, Tensor] | None:
    """Return the output layer and the values of the two hidden units before it, (B, 2) on the CPU.

    ``None`` if there are not exactly two units, or if their values are the inputs themselves.
    """
    found = capture_last_hidden(model, inputs)
    if found is None or found[1].shape != (len(inputs), 2) or torch.equal(found[1], inputs.flatten(1)):
        return None
    return found[0], found[1].float().cpu()


def predict_hidden_grid(model: LightningModule, layer: nn.Linear, values: Tensor) -> Plane:
    """Predict the class at each point of a grid around the hidden values (N, 2)."""
    xs, ys, grid = make_grid_around(values)
    with eval_mode(model):
        classes: Tensor = model.predict(layer(grid.to(layer.weight)))  # type: ignore[operator]
    return Plane(xs, ys, classes.view(POINTS, POINTS).cpu())


def get_decision_line(layer: nn.Linear) -> Tensor:
    """Return the line w1·z1 + w2·z2 + b = 0 of a layer with one output as (w1, w2, b), (1, 3)."""
    bias = layer.weight.new_zeros(1) if layer.bias is None else layer.bias
    return torch.cat([layer.weight[0], bias]).detach().float().cpu()[None]
