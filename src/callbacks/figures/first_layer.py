"""Figure of the first layer's weights as images."""

import math
from collections.abc import Sequence

from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from src.callbacks.figures.base import FigureCallback, get_data_module

WIDTH = 8.0  # inches
SIGNED = "RdBu_r"  # blue below 0, white at 0, red above


class FirstLayer(FigureCallback):
    """The first layer's kernels, or its units' weights as images if it is fully connected; the largest norms first.

    For networks (``net``) whose first layer is a convolution on 1 or 3 channels, or a linear layer on images of 1 or 3
    channels.

    Args:
        count: maximum number of kernels or units, ≥ 1; those with the largest weights are drawn.
        every_n_epochs: draw also during training, every n epochs; 0: only the selected weights, after the test.
    """

    name = "first_layer"

    def __init__(self, count: int, every_n_epochs: int) -> None:
        self.count, self.every_n_epochs = count, every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0:
            self.show_weights(trainer, pl_module, f"epoch {trainer.current_epoch + 1}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.show_weights(trainer, pl_module, "selected weights")

    def show_weights(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        net = getattr(model, "net", None)
        weights = None if net is None else get_image_weights(net, get_data_module(trainer).in_shape)
        if weights is None:
            return
        units = find_strongest(weights, self.count)
        columns = count_columns(len(units))
        rows, bar = -(-len(units) // columns), 0.8 if weights.shape[1] == 1 else 0.0
        self.show(trainer, (WIDTH, rows * (WIDTH - bar) / columns * 1.1 + 0.4), weights[units], units.tolist(), title)

    def draw(self, figure: Figure, weights: Tensor, units: list[int], title: str) -> None:
        columns, limit = count_columns(len(units)), float(weights.abs().max())
        axes = figure.subplots(-(-len(units) // columns), columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, image, unit in zip(axes.flat, weights, units, strict=False):
            drawn_image = draw_signed(axis, image, limit)
            if columns <= 12:  # with more columns there is no room for titles
                axis.set_title(str(unit), fontsize=7, pad=2)
        _, channels, height, width = weights.shape
        if channels == 1:
            figure.colorbar(drawn_image, ax=axes, label="weight", fraction=0.05, aspect=30)
        layout = f"{height}×{width}" if channels == 1 else f"{height}×{width} in colour, grey is 0"
        figure.suptitle(f"First layer: the strongest units' weights ({layout}), {title}", fontsize=11)


def get_image_weights(net: nn.Module, in_shape: Sequence[int]) -> Tensor | None:
    """Return the first layer's weights as images (units, C, H, W) with C = 1 or 3; ``None`` if they are not images."""
    layer = next((module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))), None)
    if isinstance(layer, nn.Linear) and len(in_shape) == 3 and layer.in_features == math.prod(in_shape):
        weights = layer.weight.view(-1, *in_shape)
    elif isinstance(layer, nn.Conv2d):
        weights = layer.weight
    else:
        return None
    return weights.detach().float().cpu() if weights.shape[1] in (1, 3) else None


def find_strongest(weights: Tensor, count: int) -> Tensor:
    """Return the indices of up to ``count`` of the weights (N, …), the largest Euclidean norm first."""
    return weights.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:count]


def count_columns(count: int) -> int:
    """Return the number of columns, at least 6, for a grid of ``count`` images about 1.6 times as wide as high."""
    return max(6, math.ceil(math.sqrt(1.6 * count)))


def compute_signed_colours(weights: Tensor, limit: float) -> Tensor:
    """Convert weights (3, H, W) in ±limit, limit > 0, to colours (H, W, 3) in [0, 1]; 0 is mid-grey."""
    return (0.5 + weights / (2 * limit)).clamp(0, 1).permute(1, 2, 0)


def draw_signed(axis: Axes, image: Tensor, limit: float) -> AxesImage:
    """Draw values (C, H, W) in ±limit: three channels as colours, one from blue (< 0) through white to red (> 0)."""
    limit = max(limit, 1e-12)  # all zeros are drawn in white
    if len(image) == 3:
        return axis.imshow(compute_signed_colours(image, limit).numpy(), interpolation="nearest")
    return axis.imshow(image[0].numpy(), cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
