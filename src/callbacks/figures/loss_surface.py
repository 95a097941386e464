"""Figure of the path of two weights on the loss surface."""

import math
from typing import Any, NamedTuple

import matplotlib.patheffects as effects
import torch
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call

from src.callbacks.figures.base import FigureCallback, get_data_module
from src.callbacks.figures.snapshot import eval_mode, prepare_inputs
from src.core.errors import DivergedError

POINTS = 41  # of the grid along each axis
LEVELS = 20
MAX_ARROWS = 8
MOST_STEPS = 500  # of a path for which the loss is computed, to find the range of the axes
MAX_LOSS_FACTOR = 20.0  # points with more than this multiple of the first loss may lie outside the figure


class Surface(NamedTuple):
    """The loss (H, W) over a grid of two weights: xs (W,) of the first, ys (H,) of the second."""

    xs: Tensor
    ys: Tensor
    losses: Tensor


class Descent(FigureCallback):
    """The path of the weights on the surface of the training loss, for models with exactly two trainable numbers.

    Examples are a logistic regression with two inputs and no bias, and a linear regression with one input and a bias.
    Drawn when training ends, also if it ends because the loss is not finite. A path that leaves the figure for good is
    shown up to there.
    """

    name = "descent"

    def __init__(self) -> None:
        self.path: list[Tensor] = []  # weights (2,) on the device, at the start and after each optimiser step
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.path and sum(weights.numel() for weights in _get_trainable_parameters(pl_module).values()) == 2:
            self.path.append(_copy_weights(pl_module))
            self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.path and trainer.global_step > self.step:  # False while gradients are only accumulated
            self.path.append(_copy_weights(pl_module))
            self.step = trainer.global_step

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = get_data_module(trainer)
        train_set = getattr(data, "train_set", None)
        if len(self.path) < 2 or train_set is None or not hasattr(pl_module, "loss"):
            return
        path = torch.stack([weights.float().cpu() for weights in self.path])
        samples = prepare_inputs(pl_module, data, train_set.inputs), train_set.targets.to(pl_module.device)
        indices = select_evenly_spaced(len(path))
        along = compute_losses(pl_module, *samples, path[indices])
        near = indices[along <= MAX_LOSS_FACTOR * along[0]]
        if len(near):
            surface = compute_surface(pl_module, *samples, path[near])
            title = f"Descent in {len(path) - 1} steps: loss {float(along[0]):.3g} → {float(along[-1]):.3g}"
            last = int(near[-1])
            drawn = path[: last + 2]  # including the step that leaves the figure, if any
            drawn = drawn[drawn.isfinite().all(dim=1)]
            self.show(trainer, (6.0, 4.8), surface, drawn, last == len(path) - 1, get_weight_labels(pl_module), title)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, DivergedError):
            self.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"path": [weights.cpu() for weights in self.path], "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.path, self.step = state_dict["path"], state_dict["step"]

    def draw(
        self, figure: Figure, surface: Surface, path: Tensor, whole: bool, names: tuple[str, str], title: str
    ) -> None:
        axis = figure.subplots()
        _draw_surface(figure, axis, surface)
        axis.set(xlim=surface.xs[[0, -1]].tolist(), ylim=surface.ys[[0, -1]].tolist())
        axis.locator_params(nbins=6)
        _draw_path(axis, path, whole)
        axis.set(xlabel=names[0], ylabel=names[1], title=title)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def _get_trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: weights for name, weights in model.named_parameters() if weights.requires_grad}


def _copy_weights(model: nn.Module) -> Tensor:
    """Return a copy of all trainable numbers, (P,)."""
    return torch.cat([weights.detach().flatten() for weights in _get_trainable_parameters(model).values()])


def get_weight_labels(model: nn.Module) -> tuple[str, str]:
    """Return labels of the two trainable numbers, from the first letters of their parameters: w1 and w2, or w and b."""
    first, second = [
        name.split(".")[-1][0] for name, part in _get_trainable_parameters(model).items() for _ in range(part.numel())
    ]
    return (f"${first}_1$", f"${second}_2$") if first == second else (f"${first}$", f"${second}$")


