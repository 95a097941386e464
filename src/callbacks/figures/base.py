"""What every picture has in common: how it looks and where it goes.

Pictures are drawn for TensorBoard's size and for eyes that do not tell red from green: the
colours are Okabe and Ito's (2008), the scales matplotlib's perceptually uniform ones.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image
from torch import Tensor

from src.core.axes import CURVES, Window, find_window_of_curves
from src.core.colours import COLOURS
from src.core.devices import is_main_process
from src.data.base import TensorDataModule
from src.loggers.opening import log_figure
from src.storage.files import open_atomic

TAG = "visuals"  # of pictures in TensorBoard, which shows groups by the alphabet: the curves of train and val first
DARKEST = 16.0  # of floats from 0 to 255: with less these are no images of bytes
STYLE: Any = {
    "axes.prop_cycle": f"cycler('color', {COLOURS})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.titlesize": 11,
    "figure.titlesize": 11,
    "font.size": 10,
    "legend.frameon": False,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
}
SMALL = (480, 480)  # pixels at most of a picture's earlier versions


class FigureCallback(Callback):
    """A picture of a run, in its loggers and as ``figures/NAME.png`` in the run's folder.

    A subclass draws on a figure in ``draw`` and calls ``show`` when there is something to see. One that is drawn again
    and again while the run trains stays, small, as ``figures/NAME/EPOCH.png``: the report has a slider over these.
    """

    name: str
    of_samples = True  # drawn from a data set's samples, not from what was measured alone
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
        log_figure(trainer.loggers, f"{TAG}/{self.name}", pixels, step)


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
    """End the vertical axis where curves would squeeze the others that go far beyond these; logarithmic for decades.

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
    if window is not None and not higher:
        window = _with_beginnings(window, values)
    shown = [value for curve in values for value in curve if window is None or window.has(value)]
    if positive and spans_decades(shown):
        axis.set_yscale("log")
        tick_decades(axis.yaxis, shown)
    if window is None:
        return ""
    axis.set_ylim(window.low, window.high)
    return window.words("curve")


def _with_beginnings(window: Window, curves: list[list[float]]) -> Window | None:
    """Return a window on losses that shows where most curves begin; ``None`` if that leaves nothing out."""
    beginnings = sorted(curve[0] for curve in curves if curve)
    usual = beginnings[(len(beginnings) - 1) // 2]
    most = max(value for value in beginnings if value <= 10 * usual)
    high = window.high if most <= window.high else 1.1 * most
    above = sum(any(value > high for value in curve) for curve in curves)
    return window._replace(high=high, above=above) if window.below or above else None


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether positive values, one at least, lie so far apart that they show on a logarithmic axis only."""
    return max(values) > 10 * min(values)


def tick_decades(axis: Axis, values: Sequence[float]) -> None:
    """Put plain numbers at a logarithmic axis: the powers of ten, and 2 and 5 times them where these are few."""
    few = max(values) < 300 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


class _ShareLocator(MaxNLocator):
    """Round places between 0 and 1."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        places: Any = super().tick_values(vmin, vmax)
        return places[(places > -1e-9) & (places < 1 + 1e-9)]


def tick_shares(axis: Axis, most: int = 6) -> None:
    """Put shares at an axis in per cent, each as it is: 97.5% where that is the place, and none beyond 100%."""
    axis.set_major_locator(_ShareLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{round(100 * value, 6):.10g}%"))


def tick_whole(axis: Axis) -> None:
    """Put whole numbers at an axis of epochs or steps, also where there is one alone."""
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def spell_share(share: float, digits: int) -> str:
    """Return a share in per cent with so many decimals; "100%" and "0%" are those that are just that.

    0.9996 with one decimal is ">99.9%", 0.0001 without any "<1%".
    """
    text, least = f"{share:.{digits}%}", 10.0**-digits
    if share < 1 and float(text[:-1]) >= 100:
        return f">{100 - least:.{digits}f}%"
    if share > 0 and float(text[:-1]) == 0:
        return f"<{least:.{digits}f}%"
    return text


def data_of(trainer: Trainer) -> TensorDataModule:
    """The data module in use."""
    return trainer.datamodule  # type: ignore[attr-defined]


def shows_images(trainer: Trainer) -> bool:
    """Whether the inputs are images (1 or 3 channels) with class names."""
    data = data_of(trainer)
    return len(data.in_shape) == 3 and data.in_shape[0] in (1, 3) and len(data.class_names) > 0


def measure_pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is black and what is white in images (N, C, H, W): each (C, 1, 1), for all images alike.

    Bytes lie from 0 to 255, also as other numbers, truth values and fractions from 0 to 1; of all others, such as
    standardised ones, each channel's smallest and largest values are black and white.
    """
    channels = torch.ones(images.shape[1], 1, 1)
    if images.dtype in (torch.uint8, torch.bool):
        return 0 * channels, (255 if images.dtype == torch.uint8 else 1) * channels
    known = images.float().nan_to_num(posinf=0, neginf=0).cpu()
    low, high = known.amin(dim=(0, 2, 3)), known.amax(dim=(0, 2, 3))
    most = float(high.max())
    if low.min() >= 0 and images.is_floating_point() and most <= 1:
        return 0 * channels, channels
    if low.min() >= 0 and most <= 255 and (not images.is_floating_point() or most > DARKEST):
        return 0 * channels, 255 * channels
    return low[:, None, None], torch.maximum(high, low + 1e-12)[:, None, None]


def to_bytes(images: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Return images (N, C, H, W) as uint8, with 0 and 255 for what is black and white: (C, 1, 1)."""
    if images.dtype == torch.uint8:
        return images
    pixels = 255 * (images.float().cpu() - black) / (white - black)
    return pixels.nan_to_num(0, 255, 0).round().clamp(0, 255).to(torch.uint8)


def picture(image: Tensor) -> np.ndarray:
    """A uint8 image (C, H, W) as matplotlib takes it: (H, W) or (H, W, 3)."""
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).cpu().numpy()


def draw_image(axis: Axes, image: Tensor) -> None:
    """Draw a uint8 image (C, H, W), grey or in colour."""
    axis.imshow(picture(image), cmap="gray", interpolation="nearest", vmin=0, vmax=255)


def image_grid(figure: Figure, images: Tensor, titles: list[str], columns: int) -> None:
    """Draw images (N, C, H, W) in rows, each under its title."""
    rows = -(-len(images) // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes, to_bytes(images, *measure_pixels(images)), titles, strict=False):
        draw_image(axis, image)
        axis.set_title(title, fontsize=8, pad=2)
