"""Unscaled gradients for mixed precision, before anything clips or measures them."""

from lightning import Callback, LightningModule, Trainer

from src.optimizers.settings import check_numbers, divide_first


class Unscaling(Callback):
    """Callback that makes each optimiser, including those that a model creates, unscale gradients before using them.

    Raises:
        InputError: when training starts, if an optimiser does not support the run's precision.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            divide_first(optimizer)
            check_numbers(optimizer, trainer.precision)
