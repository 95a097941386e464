"""Hydra's composing without what is the same for all commands of a process, so that each takes a third of the time."""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource

from src.cli.resumed import CONFIG_NAME
from tests.command_line import CONF

Plugins.instance()  # imports the classes of sources once more: those that are used are not those in the modules
FileConfigSource: Any = SourcesRegistry.instance().resolve("file")
_create, _compose = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
_load, _get_mode = FileConfigSource.load_config, Hydra.get_mode
_MODES = ("hydra", "sweep=", "experiment=")  # what may turn a run into a sweep


@contextmanager
def composing_once() -> Iterator[None]:
    """Remember what the files in conf/ hold and what the choices of groups come to.

    The files in conf/ must stay as they are. Own files of a test and the config of a resumed run are read anew.
    """
    remembered: dict[Any, bytes] = {}

    def load(source: FileConfigSource, config_path: str) -> Any:
        if not _is_fixed(source):
            return _load(source, config_path)
        key = (source.path, config_path)
        if key not in remembered:
            remembered[key] = pickle.dumps(_load(source, config_path))
        return pickle.loads(remembered[key])

    def create(repo: Any, config_name: Any, overrides_list: Any, prepend_hydra: bool, skip_missing: bool) -> Any:
        if config_name == CONFIG_NAME or not all(map(_is_fixed, repo.get_sources())):
            return _create(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        groups = [each for each in overrides_list if _chooses(each, repo)]
        key = (config_name, prepend_hydra, skip_missing, *[each.input_line for each in groups])
        if key not in remembered:
            remembered[key] = pickle.dumps(_create(repo, config_name, groups, prepend_hydra, skip_missing))
        found = pickle.loads(remembered[key])
        found.config_overrides = [each for each in overrides_list if each not in groups]
        return found

    def compose(loader: Any, defaults: Any, repo: Any) -> Any:
        resumed = any(each.config_path == CONFIG_NAME for each in defaults)
        if resumed or not all(map(_is_fixed, repo.get_sources())):
            return _compose(loader, defaults, repo)
        key = str(defaults)
        if key not in remembered:
            remembered[key] = pickle.dumps(_compose(loader, defaults, repo))
        return pickle.loads(remembered[key])

    def get_mode(hydra: Hydra, config_name: Any, overrides: list[str]) -> Any:
        sources = hydra.config_loader.get_sources()
        may_sweep = any(each.lstrip("+~").startswith(_MODES) for each in overrides) or not all(map(_is_fixed, sources))
        return _get_mode(hydra, config_name, overrides) if may_sweep else None

    found = Plugins.instance().__dict__
    with ExitStack() as patches:
        for owner, name, own in (
            (FileConfigSource, "load_config", load),
            (config_loader_impl, "create_defaults_list", create),
            (ConfigLoaderImpl, "_compose_config_from_defaults_list", compose),
            (Hydra, "get_mode", get_mode),
            (Plugins, "_initialize", lambda plugins: plugins.__dict__.update(found)),
        ):
            patches.enter_context(mock.patch.object(owner, name, own))
        yield


def _is_fixed(source: ConfigSource) -> bool:
    """Return whether a source of configs is conf/ or part of a package."""
    return not isinstance(source, FileConfigSource) or source.path == str(CONF)


def _chooses(override: Any, repo: Any) -> bool:
    """Return whether an override chooses in a group; others give values. A sweep's own are neither."""
    return override.is_sweep_override() or (
        repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
    )
