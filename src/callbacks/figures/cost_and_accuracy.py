"""Figure of training loss and accuracy on a common axis of epochs."""

from lightning import LightningModule, Trainer
from matplotlib.figure import Figure

from src.callbacks.figures.base import FigureCallback, data_of, tick_shares, tick_whole
from src.callbacks.history import History, Row
from src.core.colours import TRAIN


class CostAndAccuracy(FigureCallback):
    """The total training loss (left axis) and the accuracy (right axis) over the epochs; for classes."""

    name = "cost_and_accuracy"
    of_samples = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history = next((callback for callback in trainer.callbacks if isinstance(callback, History)), None)  # type: ignore[attr-defined]
        train_set = getattr(data_of(trainer), "train_set", None)
        if history is None or train_set is None:
            return
        epochs, losses, accuracies = totals(history.rows, train_set.size)
        if epochs:
            self.show(trainer, (5.6, 3.8), epochs, losses, accuracies)

    def draw(self, figure: Figure, epochs: list[float], losses: list[float], accuracies: list[float]) -> None:
        left = figure.subplots()
        right = left.twinx()
        marker = "o" if len(epochs) < 20 else ""
        for axis, values, name, side, style in (
            (left, losses, "total training loss", "left", "-"),
            (right, accuracies, "training accuracy", "right", "--"),
        ):
            label = f"{name} ({side} axis)"
            axis.plot(epochs, values, color=TRAIN, linestyle=style, marker=marker, markersize=4, label=label)
            axis.set_ylabel(name)
        left.set(xlabel="epoch", title="Cost and accuracy", ylim=(0, None))
        tick_whole(left.xaxis)
        tick_shares(right.yaxis)
        right.spines["right"].set_visible(True)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)


def totals(rows: list[Row], samples: int) -> tuple[list[float], list[float], list[float]]:
    """Return the epochs, total training losses and accuracies of the rows that have both metrics.

    Args:
        rows: the metrics of each epoch.
        samples: number of training samples; the total loss is the mean loss times this.
    """
    complete = [row for row in rows if "train/loss" in row and "train/acc" in row]
    losses = [row["train/loss"] * samples for row in complete]
    return [row["epoch"] for row in complete], losses, [row["train/acc"] for row in complete]
