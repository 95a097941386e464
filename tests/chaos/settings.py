"""All settings that the project's configs have, with the choices that bring them and the types that suit them."""

import math
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.cli.names import register_resolvers
from tests.command_line import CONF

GROUPS = ("trainer", "callbacks", "logger", "optimizer", "scheduler", "data", "model", "debug")
LAUNCHING = ("hydra/launcher", "hydra/sweeper")
IMAGE_SETS = ("data=mnist", "data=fashion_mnist", "data=cifar10")
FEW_IMAGES = ("data.verify=false", "data.val_size=20", "data.batch_size=8")
FOR_IMAGES = ("model=cnn", "model=resnet18", "model=torchvision", "model=timm")
ALONE = ("trainer.devices=1", "trainer.accelerator=cpu")
# Where the default does not tell all types that a setting takes.
TYPES: dict[str, tuple[type, ...]] = {
    "model.hidden_size": (int, list),
    "model.batch_norm": (bool, str),
    "model.freeze": (str, int),
    "model.weights": (str,),
    "model.loss": (str,),
    "model.resize": (int,),
    "data.val_size": (int, float),
    "data.train_size": (int, float),
    "trainer.limit_train_batches": (int, float),
    "trainer.limit_val_batches": (int, float),
    "trainer.limit_test_batches": (int, float),
    "trainer.overfit_batches": (int, float),
    "trainer.devices": (int, list, str),
    "trainer.strategy": (str, dict),
    "trainer.precision": (str, int),
    "trainer.profiler": (str, dict),
    "trainer.profiler.filename": (str,),
    "trainer.gradient_clip_val": (int, float),
    "scheduler.T_max": (str, int),
    "scheduler.total_steps": (str, int),
    "scheduler.min_lr": (int, float, list),
    "scheduler.max_lr": (str, int, float, list),
    "optimizer.fused": (bool,),
    "callbacks.early_stopping.monitor": (str,),
    "callbacks.early_stopping.mode": (str,),
    "name": (str, int, float, bool),
    "threads": (int,),
    "data_on_device": (bool,),
    "compile": (str,),
    "resume": (str,),
    "rerun": (str,),
    "trust": (str, list),
    "monitor": (str,),
    "mode": (str,),
    "test": (bool,),
    "ckpt_path": (str,),
    "hydra.launcher.jobs": (int,),
    "hydra.launcher.most": (int,),
    "hydra.launcher.time_limit": (int, float),
    "hydra.launcher.start_method": (str,),
    "hydra.launcher.address": (str,),
    "hydra.launcher.gpus_per_job": (int, float),
    "hydra.launcher.partition": (str,),
    "hydra.launcher.memory": (int, float),
    "hydra.launcher.options": (dict,),
    "hydra.sweeper.max_batch_size": (int,),
    "hydra.sweeper.params": (dict,),
    "checkpoint": (str,),
    "run": (str,),
}
NULL_TOO = (  # and all whose default is null
    *("seed", "data.order_seed", "trainer.precision", "trainer.profiler.filename", "logger.csv.version"),
    "optimizer.line_search_fn",
)
OF_PATHS = (
    *("name", "run", "resume", "ckpt_path", "checkpoint"),
    *("paths.data", "paths.outputs", "data.root", "model.weights"),
)


class Setting(NamedTuple):
    """A setting: its full name, its default, and the choices without which it is not there."""

    name: str
    default: Any
    choices: tuple[str, ...]

    @property
    def types(self) -> tuple[type, ...]:
        """The types that suit it."""
        if self.name in TYPES:
            return TYPES[self.name]
        return (int, float) if isinstance(self.default, float) else (type(self.default),)

    def suits(self, value: Any) -> bool:
        """Return whether a value is of a type that suits, and no number that no setting can have."""
        if value is None:
            return self.default is None or self.name in NULL_TOO
        if isinstance(value, int) and abs(value) >= 2**63:
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if value == "" and self.default != "":
            return False
        return type(value) in self.types


@cache
def choices() -> dict[str, list[str]]:
    """Return the choices of each config group."""
    names = [*GROUPS, *LAUNCHING, "experiment", "sweep"]
    return {name: sorted(path.stem for path in (CONF / name).glob("[!_]*.yaml")) for name in names}


@cache
def known(config: str = "train") -> tuple[Setting, ...]:
    """Return all settings, each with as few choices as bring it."""
    found: dict[str, Setting] = {}
    groups = (*GROUPS, *LAUNCHING) if config == "train" else ()
    needed = [(), *[(f"{group}={name}",) for group in groups for name in choices()[group]]]
    register_resolvers()
    with mock.patch.object(sys, "argv", ["train"]), initialize_config_dir(str(CONF), version_base="1.3"):
        for chosen in needed:
            chosen += ALONE if "trainer=ddp" in chosen else ()
            chosen += ("data=mnist",) if set(chosen) & set(FOR_IMAGES) else ()
            chosen += FEW_IMAGES if set(chosen) & set(IMAGE_SETS) else ()
            composed = compose(config, [*chosen, *["run=somewhere"] * (config == "eval")], True)
            parts = {name: composed[name] for name in composed if name != "hydra"}
            parts["hydra"] = {name: composed.hydra[name] for name in ("launcher", "sweeper") if groups}
            for name, value in leaves(parts):
                found.setdefault(name, Setting(name, value, chosen))
    return tuple(found.values())


def leaves(node: Any, prefix: str = "", resolve: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the full names and values of all that is no dictionary, or an empty one."""
    node = OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else node
    for key, value in node.items():
        plain = OmegaConf.to_container(value, resolve=resolve) if OmegaConf.is_config(value) else value
        if isinstance(plain, dict) and plain:
            yield from leaves(plain, f"{prefix}{key}.", resolve)
        else:
            yield f"{prefix}{key}", plain
