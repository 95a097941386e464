"""Groups, choices and settings available to the current command line: those of conf/ and of the folders it adds."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from src.core.places import CONF

GROUPS_WITHOUT_SECTION = ("experiment", "sweep", "debug", "hydra")  # groups without a section in a run's settings
MAX_CHOICES = 3  # how many choices a message names
SEARCHPATH = "hydra.searchpath"
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")


def get_typed_settings() -> list[str]:
    """Return the command line's arguments without the flags."""
    return [argument for argument in sys.argv[1:] if not argument.startswith("-")]


def is_group(name: str) -> bool:
    return name.startswith("hydra/") or (
        bool(name) and any((folder / name).is_dir() for folder in _get_search_folders())
    )


def list_groups() -> list[str]:
    """Return the names of all groups, nested ones included; in an evaluation only those of its config."""
    found = [
        path.relative_to(folder) for folder in _get_search_folders() for path in folder.rglob("*") if path.is_dir()
    ]
    groups = sorted({path.as_posix() for path in found if not path.name.startswith((".", "_"))})
    return [group for group in groups if not is_evaluation() or group in _get_composed_names(get_config_name(), (), ())]


def list_choices(group: str) -> list[str]:
    """Return the names of a group's choices; a name with a leading underscore is a file that choices build on."""
    return sorted({path.stem for folder in _get_search_folders() for path in (folder / group).glob("[!_]*.yaml")})


def list_settings() -> list[str]:
    """Return the full names of all settings under the existing choices made on the command line."""
    chosen = {}
    for argument in get_typed_settings():
        group, _, value = argument.lstrip("+").partition("=")
        if not group.startswith("hydra/") and is_group(group):
            parts = [part.strip("[]'\" ") for part in value.split(",")]
            # A sweep gives several choices: the first existing one stands for all of them.
            chosen[group] = next((part for part in parts if part in list_choices(group)), None)
    choices = tuple(
        f"{'+' * (not _is_project_group(group))}{group}={value}" for group, value in chosen.items() if value
    )
    return _get_composed_names(get_config_name(), choices, tuple(map(str, _get_search_folders()[:-1])))


def find_choices(guess: Callable[[Iterable[str]], str | None]) -> tuple[str, str] | None:
    """Return a setting that other choices have, and these choices.

    For example ``("optimizer.momentum", "optimizer=rmsprop or sgd")``.

    Args:
        guess: returns the one of some full names that is meant, or ``None``.
    """
    has: dict[str, list[str]] = {}
    for group in list_groups():
        if not group.startswith(GROUPS_WITHOUT_SECTION):
            for choice in list_choices(group):
                for name in read_setting_names(group, choice):
                    has[name] = [*has[name], choice] if name in has else [f"{group}={choice}"]
    meant = None if is_evaluation() else guess(has)
    return (meant, " or ".join(has[meant][:MAX_CHOICES])) if meant else None


def flatten_names(node: Any, prefix: str = "") -> list[str]:
    """Return the full names of all settings below a node."""
    if not isinstance(node, dict):
        return []
    names = [f"{prefix}{key}" for key in node]
    return names + [name for key, value in node.items() for name in flatten_names(value, f"{prefix}{key}.")]


def get_config_name() -> str:
    """Return the name of the program's config: "eval", "predict", "export" or, for all others, "train"."""
    return next((name for name in ("eval", "predict", "export") if name in Path(sys.argv[0]).stem), "train")


def is_evaluation() -> bool:
    """Return True if the program uses a finished run (eval, predict, export) and has settings for that."""
    return get_config_name() != "train"


def _is_project_group(group: str) -> bool:
    """Return True if a group belongs to conf/."""
    return (CONF / group).is_dir()


def _get_search_folders() -> list[Path]:
    """Return the folders searched for choices: those added on the command line, then conf/."""
    return [*dict.fromkeys(_find_added_folders()), CONF]


def _find_added_folders() -> Iterator[Path]:
    arguments = sys.argv[1:]
    for number, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in CONFIG_DIR_FLAGS:
            yield from map(Path, [value] if value else arguments[number + 1 : number + 2])
        elif flag == SEARCHPATH:
            yield from _read_searchpath(argument)


def _read_searchpath(argument: str) -> Iterable[Path]:
    """Yield the folders of ``hydra.searchpath=[file:///a/folder,pkg://a.package]``."""
    with suppress(HydraException, ImportError, ValueError):
        value: Any = OverridesParser.create().parse_override(argument).value()
        for entry in value if isinstance(value, list) else []:
            scheme, _, where = str(entry).rpartition("://")
            if scheme != "pkg":
                yield Path(where)
            elif spec := find_spec(where):
                yield from map(Path, spec.submodule_search_locations or ())


@cache
def _get_composed_names(config: str, choices: tuple[str, ...], folders: tuple[str, ...]) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    where = [f"{SEARCHPATH}=[{','.join(repr(f'file://{folder}') for folder in folders)}]"] if folders else []
    # This function is only called to write an error message: Hydra's global state is no longer needed.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            found = compose(config, [*where, *choices])
        except Exception:  # an invalid custom choice; it is reported elsewhere
            found = compose(config)
        return flatten_names(OmegaConf.to_container(found, resolve=False))


@cache
def read_setting_names(group: str, choice: str) -> list[str]:
    """Return the names of the settings in a choice's file and in those it builds on; empty if it cannot be read."""
    path = next(path for folder in _get_search_folders() if (path := folder / group / f"{choice}.yaml").is_file())
    with suppress(Exception):  # an unreadable custom file is reported when it is chosen
        text = path.read_text(encoding="utf-8")
        content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        prefix = "" if "@package _global_" in text else f"{group.replace('/', '.')}."
        bases = [entry.split("@")[0] for entry in content.pop("defaults", []) if isinstance(entry, str)]
        names = [name for base in bases if base != "_self_" for name in read_setting_names(group, base)]
        return [*(name for name in flatten_names(content, prefix) if name.startswith(f"{group}.")), *names]
    return []
