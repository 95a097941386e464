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
        seed = seed_of_epoch(self.seed, trainer.current_epoch, trainer.global_rank)
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other way, for all devices, takes a millisecond
        else:
            torch.manual_seed(seed)


def seed_of_epoch(seed: int, epoch: int, rank: int = 0) -> int:
    """What a process draws from in an epoch; processes that train together draw masks of their own."""
    return (seed * 1_000_003 + epoch) * 1_009 + rank
