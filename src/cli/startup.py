"""Shortcuts that make the command line start and exit faster; no result depends on them."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.object_type import ObjectType
from omegaconf import base as omegaconf_base


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
    """Return the options of a group.

    Hydra's own method copies its whole repository on each call, a hundred times for ``--help``.
    """
    options: list[str] = _get_config_repository(loader, config_name, *(overrides or ())).get_group_options(
        group_name, results_filter
    )
    return options


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
        if succeeded and program is not None and program.name in ("src.train", "src.eval"):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    atexit.register(end)  # exit handlers run in reverse order: registered first, it runs last
    yield
    succeeded = True
