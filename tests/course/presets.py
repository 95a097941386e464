"""What the tests of presets share: runs watched from within, sweeps by their jobs, presets composed."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor

from src.cli.names import register_resolvers
from tests.command_line import BARE, CONF, BatchRecorder, read_history, train

State = dict[str, Tensor]
COMMAND = re.compile(r"^# +python -m src\.train (.*?)(?: +#.*)?$", re.MULTILINE)


class Begun(BatchRecorder):
    """Notes also the model, its weights and the optimiser that a run begins with."""

    SETTING = "+callbacks.begun._target_=tests.course.presets.Begun"
    last: ClassVar["Begun"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Begun.last = self
        self.model: Any = pl_module
        self.start = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        self.optimizers = list(trainer.optimizers)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.optimizers[0]

    @property
    def rate(self) -> float:
        """The learning rate, of a schedule its highest."""
        group = self.optimizer.param_groups[-1]
        return float(group.get("max_lr", group["lr"]))


@contextmanager
def composing() -> Iterator[None]:
    """Configs can be composed."""
    with mock.patch.object(sys, "argv", ["train"]):
        register_resolvers()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield


def composed(*arguments: str) -> DictConfig:
    """The settings of a command line, Hydra's own under ``hydra``."""
    with composing():
        return compose("train", list(arguments), return_hydra_config=True)


def commands(path: Path) -> list[list[str]]:
    """The arguments of each command line in a preset's header."""
    return [line.replace("'", "").split() for line in COMMAND.findall(path.read_text())]


def sizes(state: State) -> list[list[int]]:
    """The shapes of the weights, (out, in) or (out, in, height, width), from the inputs on."""
    return [list(tensor.shape) for tensor in state.values() if tensor.ndim > 1]


def scores(folder: Path, name: str) -> list[float]:
    """A metric in each epoch that it was measured in."""
    return [row[name] for row in read_history(folder) if name in row]


def sweep(*arguments: str, cwd: Path, bare: bool = True) -> dict[str, Path]:
    """Run a sweep preset, which draws its pictures; its jobs' folders by what was swept: "hidden_size-1_seed-0".

    Its jobs run in this process, where small data sets pass for the real ones.

    Args:
        arguments: the sweep and what shortens it.
        cwd: the working directory.
        bare: whether its runs go without pictures of their own.
    """
    outcome = train("hydra/launcher=basic", *(BARE if bare else ("logger=none",)), *arguments, cwd=cwd)
    drawn = {path.stem for folder in outcome.folders for path in folder.parent.glob("figures/*.png")}
    assert drawn == set(composed(arguments[0]).hydra.callbacks.pictures.pictures)
    jobs = [folder for folder in outcome.folders if re.match(r"\d+_", folder.name)]
    return {
        folder.name.split("_", 1)[1]: folder for folder in sorted(jobs, key=lambda job: int(job.name.split("_")[0]))
    }
