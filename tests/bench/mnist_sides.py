"""The sides of `mnist_epoch`: seconds per MNIST epoch of an MLP 784-100-10, batch 64, Adam, with everything on.

"Everything" is progress bar, TensorBoard, validation and checkpoints. The conventional way is
what Lightning's documentation shows: torchvision's data set with ``ToTensor`` and ``Normalize``
in a DataLoader, torchmetrics, ``self.log``.

    python -m tests.bench.mnist_sides ours 4             # prints the seconds of 3 epochs as JSON
    python -m tests.bench.mnist_sides conventional 3 0   # with 0 workers
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, random_split
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST

from src import build, devices
from src.callbacks.history import History
from src.callbacks.progress import Progress
from src.checkpoints import RunCheckpoint
from src.cli import CONF, register_resolvers

BATCH, HIDDEN, HELD_OUT, LR = 64, 100, 5000, 1e-3
DATA = os.environ.get("DATA_DIR", "data")


class EpochTimes(Callback):
    """When each epoch began; the time between two is an epoch with its validation and checkpoint."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.began, self.began[1:], strict=False)]


def ours(epochs: int) -> list[float]:
    """A run of this project with its default callbacks."""
    register_resolvers()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base="1.3"):
        choices = ["data=mnist", f"data.batch_size={BATCH}", f"model.hidden_size={HIDDEN}", f"optimizer.lr={LR}"]
        cfg = compose("train", [*choices, f"data.val_size={HELD_OUT}", f"trainer.max_epochs={epochs}"])
        kind = build.prepare(cfg)
        seed_everything(0, verbose=False)
        data = build.build_data(cfg)
        model = build.build_model(cfg, data, kind)
        times, history = EpochTimes(), History()
        checkpoint = RunCheckpoint(Path(folder) / "checkpoints", "val/acc", "max", history)
        callbacks = [times, *build.build_callbacks(cfg, data), history, checkpoint]
        if not any(isinstance(each, Progress) and each.is_enabled for each in callbacks):
            sys.exit("run this where stderr is a terminal: the progress bar belongs to what is measured")
        build.build_trainer(cfg, kind, Path(folder), callbacks).fit(model, datamodule=data)
        return times.seconds()


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
    """The same training, the usual way."""
    devices.prepare(devices.CPU, threads=devices.asked_threads(None), processes=1, deterministic=False)
    seed_everything(0, verbose=False)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    full = MNIST(DATA, train=True, download=True, transform=steps)
    train, val = random_split(full, [len(full) - HELD_OUT, HELD_OUT])
    keep = workers > 0
    train_loader = DataLoader(train, BATCH, shuffle=True, num_workers=workers, persistent_workers=keep)
    val_loader = DataLoader(val, BATCH, num_workers=workers, persistent_workers=keep)
    times = EpochTimes()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val/acc", mode="max", save_last=True)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[times, TQDMProgressBar(20), best],
            logger=TensorBoardLogger(folder),
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
        trainer.fit(Conventional(), train_loader, val_loader)
    return times.seconds()


if __name__ == "__main__":
    side, epochs, *rest = sys.argv[1:]
    seconds = ours(int(epochs)) if side == "ours" else conventional(int(epochs), int(rest[0]))
    print(json.dumps(seconds), flush=True)
