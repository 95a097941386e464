"""What every picture has in common: how it looks and where it goes.

Pictures are drawn for TensorBoard's size and for eyes that do not tell red from green: the
colours are Okabe and Ito's (2008), the scales matplotlib's perceptually uniform ones.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from src.axes import CURVES, find_window_of_curves
from src.colours import COLOURS
from src.core.files import open_atomic
from src.data.base import TensorDataModule
from src.devices import is_main_process

STYLE: Any = {
    "axes.prop_cycle": f"cycler('color', {COLOURS})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.titlesize": 11,
    "font.size": 10,
    "legend.frameon": False,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
}
SMALL = (480, 480)  # pixels at most of a picture's earlier versions


class FigureCallback(Callback):
    """A picture of a run, in TensorBoard and as ``figures/NAME.png`` in the run's folder.

    A subclass draws on a figure in ``draw`` and calls ``show`` when there is something to see. One that is drawn again
    and again while the run trains stays, small, as ``figures/NAME/EPOCH.png``: the report has a slider over these.
    """

    name: str
    every_n_epochs = 0  # drawn while training, too; 0: not

    def draw(self, figure: Figure, *args: Any) -> None:
        """Draw on an empty figure."""
        raise AttributeError(f"{type(self).__name__} must define draw()")

    def show(self, trainer: Trainer, size: tuple[float, float], *args: Any) -> None:
        """Draw at a size in inches and keep the picture; only the first of several processes does."""
        if not is_main_process():
            return
        pixels = drawn(size, self.draw, *args)
        folder = Path(trainer.default_root_dir) / "figures"
        save(pixels, folder / f"{self.name}.png")
        if self.every_n_epochs and trainer.training:
            _save_small(pixels, folder / self.name / f"{trainer.current_epoch + 1}.png")
        step = trainer.global_step + bool(trainer.testing)  # after the last epoch's picture on TensorBoard's slider
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"figures/{self.name}", pixels, step, dataformats="HWC")


def drawn(size: tuple[float, float], draw: Callable[..., None], *args: Any) -> np.ndarray:
    """The pixels, uint8 (H, W, 3), of what ``draw(figure, *args)`` draws on a figure of so many inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        draw(figure, *args)
        return rendered(figure)


def rendered(figure: Figure) -> np.ndarray:
    """A figure's pixels, uint8 (H, W, 3); drawn once, for the file and for TensorBoard."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with open_atomic(path) as file:
        Image.fromarray(pixels).save(file, format="png")


def _save_small(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG of few pixels and colours whole or not at all."""
    small = Image.fromarray(pixels)
    small.thumbnail(SMALL)
    with open_atomic(path) as file:
        small.quantize(64).save(file, format="png")


def limit_axis(axis: Axes, curves: Sequence[np.ndarray], higher: bool) -> str:
    """End the vertical axis where curves would squeeze the others that go far beyond these.

    Args:
        axis: what they are drawn on.
        curves: the values of each, (N,).
        higher: whether higher values are the better ones.

    Returns:
        In words how many go beyond the axis; nothing if none does.
    """
    values = [curve[np.isfinite(curve)].tolist() for curve in curves]
    positive = not higher and all(value > 0 for curve in values for value in curve)
    window = find_window_of_curves(values, higher, positive, CURVES if positive else None)
    if window is None:
        return ""
    axis.set_ylim(window.low, window.high)
    return window.words("curve")


def data_of(trainer: Trainer) -> TensorDataModule:
    """The data module in use."""
    return trainer.datamodule  # type: ignore[attr-defined]


def shows_images(trainer: Trainer) -> bool:
    """Whether the inputs are images (1 or 3 channels) with class names."""
    data = data_of(trainer)
    return len(data.in_shape) == 3 and data.in_shape[0] in (1, 3) and len(data.class_names) > 0


def picture(image: Tensor) -> np.ndarray:
    """A uint8 image (C, H, W) as matplotlib takes it: (H, W) or (H, W, 3)."""
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).cpu().numpy()


def image_grid(figure: Figure, images: Tensor, titles: list[str], columns: int) -> None:
    """Draw uint8 images (N, C, H, W) in rows, each under its title."""
    rows = -(-len(images) // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(picture(image), cmap="gray", interpolation="nearest", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8, pad=2)
