"""Changes to Hydra as a command starts: it is faster, and a sweep may set what only some of its jobs have."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf import base as omegaconf_base

from src.cli.catalog import is_group
from src.core.extras import skip_signal_processing
from src.core.places import expand_home

SWEEP_PREFIXES = ("hydra.", "hydra/", "paths.")  # prefixes of the settings that the sweep itself needs
QUICK_ENDS = ("src.train", "src.eval", "src.predict", "src.export")  # programs that end at once

_original_load_configuration = ConfigLoaderImpl.load_configuration


@cache  # patch once, even if a process runs several commands
def patch_hydra_speed() -> None:
    """Patch Hydra and OmegaConf: list choices, read files and resolve references faster."""
    ConfigLoaderImpl.get_group_options = find_group_options  # type: ignore[assignment, method-assign]
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same loader, written in C
    omegaconf_base.parse = cache(omegaconf_base.parse)  # a sweep's jobs share their references: parse each once


def find_group_options(
    loader: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    """Return the options of a group, without the files that options build on (`src.cli.catalog.list_choices`).

    Hydra's own method copies its whole repository on each call, a hundred times for ``--help``.
    """
    repository = _get_config_repository(loader, config_name, *(overrides or ()))
    return [name for name in repository.get_group_options(group_name, results_filter) if not name.startswith("_")]


@cache
def _get_config_repository(
    loader: ConfigLoaderImpl, config_name: str | None, *overrides: str
) -> CachingConfigRepository:
    """Return the repository of configs that a loader searches."""
    return loader._parse_overrides_and_create_caching_repo(config_name, list(overrides))[1]


@contextmanager
def disable_gc_for_imports() -> Iterator[None]:
    """Disable garbage collection during imports and exclude the imported objects from later collections.

    This saves a second or two.
    """
    gc.disable()
    try:
        with skip_signal_processing():
            yield
    finally:
        freeze_imported()
        gc.enable()


@cache  # freeze once: objects of a process's later runs must stay collectable
def freeze_imported() -> None:
    """Exclude all existing objects from garbage collection."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # some libraries report frozen objects as leaks at exit


@contextmanager
def exit_quickly() -> Iterator[None]:
    """Skip the interpreter's teardown after a successful run, which takes a second or two.

    All other exit handlers run before. A process that runs more than this program, a profiler's for example, exits as
    usual.
    """
    succeeded = False

    def end() -> None:
        program = getattr(sys.modules["__main__"], "__spec__", None)
        if succeeded and program is not None and program.name in QUICK_ENDS:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    atexit.register(end)  # exit handlers run in reverse order: registered first, it runs last
    yield
    succeeded = True


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
