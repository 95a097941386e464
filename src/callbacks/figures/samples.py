"""Figure of training images with their class names."""

import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, data_of, image_grid, shows_images

COLUMNS = 10


class Samples(FigureCallback):
    """Training images as stored, before augmentation.

    Args:
        count: number of images, ≥ 1; as equally divided among the classes as possible.
    """

    name = "samples"

    def __init__(self, count: int) -> None:
        self.count = count

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        train_set = getattr(data_of(trainer), "train_set", None)
        if train_set is None or not shows_images(trainer):
            return
        images, targets = train_set
        chosen = class_by_class(targets, self.count)
        titles = [data_of(trainer).class_names[target] for target in targets[chosen].tolist()]
        rows = -(-len(chosen) // COLUMNS)
        self.show(trainer, (COLUMNS * 0.95, rows * 1.15 + 0.3), images[chosen], titles)

    def draw(self, figure: Figure, images: Tensor, titles: list[str]) -> None:
        figure.suptitle("Training images")
        image_grid(figure, images, titles, COLUMNS)


def class_by_class(targets: Tensor, count: int) -> Tensor:
    """Return the indices of up to ``count`` samples, in turn the first of each class, the second of each …"""
    order = torch.argsort(targets, stable=True)
    first = torch.searchsorted(targets[order], targets[order])  # position of its class's first sample
    turn = torch.arange(len(targets)) - first
    return order[torch.argsort(turn, stable=True)][:count]
