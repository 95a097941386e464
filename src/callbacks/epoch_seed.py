"""Random numbers that depend on the seed and the epoch alone."""

import torch
from lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seeds dropout and augmentation anew at each epoch, so that a resumed run goes on exactly.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Processes that train together draw masks of their own.
        torch.manual_seed((self.seed * 1_000_003 + trainer.current_epoch) * 1_009 + trainer.global_rank)
