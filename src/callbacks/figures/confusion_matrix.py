"""Figure of the test set's confusion matrix."""

import numpy as np
from lightning import LightningModule, Trainer
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, data_of, spell_share, tick_shares
from src.core.colours import OTHER, WRONG, choose_ink

ERRORS = LinearSegmentedColormap.from_list("errors", ["white", WRONG, "#7A2A5A"])


class ConfusionMatrix(FigureCallback):
    """The test set's confusion matrix; for models that count one (``confusion``, (K, K)).

    Each cell shows its count. Mistakes are coloured by their fraction of the true class, on a scale that ends at the
    largest of them; the diagonal is grey.
    """

    name = "confusion_matrix"
    of_samples = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts, names = getattr(pl_module, "confusion", None), getattr(data_of(trainer), "class_names", ())
        if counts is not None and len(names) > 1:
            side = 2.4 + 0.27 * len(names)
            self.show(trainer, (side + 0.9, side * 0.92), counts.cpu(), names)

    def draw(self, figure: Figure, counts: Tensor, names: tuple[str, ...]) -> None:
        fractions = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()  # of the true class
        accuracy = float(counts.diagonal().sum() / counts.sum().clamp(min=1))
        axis, right = figure.subplots(), np.eye(len(names), dtype=bool)
        errors = np.ma.array(fractions, mask=right)
        image = axis.imshow(errors, cmap=ERRORS, vmin=0, vmax=errors.max() or 1)
        axis.imshow(np.ma.array(fractions, mask=~right), cmap=ListedColormap([OTHER]))
        size = 7 if len(names) > 4 else 10
        for row, column in np.ndindex(fractions.shape):
            count = int(counts[row, column])
            if count or row == column:
                colour = "black" if row == column else choose_ink(*image.cmap(image.norm(fractions[row, column]))[:3])
                axis.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)
        long = max(map(len, names)) > 2
        axis.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
        axis.set_yticks(range(len(names)), names)
        title = f"Test set: {spell_share(accuracy, 2)} correct"
        axis.set(xlabel="predicted class", ylabel="true class", title=title)
        axis.spines[:].set_visible(False)
        if errors.max():
            bar = figure.colorbar(image, ax=axis, label="mistakes (share of class)", shrink=0.8)
            tick_shares(bar.ax.yaxis, 5)
            bar.outline.set_visible(False)
