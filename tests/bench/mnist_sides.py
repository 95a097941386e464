"""The usual way of training an MLP on MNIST, the other side of `mnist_epoch`: what Lightning's documentation shows.

Torchvision's data set with ``ToTensor`` and ``Normalize`` in a DataLoader, torchmetrics, ``self.log``, with progress
bar, TensorBoard, validation and checkpoints. It prints the seconds of each epoch but the last as JSON.

    python -m tests.bench.mnist_sides 3 0   # epochs, workers
"""

import json
import os
import sys
import tempfile

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, random_split
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST

from tests.bench.times import Times

BATCH, HIDDEN, HELD_OUT, LR = 64, 100, 5000, 1e-3
DATA = os.environ.get("DATA_DIR", "data")


class Conventional(LightningModule):
    """An MLP as Lightning's documentation writes one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
        self.loss = nn.CrossEntropyLoss()
        self.train_acc, self.val_acc = MulticlassAccuracy(10, average="micro"), MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        outputs = self.net(inputs)
        loss = self.loss(outputs, targets)
        self.train_acc(outputs, targets)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        outputs = self.net(inputs)
        self.val_acc(outputs, targets)
        self.log("val/loss", self.loss(outputs, targets), prog_bar=True)
        self.log("val/acc", self.val_acc, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR)


def conventional(epochs: int, workers: int) -> list[float]:
    """Seconds of each epoch but the last."""
    seed_everything(0, verbose=False)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    full = MNIST(DATA, train=True, download=True, transform=steps)
    train, val = random_split(full, [len(full) - HELD_OUT, HELD_OUT])
    keep = workers > 0
    train_loader = DataLoader(train, BATCH, shuffle=True, num_workers=workers, persistent_workers=keep)
    val_loader = DataLoader(val, BATCH, num_workers=workers, persistent_workers=keep)
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val/acc", mode="max", save_last=True)
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=epochs,
            callbacks=[times, TQDMProgressBar(20), best],
            logger=TensorBoardLogger(folder),
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
        trainer.fit(Conventional(), train_loader, val_loader)
        return times.epochs


if __name__ == "__main__":
    print(json.dumps(conventional(*map(int, sys.argv[1:]))), flush=True)
