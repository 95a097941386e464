"""The progress bar of a terminal; elsewhere the log's lines show that a run goes on."""

import sys

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class Progress(TQDMProgressBar):
    """Lightning's bar over one epoch after the other, with the metrics.

    Args:
        refresh_rate: batches between two updates, ≥ 1.
    """

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate)
        if not sys.stderr.isatty():
            self.disable()

    def enable(self) -> None:
        if sys.stderr.isatty():
            super().enable()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # there are no versions: a run has a folder of its own
        loss = getattr(pl_module, "loss_shown", None)
        return metrics if loss is None else {"loss": loss, **metrics}

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)  # validation takes a moment; a second bar would only flicker
