"""Figures of training images: with their class names, and before and after augmentation."""

from textwrap import fill

import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import (
    FigureCallback,
    attach_masks,
    draw_image,
    draw_image_grid,
    find_pixel_range,
    format_target,
    get_data_module,
    has_images,
    to_bytes,
)

SAMPLE_COLUMNS = 10
TITLE_WIDTH = 16  # characters per line of a title of several labels
AUGMENTED_COLUMNS = 8


class ImageSamples(FigureCallback):
    """Training images as stored, before augmentation.

    Args:
        count: number of images, ≥ 1; as equally divided among the classes as possible.
    """

    name = "samples"

    def __init__(self, count: int) -> None:
        self.count = count

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        train_set = getattr(get_data_module(trainer), "train_set", None)
        if train_set is None or not has_images(trainer):
            return
        images, targets = train_set
        data = get_data_module(trainer)
        chosen = select_class_balanced(data.get_strata(train_set), self.count)
        titles = [format_target(data, target) for target in targets[chosen]]
        columns, shown = SAMPLE_COLUMNS, images[chosen]
        if data.task == "multilabel":
            titles = [fill(title, TITLE_WIDTH) for title in titles]
        elif data.task == "dense":
            columns, shown = SAMPLE_COLUMNS // 2, attach_masks(shown, targets[chosen])
        rows, lines = -(-len(chosen) // columns), max(title.count("\n") for title in titles)
        self.show(trainer, (SAMPLE_COLUMNS * 0.95, rows * (1.15 + 0.13 * lines) + 0.3), shown, titles, columns)

    def draw(self, figure: Figure, images: Tensor, titles: list[str], columns: int = SAMPLE_COLUMNS) -> None:
        figure.suptitle("Training images" if columns == SAMPLE_COLUMNS else "Training images and their masks")
        draw_image_grid(figure, images, titles, columns)


def select_class_balanced(targets: Tensor, count: int) -> Tensor:
    """Return the indices of up to ``count`` samples, in turn the first of each class, the second of each …"""
    order = torch.argsort(targets, stable=True)
    first = torch.searchsorted(targets[order], targets[order])  # position of its class's first sample
    turn = torch.arange(len(targets)) - first
    return order[torch.argsort(turn, stable=True)][:count]


class AugmentedBatch(FigureCallback):
    """Training images as stored and, below, as the network gets them; for data that are augmented.

    The random draws for this figure do not change the run's results.

    Args:
        count: number of images, ≥ 1; as equally divided among the classes as possible.
    """

    name = "augmented_batch"

    def __init__(self, count: int) -> None:
        self.count = count

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = get_data_module(trainer)
        if not getattr(data, "has_augmentation", False) or data.train_set is None or not has_images(trainer):
            return
        images = data.train_set.inputs
        kept = images[select_class_balanced(data.get_strata(data.train_set), self.count)]
        with torch.random.fork_rng(devices=[]):  # restores the CPU's generator afterwards
            outputs = data.transform(kept, augment=True)
        scale = find_pixel_range(kept)
        augmented = to_display_images(outputs, getattr(data, "mean", None), getattr(data, "std", None), scale)
        rows = -(-len(kept) // AUGMENTED_COLUMNS)
        self.show(trainer, (8.0, rows * 2.05 + 0.4), to_bytes(kept, *scale), augmented)

    def draw(self, figure: Figure, kept: Tensor, augmented: Tensor) -> None:
        rows = -(-len(kept) // AUGMENTED_COLUMNS)
        axes = figure.subplots(2 * rows, min(len(kept), AUGMENTED_COLUMNS), squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for index, pair in enumerate(zip(kept, augmented, strict=True)):
            row, column = divmod(index, AUGMENTED_COLUMNS)
            for below, image in enumerate(pair):
                draw_image(axes[2 * row + below, column], image)
        for row in range(2 * rows):
            axes[row, 0].set_ylabel("augmented" if row % 2 else "original", fontsize=9)
        figure.suptitle("Training images before and after augmentation")


def to_display_images(outputs: Tensor, mean: Tensor | None, std: Tensor | None, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Convert the network's inputs (N, C, H, W) back to uint8 images for display.

    With mean and std (C, 1, 1) the standardisation is undone, and ``scale`` gives black and white of the stored images.
    Without them each channel's smallest value over the batch becomes 0 and its largest 255.
    """
    outputs = outputs.float().cpu()
    if mean is not None and std is not None and mean.numel() and std.numel():
        return to_bytes(outputs * std.cpu() + mean.cpu(), *scale)
    low, high = outputs.amin(dim=(0, 2, 3))[:, None, None], outputs.amax(dim=(0, 2, 3))[:, None, None]
    return to_bytes(outputs, low, torch.maximum(high, low + 1e-12))
