"""Composing the configs of many jobs: Hydra reads its files anew for each, this only where the choices differ."""

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
from src.cli.messages import find_unknown, no_such_setting
from src.cli.presets import PRESETS
from src.core.errors import InputError
from src.storage.trust import TARGET, find_packages


class RememberingLoader:
    """Hydra's config loader for a sweep, which remembers what it has composed.

    Jobs that make the same choices and set the same settings differ in values alone: the second
    is a copy of the first with its own. A job's config takes a tenth of the time so.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.parser = OverridesParser.create(config_loader=loader)
        self.known: dict[tuple[str, ...], bytes] = {}  # pickled, which is copied ten times as fast
        self.packages: set[str] = set()  # beside this project's, whose classes the jobs name
        self.parsed = functools.cache(lambda text: self.parser.parse_override(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """For Hydra, which asks only whether each job can be composed: one of its kind tells."""
        kind, _ = self.kind(master_config, self.parse(sweep_overrides))
        return master_config if kind in self.known else self.compose(master_config, sweep_overrides)

    def compose(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's config, as Hydra's own loader composes it."""
        overrides = self.parse(sweep_overrides)
        kind, plain = self.kind(master_config, overrides)
        if kind not in self.known:
            with told_of_job(overrides):
                composed = self.loader.load_sweep_config(master_config, sweep_overrides)
            self.known[kind] = pickle.dumps(composed)
            settings: Any = OmegaConf.to_container(composed)
            self.packages.update(find_packages({**settings, "hydra": {}}))
        config: DictConfig = pickle.loads(self.known[kind])
        for override in plain:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        told = [override for override in overrides if not override.is_hydra_override()]
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in told]
            config.hydra.job.override_dirname = get_overrides_dirname(told, **config.hydra.job.config.override_dirname)
        return config

    def parse(self, overrides: list[str]) -> list[Override]:
        return [self.parsed(text) for text in overrides]

    def kind(self, config: DictConfig, overrides: list[Override]) -> tuple[tuple[str, ...], list[Override]]:
        """What jobs have in common that differ in values alone, and this one's overrides that give such values."""
        whole = tuple(f"{each.key_or_group}." for each in overrides if isinstance(each.value(), dict))
        plain = [each for each in overrides if is_value(each, config)]
        plain = [each for each in plain if not each.key_or_group.startswith(whole)]  # its order counts
        return tuple(each.get_key_element() if each in plain else str(each.input_line) for each in overrides), plain


@contextmanager
def told_of_job(overrides: list[Override]) -> Iterator[None]:
    """Tell with a job's error which choice the job makes: another job's may have the setting that this one lacks.

    Raises:
        InputError: naming the setting and the choice.
    """
    try:
        yield
    except HydraException as error:
        key = find_unknown(error) or ""
        groups = (key.split(".")[0], *PRESETS)
        choices = tuple(str(each.input_line) for each in overrides if is_group(each.key_or_group))
        if not (lacking := [choice for choice in choices if choice.startswith(tuple(f"{name}=" for name in groups))]):
            raise
        raise InputError(f"with {' '.join(lacking)} {no_such_setting(key)}") from error


def is_value(override: Override, config: DictConfig) -> bool:
    """Whether an override does nothing but give a value to a setting that is there."""
    key = override.key_or_group
    marked = override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None
    if marked or override.is_hydra_override() or isinstance(override.value(), dict) or key.endswith(TARGET):
        return False
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in node and not isinstance(node._get_node(name), DictConfig)
