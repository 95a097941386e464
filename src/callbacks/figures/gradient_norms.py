"""Gradient norm of each layer, to see whether gradients vanish or explode."""

from typing import Any

import matplotlib
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from src.callbacks.figures.base import FigureCallback, set_integer_ticks
from src.core.errors import DivergedError

MAX_LABELS = 10


class GradientNorms(FigureCallback):
    """The norm of each layer's gradient before clipping: scalars ``gradient_norm/layer_J`` and a figure.

    A layer is the weight of a trained fully connected layer or convolution; layer 1 is the nearest to the inputs. In
    TensorBoard each layer has a chart under ``gradient_norm``, and the custom scalars have one chart of all layers. The
    figure is drawn when training ends, also if it ends because the loss is not finite.

    Args:
        every_n_steps: measure every n optimiser steps, ≥ 1.
    """

    name = "gradient_norms"
    needs_samples = False

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.weights: list[Tensor] = []  # of the layers
        self.steps: list[int] = []
        self.norms: list[list[float]] = []  # by step and layer
        self.pending: list[tuple[int, Tensor]] = []  # steps and norms still on the device

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = get_trained_weights(pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                chart = {"all layers": ["Multiline", ["gradient_norm/.*"]]}
                logger.experiment.add_custom_scalars({"gradient norms": chart})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # Optimisers such as LBFGS evaluate a batch several times per step: measure only the first.
        again = bool(self.pending) and self.pending[-1][0] == trainer.global_step
        if trainer.global_step % self.every_n_steps == 0 and not again:
            norms = compute_gradient_norms(self.weights)
            if len(norms):
                self.pending.append((trainer.global_step, norms))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.log_pending(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(norm > 0 for norms in self.norms for norm in norms):
            self.show(trainer, (6.4, 3.8), self.steps, torch.tensor(self.norms))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, DivergedError):
            self.log_pending(trainer)
            self.on_fit_end(trainer, pl_module)

    def log_pending(self, trainer: Trainer) -> None:
        """Copy the pending norms from the device in one transfer and log them."""
        if not self.pending:
            return
        rows = torch.stack([norms for _, norms in self.pending]).tolist()
        for (step, _), norms in zip(self.pending, rows, strict=True):
            self.steps.append(step)
            self.norms.append(norms)
            scalars = {f"gradient_norm/layer_{n}": norm for n, norm in enumerate(norms, start=1) if norm == norm}
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=step)
        self.pending.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "norms": [list(norms) for norms in self.norms]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.norms = state_dict["steps"], state_dict["norms"]

    def draw(self, figure: Figure, steps: list[int], norms: Tensor) -> None:
        axis, layers = figure.subplots(), norms.shape[1]
        colours = matplotlib.colormaps["viridis"](torch.linspace(0, 0.9, max(layers, 2)).numpy())
        marker, width = ("o", 1.2) if len(steps) < 20 else ("", 1.2 if len(steps) < 300 else 0.6)
        for number, (line, colour) in enumerate(zip(norms.T, colours, strict=False), start=1):
            axis.plot(steps, line, color=colour, linewidth=width, marker=marker, markersize=4, label=f"layer {number}")
        set_integer_ticks(axis.xaxis)
        axis.set_yscale("log", nonpositive="mask")
        axis.set(xlabel="optimiser step", ylabel="norm of the gradient", title="Gradients, layer by layer")
        axis.grid(alpha=0.25)
        if layers <= MAX_LABELS:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            scale = matplotlib.cm.ScalarMappable(Normalize(1, layers), ListedColormap(colours))
            figure.colorbar(scale, ax=axis, label="layer (1 is nearest to the inputs)")


def get_trained_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of all fully connected layers and convolutions that are trained, in order."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return [layer.weight for layer in layers if layer.weight.requires_grad]


def compute_gradient_norms(layers: list[Tensor]) -> Tensor:
    """Compute the Euclidean norm of the gradient of each layer's weights.

    Returns:
        (L,) on the weights' device; NaN for a layer without a gradient, such as one that is frozen for a while.
    """
    norms = [
        weight.new_full((), torch.nan) if weight.grad is None else torch.linalg.vector_norm(weight.grad)
        for weight in layers
    ]
    return torch.stack(norms).detach().float() if norms else torch.empty(0)
