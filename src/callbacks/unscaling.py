"""Gradients of mixed precision as they are, wherever they are clipped or looked at."""

from lightning import Callback, LightningModule, Trainer

from src.optimizers.settings import check_numbers, divide_first


class Unscaling(Callback):
    """Has each optimiser, also one that a model makes by itself, take gradients that are no longer scaled up.

    Raises:
        InputError: when training starts, for an optimiser that does not calculate in the run's precision.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            divide_first(optimizer)
            check_numbers(optimizer, trainer.precision)
