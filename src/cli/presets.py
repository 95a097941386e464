"""Checks that presets fit together: values that one was tuned for must not silently apply to another choice."""

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.core.errors import InputError

PRESETS = ("debug", "sweep", "experiment")  # groups that set values of other groups; the last is composed first


def check_presets(hydra: DictConfig) -> None:
    """Refuse a command line that mixes conflicting presets, or replaces a choice that a preset has tuned.

    A preset with ``override /optimizer: sgd`` and ``optimizer.lr: 0.5`` tuned the learning rate for SGD: with
    ``optimizer=adam`` on the command line the learning rate must be given again. (Values under ``recipe.sgd`` apply
    to SGD alone.)

    Args:
        hydra: the settings under ``hydra`` of a run or of a sweep's job.

    Raises:
        InputError: naming the preset, the setting and what to do.
    """
    check_choices(hydra)
    for group, name in find_presets(hydra):
        for other, meant, setting in find_tuned_settings(_load_preset(hydra, f"{group}/{name}.yaml")):
            actual = hydra.runtime.choices.get(other)
            if actual != meant and setting not in _get_overridden_keys(hydra):
                raise InputError(
                    f"{group}={name} sets {setting} for {other}={meant}: with {other}={actual} give {setting}=… too "
                    f"(or move the preset's value to recipe.{meant})"
                )


def check_choices(hydra: DictConfig) -> None:
    """Refuse two presets that make different choices in a group where the command line makes none.

    One choice would win, but the other preset's values would stay: ``experiment=wheat`` with
    ``sweep=hidden_size``, which is for MNIST, would train on MNIST with wheat's batch size and epochs.
    A preset that itself chooses the other one, as ``sweep=wheat`` does, may change its choices.

    Args:
        hydra: the settings under ``hydra`` of a run, of a sweep's job or of a sweep that starts.

    Raises:
        InputError: naming both presets, the choices of each and what to do.
    """
    for (first, one), (second, other) in combinations(find_presets(hydra), 2):
        left, right = _find_preset_choices(hydra, first, one), _find_preset_choices(hydra, second, other)
        if other in _split_choices(left.get(second, "")):
            continue
        # A clash: both choose in the same group, without a choice in common, and the command line does not decide.
        clashing = [group for group in left if group in right and group not in _get_overridden_keys(hydra)]
        clashing = [group for group in clashing if _split_choices(left[group]).isdisjoint(_split_choices(right[group]))]
        if clashing:
            means, meant = (", ".join(f"{group}={side[group]}" for group in clashing) for side in (left, right))
            missing = " ".join(f"{group}=…" for group in clashing)
            raise InputError(f"{first}={one} is for {means} and {second}={other} for {meant}: give {missing} too")


def find_presets(hydra: DictConfig) -> list[tuple[str, str]]:
    """Return the presets in use as (group, name), including all of a list, which Hydra does not record."""
    parser = OverridesParser.create()
    found: dict[str, list[Any]] = {group: [hydra.runtime.choices.get(group)] for group in PRESETS}
    for text in get_typed_overrides(hydra, "task"):
        group = text.partition("=")[0].lstrip("+")
        if group in PRESETS and isinstance(value := parser.parse_override(text).value(), list):
            found[group] = value
    return [(group, str(name)) for group, names in found.items() for name in names if name]


def get_typed_overrides(hydra: DictConfig, section: str) -> list[str]:
    """Return a job's "task" or "hydra" overrides as they were typed, with unresolved references."""
    content: Any = OmegaConf.to_container(hydra.overrides)
    return list(content[section])


def _get_overridden_keys(hydra: DictConfig) -> set[str]:
    """Return the names of the settings given on the command line; in a sweep's job also those of its axes."""
    return {override.split("=")[0].lstrip("+") for override in get_typed_overrides(hydra, "task")}


def _find_preset_choices(hydra: DictConfig, group: str, name: str) -> dict[str, str]:
    """Return a preset's choices in other groups, with those of the presets it builds on; for an axis all its values."""
    preset = _load_preset(hydra, f"{group}/{name}.yaml")
    bases = [entry for entry in preset.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    found = {key: value for base in bases for key, value in _find_preset_choices(hydra, group, base).items()}
    axes = ((preset.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    return found | _find_overridden_choices(preset) | {key: str(value) for key, value in axes.items()}


def _split_choices(values: str) -> set[str]:
    """Return the set of choices that a text such as "mnist,cifar10" names."""
    return set(re.findall(r"[\w./-]+", values))


def _load_preset(hydra: DictConfig, name: str) -> dict[str, Any]:
    """Return the first config of that name on Hydra's search path, unresolved; empty if there is none."""
    for source in hydra.runtime.config_sources:
        path = Path(source.path) / name
        if source.schema == "file" and path.is_file():
            config: Any = OmegaConf.to_container(OmegaConf.load(path))
            return config if isinstance(config, dict) else {}
    return {}


def find_tuned_settings(preset: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings that a preset has tuned for its own choices, as (group, choice, setting)."""
    return [
        (group, choice, f"{group}.{setting}")
        for group, choice in _find_overridden_choices(preset).items()
        for setting in preset.get(group) or {}
    ]


def _find_overridden_choices(preset: Mapping[str, Any]) -> dict[str, str]:
    """Return the choices in a preset's own defaults: {"optimizer": "sgd"} for ``override /optimizer: sgd``."""
    own = [entry for entry in preset.get("defaults", []) if isinstance(entry, Mapping)]
    return {
        key.removeprefix("override ").lstrip("/"): str(choice)
        for entry in own
        for key, choice in entry.items()
        if key.startswith("override ") and "${" not in str(choice)
    }
