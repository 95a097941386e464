"""Presets that fit together: values tuned for one choice do not silently stay with another."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.errors import InputError

PRESETS = ("experiment", "sweep", "debug")  # the groups whose files set values of other groups


def check_presets() -> None:
    """Refuse a command line that replaces a preset's choice but keeps what the preset set for it.

    A preset that says ``override /optimizer: sgd`` and ``optimizer.lr: 0.5`` tuned the one for the
    other: with ``optimizer=adam`` over it the rate must be given anew. (Values under
    ``recipe.sgd`` never come along.)

    Raises:
        InputError: naming the preset, the setting and what to do.
    """
    hydra = HydraConfig.get()
    given = {override.split("=")[0].lstrip("+") for override in hydra.overrides.task}
    for group in PRESETS:
        name = hydra.runtime.choices.get(group)
        for other, meant, setting in tuned(preset_file(f"{group}/{name}.yaml")):
            actual = hydra.runtime.choices.get(other)
            if actual != meant and setting not in given:
                raise InputError(
                    f"{group}={name} sets {setting} for {other}={meant}: with {other}={actual} give {setting}=… too "
                    f"(or keep the preset's under recipe.{meant})"
                )


def preset_file(name: str) -> DictConfig:
    """The first config of that name on Hydra's search path; an empty one if there is none."""
    for source in HydraConfig.get().runtime.config_sources:
        path = Path(source.path) / name
        if source.schema == "file" and path.is_file():
            config = OmegaConf.load(path)
            return config if isinstance(config, DictConfig) else OmegaConf.create({})
    return OmegaConf.create({})


def tuned(preset: DictConfig) -> list[tuple[str, str, str]]:
    """What a preset sets for its own choices: (group, choice, setting)."""
    found = []
    for entry in preset.get("defaults", []):
        if isinstance(entry, DictConfig):
            for key, choice in entry.items():
                group = str(key).removeprefix("override ").lstrip("/")
                settings = preset.get(group) if str(key).startswith("override ") else None
                found += [(group, str(choice), f"{group}.{setting}") for setting in settings or {}]
    return found
