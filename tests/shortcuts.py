"""What takes time in each command and changes no result is left out here, or done in a quicker way."""

import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

from lightning.fabric.utilities import registry
from omegaconf import DictConfig

from src.cli.startup import patch_hydra_speed
from tests.composing import composing_once

_copy_slowly, _entry_points = DictConfig.__deepcopy__, registry.entry_points


@contextmanager
def taking_shortcuts() -> Iterator[None]:
    """Compose configs once, copy them by pickle, look up entry points once, and wait for no disk.

    The order of a sync among the operations on files is tested by `tests.chaos`, which observes it; its effect, that
    files outlast a power cut, cannot be tested here.
    """
    patch_hydra_speed()  # as commands do, for what composes configs without them
    with ExitStack() as patches:
        patches.enter_context(composing_once())
        for owner, name, own in (
            (DictConfig, "__deepcopy__", _copy_config),
            (registry, "entry_points", cache(_entry_points)),
            (os, "fsync", lambda file: None),
            (os, "sync", lambda: None),
        ):
            patches.enter_context(mock.patch.object(owner, name, own))
        yield


def _copy_config(config: DictConfig, memo: dict[int, Any]) -> DictConfig:
    """Return what OmegaConf's own, much slower copy is; as there, the parent is kept and not copied."""
    own, parent = config.__dict__, config.__dict__["_parent"]
    own["_parent"] = None
    try:
        copied: DictConfig = pickle.loads(pickle.dumps(config, pickle.HIGHEST_PROTOCOL))
    except Exception:  # it holds an object that pickle cannot copy
        own["_parent"] = parent
        return _copy_slowly(config, memo)
    finally:
        own["_parent"] = parent
    copied.__dict__["_parent"] = parent
    return copied
