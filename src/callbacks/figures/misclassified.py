"""Figure of misclassified test images, with predicted and true class."""

from textwrap import fill
from typing import Any

import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, data_of, image_grid, shows_images, spell_share
from src.callbacks.figures.class_probabilities import class_probabilities

COLUMNS = 5
WIDEST = 22  # characters per line of a title


class Misclassified(FigureCallback):
    """The misclassified test images with the highest predicted probability; only if one process runs the test.

    Args:
        count: maximum number of images, ≥ 1.
    """

    name = "misclassified"

    def __init__(self, count: int) -> None:
        self.count = count
        self.outputs: list[Tensor] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs.clear()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if isinstance(outputs, Tensor) and shows_images(trainer) and trainer.world_size == 1:
            self.outputs.append(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        test_set = getattr(data_of(trainer), "test_set", None)
        if not self.outputs or test_set is None:
            return
        probabilities = class_probabilities(torch.cat(self.outputs).cpu())
        names = data_of(trainer).class_names
        wrong = surest_mistakes(probabilities, test_set.targets[: len(probabilities)], self.count)
        confidence, predicted = probabilities[wrong].max(dim=1)
        titles = [
            fill(f"{names[true]}, taken for {names[guess]} ({spell_share(probability, 1)})", WIDEST)
            for guess, probability, true in zip(predicted, confidence.tolist(), test_set.targets[wrong], strict=True)
        ]
        if titles:
            rows = -(-len(titles) // COLUMNS)
            self.show(trainer, (COLUMNS * 1.6, rows * 1.75 + 0.3), test_set.inputs[wrong], titles)

    def draw(self, figure: Figure, images: Tensor, titles: list[str]) -> None:
        figure.suptitle("Mistakes on the test set, the surest first")
        image_grid(figure, images, titles, COLUMNS)


def surest_mistakes(probabilities: Tensor, targets: Tensor, count: int) -> Tensor:
    """Return the indices of up to ``count`` mistakes, the highest probability first.

    Args:
        probabilities: the predicted probabilities, (N, K).
        targets: the true classes, (N,).
        count: maximum number of mistakes.
    """
    confidence, predicted = probabilities.max(dim=1)
    wrong = (predicted != targets).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
