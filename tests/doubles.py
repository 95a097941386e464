"""Small data modules and trainers, to run Lightning's own loops in milliseconds."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from src.data.base import TensorDataModule
from src.data.loading.samples import Samples

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}
ZERO_RATE_SGD = {"_target_": "torch.optim.SGD", "lr": 0.0}  # weights stay: what is measured can be calculated


class InMemoryDataModule(TensorDataModule):
    """Samples as they are given, in their order unless a setting says otherwise."""

    def __init__(
        self,
        train: Samples,
        val: Samples | None = None,
        test: Samples | None = None,
        task: str = "multiclass",
        class_names: tuple[str, ...] = (),
        batch_size: int = 10,
        **settings: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, val_size=0, **{"shuffle": False, **settings})
        self.task, self.class_names, self.in_shape = task, class_names, tuple(train.inputs.shape[1:])
        self.train_set, self.val_set, self.test_set = train, val or train.take(slice(0)), test


class BatchCollector(LightningModule):
    """Learns nothing; keeps each training epoch's batches, and the validation batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[Samples]] = []
        self.validated: list[Samples] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: Samples, batch_idx: int) -> Tensor:
        self.epochs[-1].append(batch)
        return self.weight * 0

    def validation_step(self, batch: Samples, batch_idx: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @property
    def order(self) -> list[list[list[int]]]:
        """The targets, by epoch and batch."""
        return [[batch.targets.tolist() for batch in epoch] for epoch in self.epochs]


class LearningRates(Callback):
    """Keeps the learning rates of each step, by parameter group."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.steps.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def quiet_trainer(folder: Path, **settings: Any) -> Trainer:
    """A Trainer on the CPU that shows and keeps nothing but what the settings ask for."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpointing = any("Checkpoint" in type(callback).__name__ for callback in settings.get("callbacks", []))
    return Trainer(
        **{
            **quiet,
            "accelerator": "cpu",
            "default_root_dir": folder,
            "enable_checkpointing": checkpointing,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "max_epochs": 1,
            **settings,
        }
    )


def make_samples(count: int, classes: int = 0, features: int = 2) -> Samples:
    """Normal inputs (N, features), and classes at random, or normal values where there are none."""
    targets = torch.randint(classes, (count,)) if classes else torch.randn(count)
    return Samples(torch.randn(count, features), targets)


def reload_model(model: LightningModule, folder: Path) -> Any:
    """The model as `load_from_checkpoint` gives it back from a checkpoint of tensors and plain values."""
    trainer = quiet_trainer(folder)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "model.ckpt")
    return type(model).load_from_checkpoint(folder / "model.ckpt", map_location="cpu", weights_only=True)


def is_plain(value: Any) -> bool:
    """Whether a value is made of nothing but Python's own numbers, strings, lists and dictionaries."""
    if isinstance(value, dict):
        return type(value) is dict and all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
