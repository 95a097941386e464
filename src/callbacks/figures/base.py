"""Base class of the figures, and helpers for their style, axes, images and files.

Figures are sized for TensorBoard and readable with red-green colour blindness: the colours are Okabe and Ito's (2008),
the colour maps matplotlib's perceptually uniform ones.
"""

from collections.abc import Callable, Sequence
from itertools import compress
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

from src.core.axes import CURVES, AxisRange, find_curves_range
from src.core.colours import COLOURS, make_palette
from src.core.devices import is_main_process
from src.data.base import TensorDataModule
from src.data.tasks import get_task
from src.loggers.opening import log_figure
from src.storage.files import open_atomic

TAG = "visuals"  # TensorBoard sorts groups alphabetically: the curves of train and val come first
MIN_BYTE_MAXIMUM = 16.0  # floats from 0 to 255 with a smaller maximum are not taken for bytes
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
THUMBNAIL_SIZE = (480, 480)  # maximum size in pixels of the figures kept from earlier epochs


class FigureCallback(Callback):
    """A figure of a run, saved as ``figures/NAME.png`` in the run's folder and sent to its loggers.

    A subclass implements ``draw`` and calls ``show`` when there is something to draw. If ``every_n_epochs`` is set,
    each figure drawn during training is also kept as a thumbnail, ``figures/NAME/EPOCH.png``: the report has a slider
    over these.
    """

    name: str
    needs_samples = True  # False: drawn from measurements alone, without the data set's samples
    every_n_epochs = 0  # also draw during training, every n epochs; 0: never

    def draw(self, figure: Figure, *args: Any) -> None:
        """Draw on an empty figure."""
        raise AttributeError(f"{type(self).__name__} must define draw()")

    def show(self, trainer: Trainer, size: tuple[float, float], *args: Any) -> None:
        """Draw at a size in inches, save the figure and log it; only on the main process."""
        if not is_main_process():
            return
        pixels = draw_figure(size, self.draw, *args)
        folder = Path(trainer.default_root_dir) / "figures"
        save_png(pixels, folder / f"{self.name}.png")
        if self.every_n_epochs and trainer.training:
            _save_thumbnail(pixels, folder / self.name / f"{trainer.current_epoch + 1}.png")
        # One step later than the last epoch's figure: otherwise both have the same position on TensorBoard's slider.
        step = trainer.global_step + bool(trainer.testing)
        log_figure(trainer.loggers, f"{TAG}/{self.name}", pixels, step)


def draw_figure(size: tuple[float, float], draw: Callable[..., None], *args: Any) -> np.ndarray:
    """Call ``draw(figure, *args)`` on a new figure and return its pixels, uint8 (H, W, 3).

    Args:
        size: width and height in inches.
        draw: draws on the figure that it gets.
        args: passed to ``draw``.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        draw(figure, *args)
        return render_figure(figure)


def render_figure(figure: Figure) -> np.ndarray:
    """Return a figure's pixels, uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG atomically."""
    with open_atomic(path) as file:
        Image.fromarray(pixels).save(file, format="png")


def _save_thumbnail(pixels: np.ndarray, path: Path) -> None:
    """Write a small PNG with few colours atomically."""
    small = Image.fromarray(pixels)
    small.thumbnail(THUMBNAIL_SIZE)
    with open_atomic(path) as file:
        small.quantize(64).save(file, format="png")


def limit_axis(axis: Axes, curves: Sequence[np.ndarray], higher: bool) -> str:
    """Limit the vertical axis if a few curves lie far outside the others; use a log scale if they span decades.

    Args:
        axis: the axis with the curves.
        curves: the values of each curve, (N,).
        higher: True if higher values are better.

    Returns:
        A text with the number of curves that leave the axis; empty if none does.
    """
    values = [curve[np.isfinite(curve)].tolist() for curve in curves]
    positive = not higher and all(value > 0 for curve in values for value in curve)
    window = find_curves_range(values, higher, positive, CURVES if positive else None)
    if window is not None and not higher:
        window = _extend_to_starts(window, values)
    shown = [value for curve in values for value in curve if window is None or window.is_inside(value)]
    if positive and should_use_log_scale(shown):
        axis.set_yscale("log")
        set_decade_ticks(axis.yaxis, shown)
    if window is None:
        return ""
    axis.set_ylim(window.low, window.high)
    return window.describe("curve")


