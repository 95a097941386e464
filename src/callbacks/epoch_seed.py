"""Random seeds that depend only on the run's seed, the epoch and the rank."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Callback that seeds dropout, augmentation and DataLoaders' order again in each epoch, so that resuming is exact.

    Checkpoints contain the seed: a run that drew a random seed keeps it when it is resumed.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.initial_seeds: dict[torch.Generator, int] = {}  # the initial seed of each DataLoader's generator

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = compute_epoch_seed(self.seed, trainer.current_epoch, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002, user-defined data sets may use it
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds every device and costs 1 ms
        else:
            torch.manual_seed(seed)
        for generator in _find_generators(trainer):
            first = self.initial_seeds.setdefault(generator, generator.initial_seed())
            generator.manual_seed(compute_epoch_seed(first, trainer.current_epoch) % 2**63)


def _find_generators(trainer: Trainer) -> Iterator[torch.Generator]:
    """Yield the generators that the DataLoaders draw their order from, each once."""
    loader = trainer.fit_loop._combined_loader
    found: dict[int, torch.Generator] = {}
    for part in [] if loader is None else loader.flattened:
        sampler = getattr(part, "sampler", None)
        for holder in (part, sampler, getattr(getattr(part, "batch_sampler", None), "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    yield from found.values()


def compute_epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return the seed of an epoch; it differs between ranks, so that each draws other dropout masks."""
    return (seed * 1_000_003 + epoch) * 1_009 + rank
