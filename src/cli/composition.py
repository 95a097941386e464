"""How a sweep's own config is composed: what only the choices of its jobs have is left to the jobs."""

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

OWN = ("hydra.", "hydra/", "paths.")  # how settings begin that a sweep itself needs

_compose = ConfigLoaderImpl.load_configuration


@cache  # once, however many commands a process runs
def fit_hydra_for_sweeps() -> None:
    """Have Hydra compose a sweep over a group also where a setting is given that only the group's choices have.

    Hydra composes it with the choice that a run without the sweep makes: ``-m data=mnist,cifar10 data.flip=true``
    with XOR, which has no images to flip.
    """
    ConfigLoaderImpl.load_configuration = _load_configuration  # type: ignore[assignment, method-assign]


def _load_configuration(
    loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, **how: Any
) -> DictConfig:
    """Compose as Hydra does; a sweep where it cannot, without the settings that its jobs alone need to have."""
    try:
        config = _compose(loader, config_name, overrides, run_mode, **how)
    except ConfigCompositionException:
        if run_mode != RunMode.MULTIRUN:
            raise
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
        kept = [each for each in parsed if "." not in each.key_or_group or each.key_or_group.startswith(OWN)]
        config = _compose(loader, config_name, [str(each.input_line) for each in kept], run_mode, **how)
        if not _sweeps_over_group(config, parsed):
            raise
        _tell(config, [each for each in parsed if not each.is_hydra_override()])
    expand_home(config)
    return config


def _sweeps_over_group(config: DictConfig, overrides: list[Override]) -> bool:
    """Return whether a sweep gives a group several choices, on the command line or by a preset."""
    swept = [each.key_or_group for each in overrides if each.is_sweep_override()]
    return any(map(is_group, [*swept, *map(str, config.hydra.sweeper.get("params") or {})]))


def _tell(config: DictConfig, overrides: list[Override]) -> None:
    """Note all overrides of the jobs in a sweep's config."""
    config.hydra.overrides.task = [each.input_line for each in overrides]
    config.hydra.job.override_dirname = get_overrides_dirname(overrides, **config.hydra.job.config.override_dirname)