def _extend_to_starts(window: AxisRange, curves: list[list[float]]) -> AxisRange | None:
    """Extend a window on losses to show the start of most curves; return ``None`` if no curve leaves it then."""
    starts = sorted(curve[0] for curve in curves if curve)
    median = starts[(len(starts) - 1) // 2]
    # Starts far above the median are left out: they would squeeze the other curves.
    highest = max(value for value in starts if value <= 10 * median)
    high = window.high if highest <= window.high else 1.1 * highest
    above = sum(any(value > high for value in curve) for curve in curves)
    return window._replace(high=high, above=above) if window.below or above else None


def should_use_log_scale(values: Sequence[float]) -> bool:
    """Return True if positive values (at least one) span so wide a range that they need a logarithmic axis."""
    return max(values) > 10 * min(values)


def set_decade_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers: powers of ten, and 2 and 5 times these if they are few."""
    few = max(values) < 300 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


class _FractionLocator(MaxNLocator):
    """A tick locator that uses round positions between 0 and 1 only."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        positions: Any = super().tick_values(vmin, vmax)
        return positions[(positions > -1e-9) & (positions < 1 + 1e-9)]


def set_percent_ticks(axis: Axis, max_ticks: int = 6) -> None:
    """Label an axis of fractions in per cent, with decimals where a tick needs them (97.5%) and no tick above 100%."""
    axis.set_major_locator(_FractionLocator(max_ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{round(100 * value, 6):.10g}%"))


def set_integer_ticks(axis: Axis) -> None:
    """Put integer ticks on an axis of epochs or steps, even if there is only one value."""
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def format_percent(fraction: float, digits: int) -> str:
    """Format a fraction in per cent; only exactly 1 and 0 become "100%" and "0%".

    0.9996 with one decimal is ">99.9%", 0.0001 without decimals "<1%".

    Args:
        fraction: the fraction, in [0, 1].
        digits: number of decimals.
    """
    text, smallest = f"{fraction:.{digits}%}", 10.0**-digits
    if fraction < 1 and float(text[:-1]) >= 100:
        return f">{100 - smallest:.{digits}f}%"
    if fraction > 0 and float(text[:-1]) == 0:
        return f"<{smallest:.{digits}f}%"
    return text


def get_data_module(trainer: Trainer) -> TensorDataModule:
    """Return the trainer's data module."""
    return trainer.datamodule  # type: ignore[attr-defined]


def has_images(trainer: Trainer) -> bool:
    """Return True if the inputs are images (1 or 3 channels), and classes, if there are any, have names."""
    data = get_data_module(trainer)
    named = len(data.class_names) > 0 or not get_task(data.task).has_classes
    return len(data.in_shape) == 3 and data.in_shape[0] in (1, 3) and named


def has_class_names(data: TensorDataModule) -> bool:
    """Return True if each sample is of one class, and the classes have names."""
    return len(data.class_names) > 0 and get_task(data.task).has_one_class


def format_target(data: TensorDataModule, target: Tensor) -> str:
    """Return a sample's class, its labels or its values in words; nothing for a mask."""
    if data.task == "dense":
        return ""
    if data.task == "multilabel":
        return ", ".join(compress(data.class_names, target.tolist())) or "none"
    if not data.class_names:
        return ", ".join(f"{value:.4g}" for value in target.flatten().tolist())
    return data.class_names[int(target)]


def find_pixel_range(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values that are black and white in images (N, C, H, W), as two tensors (C, 1, 1).

    For bytes these are 0 and 255 (also if the bytes are stored as another number type), for booleans and for floats in
    [0, 1] they are 0 and 1. Otherwise, as for standardised images, they are each channel's smallest and largest value
    over all images.
    """
    channels = torch.ones(images.shape[1], 1, 1)
    if images.dtype in (torch.uint8, torch.bool):
        return 0 * channels, (255 if images.dtype == torch.uint8 else 1) * channels
    finite = images.float().nan_to_num(posinf=0, neginf=0).cpu()
    low, high = finite.amin(dim=(0, 2, 3)), finite.amax(dim=(0, 2, 3))
    maximum = float(high.max())
    if low.min() >= 0 and images.is_floating_point() and maximum <= 1:
        return 0 * channels, channels
    if low.min() >= 0 and maximum <= 255 and (not images.is_floating_point() or maximum > MIN_BYTE_MAXIMUM):
        return 0 * channels, 255 * channels
    return low[:, None, None], torch.maximum(high, low + 1e-12)[:, None, None]


def to_bytes(images: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Convert images (N, C, H, W) to uint8, mapping ``black`` to 0 and ``white`` to 255; both are (C, 1, 1)."""
    if images.dtype == torch.uint8:
        return images
    pixels = 255 * (images.float().cpu() - black) / (white - black)
    return pixels.nan_to_num(0, 255, 0).round().clamp(0, 255).to(torch.uint8)


def to_image_array(image: Tensor) -> np.ndarray:
    """Convert a uint8 image (C, H, W) to matplotlib's layout: (H, W) or (H, W, 3)."""
    return (image[0] if len(image) == 1 else image.permute(1, 2, 0)).cpu().numpy()


def draw_image(axis: Axes, image: Tensor) -> None:
    """Draw a uint8 image (C, H, W) in grey or in colour."""
    axis.imshow(to_image_array(image), cmap="gray", interpolation="nearest", vmin=0, vmax=255)


def attach_masks(images: Tensor, *masks: Tensor) -> Tensor:
    """Return each image with, on its right, its masks in the colours of the classes: uint8 (N, 3, H, …).

    Args:
        images: (N, C, H, W) with one or three channels, as the data set stores them.
        masks: each (N, H, W), the classes of the pixels; `IGNORED` is white.
    """
    pixels = to_bytes(images, *find_pixel_range(images)).cpu().expand(-1, 3, -1, -1)
    colours = torch.from_numpy(np.array(make_palette(), np.uint8))
    gap = torch.full((*pixels.shape[:3], -(-pixels.shape[3] // 16)), 255, dtype=torch.uint8)
    drawn = [part for mask in masks for part in (gap, colours[mask.cpu().long()].permute(0, 3, 1, 2))]
    return torch.cat([pixels, *drawn], dim=3)


def draw_image_grid(figure: Figure, images: Tensor, titles: list[str], columns: int) -> None:
    """Draw images (N, C, H, W) in rows of ``columns`` images, each with its title above."""
    rows = -(-len(images) // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes, to_bytes(images, *find_pixel_range(images)), titles, strict=False):
        draw_image(axis, image)
        axis.set_title(title, fontsize=8, pad=2)
