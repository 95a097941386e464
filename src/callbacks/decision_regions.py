"""What a model of two inputs says everywhere on the plane, with the samples it learned from."""

import torch
from lightning import LightningModule, Trainer
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figure import COLOURS, FigureCallback, data_of

POINTS = 200  # of the grid, each way


class DecisionRegions(FigureCallback):
    """The plane coloured by predicted class over the training samples; for two inputs.

    Args:
        every_n_epochs: draw also while training, every so many epochs; 0: only the weights kept.
    """

    name = "decision_regions"

    def __init__(self, every_n_epochs: int) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0:
            self.show_regions(trainer, pl_module, f"epoch {trainer.current_epoch + 1}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.show_regions(trainer, pl_module, "the weights kept")

    def show_regions(self, trainer: Trainer, model: LightningModule, title: str) -> None:
        data = data_of(trainer)
        train_set = getattr(data, "train_set", None)
        if train_set is None or tuple(data.in_shape) != (2,) or not data.class_names or not hasattr(model, "predict"):
            return
        inputs, targets = train_set
        xs, ys, classes = regions(model, inputs)
        self.show(trainer, (5.2, 4.6), xs, ys, classes, inputs, targets, data.class_names, title)

    def draw(
        self,
        figure: Figure,
        xs: Tensor,
        ys: Tensor,
        classes: Tensor,
        inputs: Tensor,
        targets: Tensor,
        names: tuple[str, ...],
        title: str,
    ) -> None:
        axis = figure.subplots()
        pale = ListedColormap([[0.7 + 0.3 * part for part in to_rgb(colour)] for colour in COLOURS[: len(names)]])
        plane, extent = classes.numpy(), (float(xs[0]), float(xs[-1]), float(ys[0]), float(ys[-1]))
        axis.imshow(plane, cmap=pale, vmin=-0.5, vmax=len(names) - 0.5, extent=extent, origin="lower", aspect="auto")
        for number, (name, marker) in enumerate(zip(names, "os^DvP*X" * len(names), strict=False)):
            points = inputs[targets == number].numpy()
            colour = COLOURS[number % len(COLOURS)]
            axis.scatter(
                points[:, 0], points[:, 1], c=colour, marker=marker, s=28, edgecolors="white", label=f"class {name}"
            )
        axis.set(xlabel="$x_1$", ylabel="$x_2$", title=f"Decision regions, {title}")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(names))


@torch.no_grad()
def regions(model: LightningModule, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The predicted class over a grid around the inputs (N, 2).

    Returns:
        The grid's coordinates xs (W,) and ys (H,), and the classes (H, W).
    """
    margin = 0.15 * (inputs.amax(dim=0) - inputs.amin(dim=0))
    low, high = inputs.amin(dim=0) - margin, inputs.amax(dim=0) + margin
    xs, ys = [torch.linspace(float(low[i]), float(high[i]), POINTS) for i in (0, 1)]
    like = next(model.parameters())  # its device and precision
    grid = torch.cartesian_prod(ys, xs).flip(1).to(like)  # (H·W, 2), x first
    training = model.training
    model.eval()
    classes: Tensor = model.predict(model(grid))  # type: ignore[operator]
    model.train(training)
    return xs, ys, classes.view(POINTS, POINTS).cpu()
