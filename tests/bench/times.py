"""A callback that writes down how long the epochs of a run take: `steps` and `mnist_epoch` read it."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from tests.bench.turns import take_turn

SETTING = "+callbacks.times._target_=tests.bench.times.Times"
FILE = "times.json"


def now() -> float:
    """Return the time when a GPU, if one is used, has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Times(Callback):
    """Seconds of each epoch's training, and from one epoch's beginning to the next one's, in ``times.json``.

    The last epoch has only the first of the two; between them lie validation, checkpoint, logs and pictures.
    """

    def __init__(self) -> None:
        self.began: list[float] = []
        self.trained: list[float] = []
        self.turn = ExitStack()  # it lasts until the process ends: a test and figures would disturb the next one

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.turn.enter_context(take_turn())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began.append(now())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end_training()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end_training()

    def end_training(self) -> None:
        if len(self.trained) < len(self.began):
            self.trained.append(now())

    @property
    def epochs(self) -> list[float]:
        return [after - before for before, after in zip(self.began, self.began[1:], strict=False)]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        training = [after - before for before, after in zip(self.began, self.trained, strict=True)]
        found = {"training": training, "epochs": self.epochs}
        Path(trainer.default_root_dir, FILE).write_text(json.dumps(found))
