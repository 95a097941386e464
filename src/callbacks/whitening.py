"""Fit a network's whitening layer to training images when training starts."""

from lightning import Callback, LightningModule, Trainer

from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.models.layers import Whitening

FIT_IMAGES = 5000  # training images to fit to: enough for the covariance of 12 or 27 numbers


class FitWhitening(Callback):
    """Fit each `Whitening` layer that is not fitted yet to the first training images, as the network receives them.

    Raises:
        InputError: if the data set is not a `TensorDataModule`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning calls this after the data set's setup, before DDP broadcasts the weights and before a checkpoint is
        # restored, so that all ranks start with the same filters and a resumed run keeps its own.
        layers = [module for module in pl_module.modules() if isinstance(module, Whitening) and not module.fitted]
        if stage != "fit" or not layers:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TensorDataModule) or data.train_set is None:
            kind = type(pl_module).__name__
            raise InputError(f"{kind} takes its first filters from a TensorDataModule's training images: give it one")
        images = data.transform(data.train_set.inputs[:FIT_IMAGES])  # (N, C, H, W)
        for layer in layers:
            layer.fit(images)
