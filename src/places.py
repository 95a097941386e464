"""Where a run or a sweep lies: names and folders, looked at before one is made. Nothing heavy is imported here."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.core.checks import LABEL, PATH, Check, complain, one_of, optional, show, whole
from src.errors import InputError

OF_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
LONGEST_NAME = 200  # characters; file systems take 255, and a sweep's jobs and temporary files add some

PLUGIN = Check(lambda value: isinstance(value, str) and value.startswith(OF_PLUGINS), "a class of hydra_plugins")
PLACES: dict[str, Check] = {
    "name": optional(LABEL),
    "resume": optional(PATH),
    "paths.outputs": PATH,
    "hydra.run.dir": PATH,
    "hydra.sweep.dir": PATH,
    "hydra.output_subdir": one_of(None, ".hydra"),  # where a run's settings are in its folder, whatever it says
    "hydra.launcher._target_": PLUGIN,
    "hydra.sweeper._target_": PLUGIN,
    "hydra.sweeper.max_batch_size": optional(whole(1)),
}


def check_places(config: DictConfig) -> None:
    """Refuse a name or a folder that no run can have, and choices outside their groups.

    Raises:
        InputError: naming the setting, its value and what it must be.
    """
    for name, check in PLACES.items():
        value = OmegaConf.select(config, name)
        if not check.allows(value):
            raise InputError(complain(name, value, check))
        if name == "name":
            run_name(value, "")  # before the folders refer to it
    sweep: Any = OmegaConf.to_container(config.hydra.sweep)  # not resolved: each job has a subdir of its own
    if not PATH.allows(subdir := sweep.get("subdir")):
        raise InputError(complain("hydra.sweep.subdir", subdir, PATH))
    for group, choice in config.hydra.runtime.choices.items():
        if ".." in str(choice).split("/") or str(choice).endswith(".yaml"):
            raise InputError(f"{group}={show(choice)}: there is no such choice; it is the name of a file without .yaml")


def run_name(name: Any, stamp: str) -> str:
    """Return a run's name as a folder's; the stamp where none is given.

    Raises:
        InputError: if it cannot name a folder.
    """
    if name is None:
        return stamp
    folder = slug(str(name))
    if not folder.strip(".-"):
        raise InputError(f"name={show(name)}: give it letters or digits, it names a folder")
    if len(folder) > LONGEST_NAME:
        raise InputError(f"name={show(name)}: it names a folder, so give it at most {LONGEST_NAME} characters")
    return folder


def slug(text: str) -> str:
    """Return text with only letters, digits, dots, underscores and hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip("[]{}() '\""))