def select_evenly_spaced(count: int) -> Tensor:
    """Return up to 500 evenly spaced indices from 0 to ``count`` − 1, including the first and the last."""
    return torch.linspace(0, count - 1, min(count, MOST_STEPS), dtype=torch.float64).round().long()


def compute_losses(model: LightningModule, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute the model's loss on all samples for other weights; the model's own weights are unchanged.

    Args:
        model: a model with ``loss(outputs, targets)`` and P trainable numbers.
        inputs, targets: as the network takes them, on its device.
        weights: values of the trainable numbers, one set per row, (M, P).

    Returns:
        The losses (M,), on the CPU.
    """
    parameters = _get_trainable_parameters(model)
    sizes = [part.numel() for part in parameters.values()]
    results = []
    with eval_mode(model):
        for row in weights.to(model.device, model.dtype):  # type: ignore[arg-type]
            parts = zip(parameters.items(), row.split(sizes), strict=True)
            outputs = functional_call(model, {name: part.view_as(old) for (name, old), part in parts}, (inputs,))
            results.append(model.loss(outputs, targets))  # type: ignore[operator]
    return torch.stack(results).float().cpu()


def compute_surface(model: LightningModule, inputs: Tensor, targets: Tensor, points: Tensor) -> Surface:
    """Compute the loss over a grid around points (T, 2); each side is at least half as long as the other."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    size = (high - low).max().clamp(min=1e-3)
    half = 0.5 * torch.maximum(high - low, 0.5 * size) + 0.25 * size
    middle = (low + high) / 2
    xs, ys = [torch.linspace(float(m - h), float(m + h), POINTS) for m, h in zip(middle, half, strict=True)]
    grid = torch.cartesian_prod(ys, xs).flip(1)  # the first weight along x
    return Surface(xs, ys, compute_losses(model, inputs, targets, grid).view(POINTS, POINTS))


def _draw_surface(figure: Figure, axis: Axes, surface: Surface) -> None:
    """Draw filled contours, with levels evenly spaced in the logarithm of the loss."""
    finite = surface.losses[surface.losses.isfinite()]
    high = float(finite.max().clamp(min=1e-30))
    low = min(max(float(finite.min()), 1e-5 * high), 0.999 * high)
    levels = torch.logspace(math.log10(low), math.log10(high), LEVELS).numpy()
    clamped = surface.losses.clamp(min=levels[0], max=levels[-1]).numpy()
    filled = axis.contourf(surface.xs, surface.ys, clamped, levels=levels, norm=LogNorm(levels[0], levels[-1]))
    axis.contour(filled, colors="white", linewidths=0.3, alpha=0.5)
    figure.colorbar(filled, ax=axis, label="training loss", ticks=levels[::3], format="%.3g")


def _draw_path(axis: Axes, path: Tensor, whole: bool) -> None:
    """Draw the path (T, 2) with its start and some arrows, and its end too if ``whole``."""
    width = 1.2 if len(path) < 500 else 0.6
    edge = [effects.Stroke(linewidth=2.2 * width, foreground="black"), effects.Normal()]
    axis.plot(*path.T, color="white", linewidth=width, path_effects=edge)
    for step in select_arrow_steps(path):
        tail, head = path[step - 1].lerp(path[step], 0.49).tolist(), path[step - 1].lerp(path[step], 0.5).tolist()
        style = {"arrowstyle": "-|>", "facecolor": "white", "edgecolor": "black", "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", tuple(head), tuple(tail), arrowprops={**style, "mutation_scale": 13})
    for point, name, marker, size in ((path[0], "start", "o", 50), (path[-1], "end", "*", 140))[: 1 + whole]:
        x, y = point.tolist()
        axis.scatter(x, y, c="white", edgecolors="black", marker=marker, s=size, zorder=3, label=name)


def select_arrow_steps(path: Tensor) -> list[int]:
    """Return the steps of a path (T, 2) to draw an arrow on: up to 8 of 1 … T − 1, evenly spaced along its length."""
    lengths = (path[1:] - path[:-1]).norm(dim=1).cumsum(dim=0)
    if not len(lengths) or lengths[-1] == 0:
        return []
    marks = lengths[-1] * (torch.arange(MAX_ARROWS) + 0.5) / MAX_ARROWS
    return sorted({int(step) + 1 for step in torch.searchsorted(lengths, marks)})
