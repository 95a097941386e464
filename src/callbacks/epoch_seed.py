"""Random numbers that depend on the seed and the epoch alone."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seeds dropout and augmentation anew at each epoch, so that a resumed run goes on exactly.

    Checkpoints keep the seed, so that a run that drew its own goes on with it.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Processes that train together draw masks of their own.
        seed = (self.seed * 1_000_003 + trainer.current_epoch) * 1_009 + trainer.global_rank
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other way, for all devices, takes a millisecond
        else:
            torch.manual_seed(seed)
