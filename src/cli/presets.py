"""Presets that fit together: what one chooses or tunes does not silently become another's."""

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.core.errors import InputError

PRESETS = ("debug", "sweep", "experiment")  # the groups whose files set values of other groups, the last composed first


def check_presets(hydra: DictConfig) -> None:
    """Refuse a command line that mixes presets which do not fit, or a preset with another choice than its own.

    A preset that says ``override /optimizer: sgd`` and ``optimizer.lr: 0.5`` tuned the one for the
    other: with ``optimizer=adam`` over it the rate must be given anew. (Values under
    ``recipe.sgd`` never come along.)

    Args:
        hydra: the settings under ``hydra``, of a run or a sweep's job.

    Raises:
        InputError: naming the preset, the setting and what to do.
    """
    check_choices(hydra)
    for group, name in chosen(hydra):
        for other, meant, setting in tuned(preset_file(hydra, f"{group}/{name}.yaml")):
            actual = hydra.runtime.choices.get(other)
            if actual != meant and setting not in given(hydra):
                raise InputError(
                    f"{group}={name} sets {setting} for {other}={meant}: with {other}={actual} give {setting}=… too "
                    f"(or keep the preset's under recipe.{meant})"
                )


def check_choices(hydra: DictConfig) -> None:
    """Refuse two presets that choose differently where the command line does not choose.

    One would have its way and the other's settings would stay: ``experiment=wheat`` over
    ``sweep=hidden_size``, which is for MNIST, would put wheat's batch size and epochs onto MNIST.
    A preset that chooses the other one, as ``sweep=wheat`` does, means what it changes of it.

    Args:
        hydra: the settings under ``hydra``, of a run, a sweep's job or a sweep that starts.

    Raises:
        InputError: naming both presets, what each is for and what to do.
    """
    for (first, one), (second, other) in combinations(chosen(hydra), 2):
        left, right = choices(hydra, first, one), choices(hydra, second, other)
        if other in words(left.get(second, "")):
            continue
        clashing = [group for group in left if group in right and group not in given(hydra)]
        clashing = [group for group in clashing if words(left[group]).isdisjoint(words(right[group]))]
        if clashing:
            means, meant = (", ".join(f"{group}={side[group]}" for group in clashing) for side in (left, right))
            asked = " ".join(f"{group}=…" for group in clashing)
            raise InputError(f"{first}={one} is for {means} and {second}={other} for {meant}: give {asked} too")


def chosen(hydra: DictConfig) -> list[tuple[str, str]]:
    """Return the presets in use, each with its group; of a list of them, which Hydra does not note, all."""
    parser = OverridesParser.create()
    found: dict[str, list[Any]] = {group: [hydra.runtime.choices.get(group)] for group in PRESETS}
    for text in typed(hydra, "task"):
        group = text.partition("=")[0].lstrip("+")
        if group in PRESETS and isinstance(value := parser.parse_override(text).value(), list):
            found[group] = value
    return [(group, str(name)) for group, names in found.items() for name in names if name]


def typed(hydra: DictConfig, what: str) -> list[str]:
    """Return a job's overrides as they were typed, references in them not followed: "task" or "hydra" ones."""
    content: Any = OmegaConf.to_container(hydra.overrides)
    return list(content[what])


def given(hydra: DictConfig) -> set[str]:
    """The names of what the command line gives; in a sweep's job also what its axes give."""
    return {override.split("=")[0].lstrip("+") for override in typed(hydra, "task")}


def choices(hydra: DictConfig, group: str, name: str) -> dict[str, str]:
    """What a preset chooses in other groups, by itself or by those it builds on; of an axis all its values."""
    preset = preset_file(hydra, f"{group}/{name}.yaml")
    bases = [entry for entry in preset.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    found = {key: value for base in bases for key, value in choices(hydra, group, base).items()}
    axes = ((preset.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    return found | overridden(preset) | {key: str(value) for key, value in axes.items()}


def words(values: str) -> set[str]:
    """The choices that a text names: "mnist,cifar10"."""
    return set(re.findall(r"[\w./-]+", values))


def preset_file(hydra: DictConfig, name: str) -> dict[str, Any]:
    """The first config of that name on Hydra's search path, as it is written; empty if there is none."""
    for source in hydra.runtime.config_sources:
        path = Path(source.path) / name
        if source.schema == "file" and path.is_file():
            config: Any = OmegaConf.to_container(OmegaConf.load(path))
            return config if isinstance(config, dict) else {}
    return {}


def tuned(preset: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a preset sets for its own choices: (group, choice, setting)."""
    return [
        (group, choice, f"{group}.{setting}")
        for group, choice in overridden(preset).items()
        for setting in preset.get(group) or {}
    ]


def overridden(preset: Mapping[str, Any]) -> dict[str, str]:
    """The choices of a preset's own: {"optimizer": "sgd"} for ``override /optimizer: sgd``."""
    own = [entry for entry in preset.get("defaults", []) if isinstance(entry, Mapping)]
    return {
        key.removeprefix("override ").lstrip("/"): str(choice)
        for entry in own
        for key, choice in entry.items()
        if key.startswith("override ") and "${" not in str(choice)
    }
