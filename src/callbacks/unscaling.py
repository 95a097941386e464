"""Unscaled gradients for mixed precision, before anything clips or measures them."""

from lightning import Callback, LightningModule, Trainer

from src.optimizers.settings import check_precision, disable_fused_unscaling


class GradientUnscaler(Callback):
    """Callback that makes each optimiser, including those that a model creates, unscale gradients before using them.

    Raises:
        InputError: when training starts, if an optimiser does not support the run's precision.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            disable_fused_unscaling(optimizer)
            check_precision(optimizer, trainer.precision)
