"""Composition of a sweep's config: settings that only its jobs' choices have are left to the jobs."""

from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.cli.catalog import is_group
from src.core.places import expand_home

SWEEP_PREFIXES = ("hydra.", "hydra/", "paths.")  # prefixes of the settings that the sweep itself needs

_original_load_configuration = ConfigLoaderImpl.load_configuration


@cache  # patch once, even if a process runs several commands
def patch_hydra_composition() -> None:
    """Patch Hydra so that a sweep over a group may set what only some of the group's choices have.

    Hydra composes a sweep's config with the default choice: ``-m data=mnist,cifar10 data.flip=true`` with XOR, which
    has no images to flip, and would refuse the setting.
    """
    ConfigLoaderImpl.load_configuration = _load_configuration  # type: ignore[assignment, method-assign]


def _load_configuration(
    loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, **options: Any
) -> DictConfig:
    """Compose a config as Hydra does; if that fails for a sweep, leave out the settings that only its jobs need."""
    try:
        config = _original_load_configuration(loader, config_name, overrides, run_mode, **options)
    except ConfigCompositionException:
        if run_mode != RunMode.MULTIRUN:
            raise
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
        # The config with the default choices lacks some setting, which the jobs' own choices may have. Compose it with
        # the settings that Hydra itself needs; each job is composed with all of them later, where errors are raised.
        kept = [each for each in parsed if "." not in each.key_or_group or each.key_or_group.startswith(SWEEP_PREFIXES)]
        config = _original_load_configuration(
            loader, config_name, [str(each.input_line) for each in kept], run_mode, **options
        )
        if not _has_swept_group(config, parsed):  # all jobs have the same choices: the error is real
            raise
        _record_job_overrides(config, [each for each in parsed if not each.is_hydra_override()])
    expand_home(config)
    return config


def _has_swept_group(config: DictConfig, overrides: list[Override]) -> bool:
    """Return True if a sweep gives a group several choices, on the command line or in a preset."""
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    return any(map(is_group, [*swept, *map(str, config.hydra.sweeper.get("params") or {})]))


def _record_job_overrides(config: DictConfig, overrides: list[Override]) -> None:
    """Record all overrides of the jobs in a sweep's config."""
    config.hydra.overrides.task = [override.input_line for override in overrides]
    config.hydra.job.override_dirname = get_overrides_dirname(overrides, **config.hydra.job.config.override_dirname)
