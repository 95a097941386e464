"""A run's config as its folder keeps it, and what differs between two."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from src.errors import InputError

# What does not make a run another: where its files lie, if they are verified, what it runs on, how it is started.
APART = (
    "data.root",
    "data.verify",
    "name",
    "paths.",
    "recipe.",  # what of it is used stands where it is used
    "rerun",
    "resume",
    "threads",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)


def read_config(folder: Path) -> DictConfig:
    """The config of the run in a folder.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise InputError(f"run={folder}: no run there ({path} is missing)")
    try:
        config = OmegaConf.load(path)
    except YAMLError as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig) or "model" not in config:
        raise InputError(f"{path} is damaged: it has no model")
    return config


def changes(before: DictConfig, after: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by their full names."""
    old, new = flat(before), flat(after)
    keys = [*old, *[key for key in new if key not in old]]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def flat(config: DictConfig) -> dict[str, Any]:
    """Settings by their full names, with their values, Hydra's own apart; a list is a value."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    parts = {key: config[key] for key in config if key != "hydra"}
    nested = {key: part for key, part in parts.items() if OmegaConf.is_config(part)}
    walk(parts | {key: OmegaConf.to_container(part, resolve=True) for key, part in nested.items()}, "")
    return found
