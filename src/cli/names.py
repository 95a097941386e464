"""Names of runs and of a sweep's jobs, and the other texts that conf/ asks of the code."""

import sys
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.cli.help import describe_settings
from src.core.commands import format_command, format_tensorboard_command
from src.core.places import cut_to_bytes, make_folder_name, to_slug


def register_resolvers() -> None:
    """Register the resolvers that conf/ uses: names of runs and of a sweep's jobs, and the text of ``--help``."""
    OmegaConf.register_new_resolver("name_or", make_folder_name, replace=True)
    OmegaConf.register_new_resolver(
        "swept", lambda overrides, preset=None: format_swept_name(overrides, get_swept_keys(preset)), replace=True
    )
    OmegaConf.register_new_resolver("describe_settings", describe_settings, replace=True)
    OmegaConf.register_new_resolver("command", format_command, replace=True)
    OmegaConf.register_new_resolver("tensorboard", format_tensorboard_command, replace=True)


def get_swept_keys(preset: Mapping[str, Any] | None = None) -> set[str]:
    """Return the settings swept over by the command line and by a preset (``hydra.sweeper.params``)."""
    given = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    given += [f"{key}={value}" for key, value in (preset or {}).items()]
    parsed = OverridesParser.create().parse_overrides(given)
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


def format_swept_name(overrides: list[str], keys: set[str]) -> str:
    """Return ``_key-value`` for each of a job's overrides whose key is swept over, as one text."""
    pairs = [override.split("=", 1) for override in overrides]
    swept = [(key.lstrip("+").split(".")[-1], value) for key, value in pairs if key in keys]
    return cut_to_bytes("".join(f"_{to_slug(name)}-{to_slug(value)}" for name, value in swept), 150)
