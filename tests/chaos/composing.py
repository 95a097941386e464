"""Hydra's composing without what is the same for all commands of a process, so that each takes a third of the time."""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins

_create, _compose = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
_load, _get_mode = FileConfigSource.load_config, Hydra.get_mode
_MODES = ("hydra", "sweep=", "experiment=")  # what may turn a run into a sweep


@contextmanager
def composing_once() -> Iterator[None]:
    """Remember what files hold and what the choices of groups come to; the files must stay as they are meanwhile."""
    remembered: dict[Any, bytes] = {}

    def load(source: FileConfigSource, config_path: str) -> Any:
        key = (source.path, config_path)
        if key not in remembered:
            remembered[key] = pickle.dumps(_load(source, config_path))
        return pickle.loads(remembered[key])

    def create(repo: Any, config_name: Any, overrides_list: Any, prepend_hydra: bool, skip_missing: bool) -> Any:
        groups = [each for each in overrides_list if _chooses(each, repo)]
        key = (config_name, skip_missing, *[each.input_line for each in groups], *map(str, repo.get_sources()))
        if key not in remembered:
            remembered[key] = pickle.dumps(_create(repo, config_name, groups, prepend_hydra, skip_missing))
        found = pickle.loads(remembered[key])
        found.config_overrides = [each for each in overrides_list if each not in groups]
        return found

    def compose(loader: Any, defaults: Any, repo: Any) -> Any:
        key = (str(defaults), *map(str, repo.get_sources()))
        if key not in remembered:
            remembered[key] = pickle.dumps(_compose(loader, defaults, repo))
        return pickle.loads(remembered[key])

    def get_mode(hydra: Hydra, config_name: Any, overrides: list[str]) -> Any:
        may_sweep = any(each.lstrip("+~").startswith(_MODES) for each in overrides)
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


def _chooses(override: Any, repo: Any) -> bool:
    """Return whether an override chooses in a group; others give values. A sweep's own are neither."""
    return override.is_sweep_override() or (
        repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
    )
