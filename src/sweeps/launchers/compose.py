"""Fast composition of many jobs' configs: Hydra reads its files again for each job, this only for new choices."""

import functools
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.cli.catalog import is_group
from src.cli.messages import describe_unknown_setting, find_unknown_setting
from src.cli.presets import PRESETS
from src.core.errors import InputError
from src.storage.trust import TARGET, find_packages


class CachingConfigLoader:
    """A wrapper of Hydra's config loader that caches composed configs.

    Jobs with the same choices that override the same settings differ only in values: the config of the second is a
    copy of the first with other values. That takes a tenth of the time.

    Args:
        loader: Hydra's config loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.parser = OverridesParser.create(config_loader=loader)
        self.cache: dict[tuple[str, ...], bytes] = {}  # pickled, which makes a copy ten times as fast
        self.packages: set[str] = set()  # packages, other than this project's, whose classes the jobs' configs name
        self.parse_cached = functools.cache(lambda text: self.parser.parse_override(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Check for Hydra that a job's config can be composed; Hydra does not use the config that is returned.

        One job of each kind is composed: the others differ only in values.
        """
        kind, _ = self.compute_cache_key(master_config, self.parse(sweep_overrides))
        return master_config if kind in self.cache else self.compose(master_config, sweep_overrides)

    def compose(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return a job's config, identical to what Hydra's loader composes."""
        overrides = self.parse(sweep_overrides)
        kind, plain = self.compute_cache_key(master_config, overrides)
        if kind not in self.cache:
            with _explain_missing_setting(overrides):
                composed = self.loader.load_sweep_config(master_config, sweep_overrides)
            self.cache[kind] = pickle.dumps(composed)
            settings: Any = OmegaConf.to_container(composed)
            self.packages.update(find_packages({**settings, "hydra": {}}))
        config: DictConfig = pickle.loads(self.cache[kind])
        for override in plain:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        task = [override for override in overrides if not override.is_hydra_override()]
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in task]
            config.hydra.job.override_dirname = get_overrides_dirname(task, **config.hydra.job.config.override_dirname)
        return config

    def parse(self, overrides: list[str]) -> list[Override]:
        return [self.parse_cached(text) for text in overrides]

    def compute_cache_key(
        self, config: DictConfig, overrides: list[Override]
    ) -> tuple[tuple[str, ...], list[Override]]:
        """Return the cache key of a job, and those of its overrides that only set values.

        Jobs that differ only in values have the same key.
        """
        dicts = tuple(f"{override.key_or_group}." for override in overrides if isinstance(override.value(), dict))
        plain = [override for override in overrides if _is_value(override, config)]
        # A setting within a dict that is overridden as well is not plain: there the order of the overrides matters.
        plain = [override for override in plain if not override.key_or_group.startswith(dicts)]
        return (
            tuple(
                override.get_key_element() if override in plain else str(override.input_line) for override in overrides
            ),
            plain,
        )


@contextmanager
def _explain_missing_setting(overrides: list[Override]) -> Iterator[None]:
    """Add a job's choices to the error for an unknown setting, because the setting may exist with other choices.

    Raises:
        InputError: naming the setting and the choice.
    """
    try:
        yield
    except HydraException as error:
        key = find_unknown_setting(error) or ""
        groups = (key.split(".")[0], *PRESETS)
        choices = tuple(str(override.input_line) for override in overrides if is_group(override.key_or_group))
        if not (related := [choice for choice in choices if choice.startswith(tuple(f"{name}=" for name in groups))]):
            raise
        raise InputError(f"with {' '.join(related)} {describe_unknown_setting(key)}") from error


def _is_value(override: Override, config: DictConfig) -> bool:
    """Return True if an override only sets the value of an existing setting."""
    key = override.key_or_group
    marked = override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None
    if marked or override.is_hydra_override() or isinstance(override.value(), dict) or key.endswith(TARGET):
        return False
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in node and not isinstance(node._get_node(name), DictConfig)
