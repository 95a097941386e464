"""How the command line starts and ends without waiting for what it does not need; no result depends on it."""

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


@cache  # once, however many commands a process runs
def hurry_hydra() -> None:
    """Have Hydra list its choices, read its files and resolve references faster."""
    ConfigLoaderImpl.get_group_options = group_options  # type: ignore[assignment, method-assign]
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, written in C
    omegaconf_base.parse = cache(omegaconf_base.parse)  # a sweep's jobs have the same references, each parsed once so


def group_options(
    loader: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    """What there is in a group; Hydra's own copies all it knows of for each answer, a hundred times for ``--help``."""
    options: list[str] = sources(loader, config_name, *(overrides or ())).get_group_options(group_name, results_filter)
    return options


@cache
def sources(loader: ConfigLoaderImpl, config_name: str | None, *overrides: str) -> CachingConfigRepository:
    """Where a loader looks for configs."""
    return loader._parse_overrides_and_create_caching_repo(config_name, list(overrides))[1]


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while a run's libraries are imported, nor among them later: that takes a second or two."""
    gc.disable()
    try:
        yield
    finally:
        keep_imported()
        gc.enable()


@cache  # once: of a process's further runs all can be garbage
def keep_imported() -> None:
    """Have what there is now never looked at as garbage."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is frozen at the end some libraries report as leaked


@contextmanager
def ending_at_once() -> Iterator[None]:
    """After a run that went well end the process before Python takes all modules apart, which takes a second or two.

    What is to be done at exit is done before. A process that does more than to run this program, a
    profiler's for example, ends as always.
    """
    well = False

    def end() -> None:
        program = getattr(sys.modules["__main__"], "__spec__", None)
        if well and program is not None and program.name in ("src.train", "src.eval"):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    atexit.register(end)  # before the libraries' own, so that it is called after them
    yield
    well = True
