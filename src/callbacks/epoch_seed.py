"""Random numbers that depend on the seed and the epoch alone."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seeds dropout, augmentation and DataLoaders' order anew at each epoch, so that a resumed run goes on exactly.

    Checkpoints keep the seed, so that a run that drew its own goes on with it.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.first: dict[torch.Generator, int] = {}  # the seed that each DataLoader's own generator had

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = seed_of_epoch(self.seed, trainer.current_epoch, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002, which data sets of one's own may draw from
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # the other way, for all devices, takes a millisecond
        else:
            torch.manual_seed(seed)
        for generator in _find_generators(trainer):
            first = self.first.setdefault(generator, generator.initial_seed())
            generator.manual_seed(seed_of_epoch(first, trainer.current_epoch) % 2**63)


def _find_generators(trainer: Trainer) -> Iterator[torch.Generator]:
    """Yield the generators that DataLoaders were given to draw their order from, each once."""
    loader = trainer.fit_loop._combined_loader
    found: dict[int, torch.Generator] = {}
    for each in [] if loader is None else loader.flattened:
        sampler = getattr(each, "sampler", None)
        for holder in (each, sampler, getattr(getattr(each, "batch_sampler", None), "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    yield from found.values()


def seed_of_epoch(seed: int, epoch: int, rank: int = 0) -> int:
    """What a process draws from in an epoch; processes that train together draw masks of their own."""
    return (seed * 1_000_003 + epoch) * 1_009 + rank
