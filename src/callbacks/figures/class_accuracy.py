"""Figure of the test accuracy of each class."""

from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from src.callbacks.figures.base import FigureCallback, data_of, spell_share, tick_shares
from src.core.colours import RIGHT


class ClassAccuracy(FigureCallback):
    """The test set's accuracy by class, the best on top; for models that count a ``confusion`` (K, K)."""

    name = "class_accuracy"
    of_samples = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts, names = getattr(pl_module, "confusion", None), getattr(data_of(trainer), "class_names", ())
        if counts is not None and len(names) > 1 and counts.sum() > 0:
            self.show(trainer, (6.4, 1.0 + 0.26 * len(names)), class_accuracies(counts.cpu(), names))

    def draw(self, figure: Figure, accuracies: list[tuple[str, float]]) -> None:
        names, values = zip(*accuracies, strict=True)
        mean = sum(values) / len(values)
        axis, rows = figure.subplots(), range(len(names))
        axis.barh(rows, values, color=RIGHT, height=0.7)
        for row, value in enumerate(values):  # right of 100%, clear of the bars and the line
            axis.text(1.02, row, spell_share(value, 1), va="center", fontsize=9)
        axis.axvline(mean, color="black", linestyle="--", label=f"mean of the classes {spell_share(mean, 1)}")
        axis.set_yticks(rows, names)
        axis.set(xlim=(0, 1.12), ylim=(len(names) - 0.5, -0.5))
        axis.set(xlabel="share of the class predicted right", title="Test accuracy by class")
        tick_shares(axis.xaxis)
        axis.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower center")


def class_accuracies(counts: Tensor, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Return each class's name and accuracy, the best first.

    Args:
        counts: number of samples by true × predicted class, (K, K).
        names: the names of the K classes. Those without samples are left out.
    """
    totals = counts.sum(dim=1)
    accuracies = (counts.diagonal() / totals.clamp(min=1)).tolist()
    rated = [(name, rate) for name, rate, total in zip(names, accuracies, totals.tolist(), strict=True) if total]
    return sorted(rated, key=lambda item: -item[1])
