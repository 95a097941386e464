"""Loss and accuracy of training in one picture."""

from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.callbacks.figure import COLOURS, FigureCallback, data_of
from src.callbacks.history import History, Row


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
        few = "o" if len(epochs) < 20 else ""
        for axis, values, name, colour, style in (
            (left, losses, "total training loss", COLOURS[1], "-"),
            (right, accuracies, "training accuracy", COLOURS[0], "--"),
        ):
            axis.plot(epochs, values, color=colour, linestyle=style, marker=few, markersize=4)
            axis.set_ylabel(name, color=colour)
            axis.tick_params(axis="y", colors=colour)
        left.set(xlabel="epoch", title="Cost and accuracy", ylim=(0, None))
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.yaxis.set_major_formatter("{x:.0%}")
        right.spines["right"].set_visible(True)


def totals(rows: list[Row], samples: int) -> tuple[list[float], list[float], list[float]]:
    """Epochs, the loss summed over all training samples, and accuracies, of the rows that have both."""
    kept = [row for row in rows if "train/loss" in row and "train/acc" in row]
    losses = [row["train/loss"] * samples for row in kept]
    return [row["epoch"] for row in kept], losses, [row["train/acc"] for row in kept]
