"""Names and folders of runs and sweeps, checked before a folder is created. Nothing heavy is imported here."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, read_write

from src.core.checks import (
    LABEL,
    PATH,
    Check,
    allow_integer,
    allow_null_or,
    allow_one_of,
    describe_invalid,
    format_value,
)
from src.core.errors import InputError

_INSTALLED_CONF = Path(__file__).parents[1] / "conf"  # in the package; in a checkout conf/ lies next to src/
CONF = _INSTALLED_CONF if _INSTALLED_CONF.is_dir() else Path(__file__).parents[2] / "conf"
PLUGIN_PREFIXES = ("hydra_plugins.", "hydra._internal.core_plugins.")
MAX_NAME_BYTES = 200  # bytes; file systems allow 255, and jobs' folders and temporary files have longer names
PATH_SETTINGS = (  # settings that are paths; a config need not have all of them
    *("run", "resume", "checkpoint", "ckpt_path", "model.weights", "out", "grid"),
    *("data.root", "data.cache", "data.file", "data.test_file"),
    *("paths.data", "paths.outputs", "hydra.run.dir", "hydra.sweep.dir"),
)

JOB_NUMBER_PATTERN = re.compile(r"\$\{hydra[.:]job\.num\}(_|\$\{swept:|$)")  # the start of the name of a job's folder

PLUGIN = Check(lambda value: isinstance(value, str) and value.startswith(PLUGIN_PREFIXES), "a class of hydra_plugins")
LOCATION_CHECKS: dict[str, Check] = {
    "name": allow_null_or(LABEL),
    "resume": allow_null_or(PATH),
    "paths.outputs": PATH,
    "hydra.run.dir": PATH,
    "hydra.sweep.dir": PATH,
    "hydra.output_subdir": allow_one_of(None, ".hydra"),  # a run's settings are always in .hydra
    "hydra.launcher._target_": PLUGIN,
    "hydra.sweeper._target_": PLUGIN,
    "hydra.sweeper.max_batch_size": allow_null_or(allow_integer(1)),
}


def expand_home(config: DictConfig) -> None:
    """Replace a leading ``~`` in a config's paths by the user's home folder."""
    for name in PATH_SETTINGS:
        *above, key = name.split(".")
        holder = OmegaConf.select(config, ".".join(above)) if above else config
        path = _get_unresolved(holder, key) if isinstance(holder, DictConfig) and key in holder else None
        if isinstance(path, str) and path.startswith("~"):
            with read_write(holder):
                holder[key] = os.path.expanduser(path)


def _get_unresolved(holder: DictConfig, key: str) -> Any:
    node: Any = holder._get_node(key)
    return node._value()  # does not resolve a reference, whose target is expanded itself


def resolve_data_dir() -> None:
    """Expand ``~`` in the environment variable ``DATA_DIR``, and unset the variable if it is empty."""
    folder = os.path.expanduser(os.environ.pop("DATA_DIR", ""))
    if folder:
        os.environ["DATA_DIR"] = folder


def check_locations(config: DictConfig) -> None:
    """Refuse names and folders that are invalid for a run, and choices outside their groups.

    Raises:
        InputError: naming the setting, its value and the valid values.
    """
    for name, check in LOCATION_CHECKS.items():
        value = OmegaConf.select(config, name)
        if not check.allows(value):
            raise InputError(describe_invalid(name, value, check))
        if name == "name":
            make_folder_name(value, "")  # raises before folders that refer to the name are checked
    if not PATH.allows(subdir := read_subdir(config)):
        raise InputError(describe_invalid("hydra.sweep.subdir", subdir, PATH))
    for group, choice in config.hydra.runtime.choices.items():
        if ".." in str(choice).split("/") or str(choice).endswith(".yaml"):
            raise InputError(
                f"{group}={format_value(choice)}: there is no such choice; give the name of a file without .yaml"
            )


def check_job_folders(config: DictConfig) -> None:
    """Refuse a ``hydra.sweep.subdir`` that has a slash, or does not begin with the job's number.

    Raises:
        InputError: if it is invalid.
    """
    subdir = str(read_subdir(config))
    # Slashes inside references are fine: remove innermost references until none is left.
    while (plain := re.sub(r"\$\{[^${}]*\}", "", subdir)) != subdir and "/" in subdir:
        subdir = plain
    if "/" in subdir or not JOB_NUMBER_PATTERN.match(str(read_subdir(config))):
        how = "a job's folder lies in its sweep's and begins with its number: '${hydra.job.num}_…'"
        raise InputError(f"hydra.sweep.subdir={format_value(read_subdir(config))}: {how}")


def check_sweep_folder(config: DictConfig, swept: Iterable[str]) -> None:
    """Refuse a sweep folder whose name refers to a swept setting, since a sweep has only one folder.

    Raises:
        InputError: naming the swept setting.
    """
    folder = str(OmegaConf.to_container(config.hydra.sweep)["dir"])  # type: ignore[call-overload, index]
    for name in re.findall(r"\$\{([\w./]+)\}", folder):
        if any(f"{name}.".startswith(f"{key}.") for key in swept):
            how = "its jobs' folders are named by hydra.sweep.subdir='${hydra.job.num}_…'"
            raise InputError(f"hydra.sweep.dir={folder}: a sweep has one folder, and {name} varies; {how}")


def read_subdir(config: DictConfig) -> Any:
    """Return ``hydra.sweep.subdir`` unresolved, since its references have another value in each job."""
    return _get_unresolved(config.hydra.sweep, "subdir")


def make_paths_absolute(config: DictConfig) -> None:
    """Make a config's paths absolute if the run changes to its own folder (``hydra.job.chdir=true``)."""
    if not config.hydra.job.chdir:
        return
    for name in PATH_SETTINGS:
        path = OmegaConf.select(config, name)
        if isinstance(path, str) and (
            name != "model.weights" or os.path.exists(path)
        ):  # other weights are names in torchvision
            with read_write(config):
                OmegaConf.update(config, name, os.path.abspath(path))


def make_folder_name(name: Any, stamp: str) -> str:
    """Return a run's name as the name of its folder; the time stamp if it has none.

    Raises:
        InputError: if it cannot be the name of a folder.
    """
    if name is None:
        return stamp
    folder = to_slug(str(name))
    if not folder.strip(".-"):
        raise InputError(f"name={format_value(name)}: give it letters or digits, it names a folder")
    if len(os.fsencode(folder)) > MAX_NAME_BYTES:
        how = "characters" if folder.isascii() else "bytes (a letter takes up to four)"
        raise InputError(f"name={format_value(name)}: it names a folder, so give it at most {MAX_NAME_BYTES} {how}")
    return folder


def to_slug(text: str) -> str:
    """Return a text for a folder's name: letters and digits of any script, ``.``, ``_``, ``+`` and ``-``."""
    text = unicodedata.normalize("NFC", text.strip("[]{}() '\""))
    kept = (char if char.isalnum() or char in "._+-" or unicodedata.category(char)[0] == "M" else " " for char in text)
    return re.sub(" +", "-", "".join(kept))


def cut_to_bytes(text: str, max_bytes: int) -> str:
    """Return the longest beginning of a text that takes at most ``max_bytes`` bytes."""
    return os.fsencode(text)[:max_bytes].decode(errors="ignore")
