"""Averages of weights where the run computes, and as precisely."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class AveragePlacement(Callback):
    """Give the average of a `WeightAveraging` the run's precision and device.

    Lightning copies the weights before it converts them to trainer.precision and moves them to the device. The copy
    would stay in float32 and on the CPU: under 64-true the first update fails, and on a GPU each update waits for a
    copy of all weights.
    """

    def __init__(self, averaging: WeightAveraging) -> None:
        self.averaging: Any = averaging

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        average = trainer.precision_plugin.convert_module(self.averaging._average_model)  # there is no public name
        if self.averaging._device is None:
            average.to(trainer.strategy.root_device)
