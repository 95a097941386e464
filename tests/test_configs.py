"""conf/ mirrors src/: every file composes, and names a class that is there."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from src.cli.names import register_resolvers
from src.data.toy import TableDataModule
from src.training.validation.config import check_config
from tests.command_line import CONF

MAIN_CONFIGS = [CONF / "train.yaml", CONF / "eval.yaml"]
BASES = sorted(CONF.glob("*/_*.yaml"))
GROUP_CONFIGS = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name != "hydra" and path not in BASES]
CHOICES = [(path.parent.name, path.stem) for path in GROUP_CONFIGS]


@pytest.fixture(autouse=True)
def _composing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", ["train"])
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def find_targets(node: Any) -> Iterator[str]:
    """All classes that a config names."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from find_targets(value)


def compose_config(*choices: str) -> tuple[DictConfig, dict[str, Any]]:
    """A config, and as plain values with all interpolations resolved."""
    config = compose("train", list(choices))
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return config, {str(key): value for key, value in resolved.items()}


def test_each_group_has_choices() -> None:
    groups = {group for group, _ in CHOICES}
    assert {"model", "data", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug"} <= groups


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_each_choice_is_valid(group: str, choice: str) -> None:
    """Each choice composes, its settings are accepted, and the classes that it names exist."""
    config, plain = compose_config(f"{group}={choice}")
    if OmegaConf.select(config, "model.weights"):
        config.model.weights = None  # another preset writes that file
    check_config(config)
    assert all(inspect.isclass(get_class(name)) for name in find_targets(plain))
    assert len(list(find_targets(plain))) >= 4  # model, data, optimizer, trainer


@pytest.mark.parametrize(("one", "other"), [("data", "model"), ("data", "optimizer"), ("optimizer", "scheduler")])
def test_choices_fit_each_other(one: str, other: str) -> None:
    """Each choice of a group, with what it sets elsewhere, fits each choice of another group."""
    parts = [compose("train", [f"{other}={name}"])[other] for group, name in CHOICES if group == other]
    for config in [compose("train", [f"{one}={name}"]) for group, name in CHOICES if group == one]:
        for part in parts:
            config[other] = part
            check_config(config)
            assert config.optimizer.lr > 0
            assert config.trainer.max_epochs >= 1


@pytest.mark.parametrize(
    "path", [path for path in GROUP_CONFIGS if path.parent.name in ("model", "data")], ids=lambda p: p.stem
)
def test_config_names_match_modules(path: Path) -> None:
    """The config of a model or a data set has the name of its module."""
    group, name = path.parent.name, path.stem
    target = compose_config(f"{group}={name}")[1][group]["_target_"]
    module, _, class_name = target.rpartition(".")
    folder = {"model": "models", "data": "data"}[group]
    # The toy sets are one family; a module torchvision would be mistaken for the package.
    assert module in (f"src.{folder}.{name}", "src.data.toy", "src.models.pretrained")
    assert class_name.lower() == name.replace("_", "")


@pytest.mark.parametrize(
    "path", [path for path in GROUP_CONFIGS if path.parent.name in ("model", "data")], ids=lambda p: p.stem
)
def test_configs_list_all_class_settings(path: Path) -> None:
    """So that --help shows all there is to set, and none that is not there."""
    group, name = path.parent.name, path.stem
    settings = dict(compose_config(f"{group}={name}")[1][group])
    known: set[str] = set()
    for base in (found := get_class(settings.pop("_target_"))).__mro__:
        if base.__module__.startswith("src."):
            known |= set(inspect.signature(base).parameters)
            if "settings" not in inspect.signature(base).parameters:
                break  # it hands nothing on to what it is made from
    given = {"self", "settings"}
    of_data = {"in_shape", "num_classes", "num_values", "num_tokens", "task"}
    given |= {*of_data, "optimizer", "scheduler"} if group == "model" else set()
    if issubclass(found, TableDataModule):
        given |= {"train_size", "val_size", "split_seed"}  # there is nothing to split
    assert set(settings) == known - given


def test_each_config_starts_with_description() -> None:
    for path in [*GROUP_CONFIGS, *BASES, *MAIN_CONFIGS]:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
        assert re.match(r"# [A-Z]", lines[0]), path


def test_eval_composes() -> None:
    config = compose("eval", ["run=somewhere"])
    check_config(config)
    assert (config.run, config.split, config.checkpoint) == ("somewhere", "val", None)


def test_predict_composes() -> None:
    config = compose("predict", ["run=somewhere"])
    check_config(config)
    assert (config.run, config.split, config.top, config.out) == ("somewhere", None, 3, None)


def test_export_composes() -> None:
    config = compose("export", ["run=somewhere"])
    check_config(config)
    assert (config.run, config.format, config.out, config.tolerance) == ("somewhere", "onnx", None, 1e-5)


@pytest.mark.parametrize("trainer", ["auto", "cpu", "gpu", "mps", "ddp"])
def test_trainers_differ_in_devices_only(trainer: str) -> None:
    plain, other = compose_config(f"trainer={trainer}")[1]["trainer"], compose_config()[1]["trainer"]
    different = {key for key in {*plain, *other} if plain.get(key) != other.get(key)}
    assert different <= {"accelerator", "devices", "strategy", "num_nodes"}


def test_data_set_applies_recipe() -> None:
    assert compose_config()[1]["trainer"]["max_epochs"] == 50
    assert compose_config("data=mnist")[1]["trainer"]["max_epochs"] == 10
    assert compose_config("data=mnist")[1]["optimizer"]["lr"] == 0.001
    assert compose_config("data=xor", "optimizer=sgd")[1]["optimizer"]["lr"] == 0.1
    assert compose_config("data=mnist", "optimizer=sgd")[1]["optimizer"]["lr"] == 0.05


@pytest.mark.parametrize(("variable", "folder"), [(None, "data"), ("/somewhere/else", "/somewhere/else")])
def test_data_folder_follows_environment(variable: str | None, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    if variable:
        monkeypatch.setenv("DATA_DIR", variable)
    assert compose_config("data=mnist")[1]["data"]["root"] == folder
