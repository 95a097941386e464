"""Which classes are taken for which."""

from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figure import FigureCallback, data_of


class ConfusionMatrix(FigureCallback):
    """The test set's confusion matrix; for models that count one (``confusion``, (K, K))."""

    name = "confusion_matrix"
    of_samples = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts, names = getattr(pl_module, "confusion", None), getattr(data_of(trainer), "class_names", ())
        if counts is not None and len(names) > 1:
            side = 2.4 + 0.27 * len(names)
            self.show(trainer, (side, side * 0.92), counts.cpu(), names)

    def draw(self, figure: Figure, counts: Tensor, names: tuple[str, ...]) -> None:
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        accuracy = float(counts.diagonal().sum() / counts.sum().clamp(min=1))
        axis, size = figure.subplots(), 7 if len(names) > 4 else 10
        axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        for row in range(len(names)):
            for column in range(len(names)):
                if count := int(counts[row, column]):
                    colour = "white" if shares[row, column] > 0.5 else "0.25"
                    axis.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)
        long = max(map(len, names)) > 2
        axis.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
        axis.set_yticks(range(len(names)), names)
        axis.set(xlabel="predicted class", ylabel="true class", title=f"Test set: {accuracy:.2%} correct")
        axis.spines[:].set_visible(False)
