"""Decide which classes and paths a config may name that was read back from a folder, which may be a stranger's.

What a user types is trusted. What a folder holds may name classes of this project and its libraries, each of the kind
that its place takes, and of other packages only those that the user trusts: ``trust=mylab``. Names are looked at
before anything is imported; functions are called only if they make an optimizer or a schedule, or are part of one, in a
package that the user trusts.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_class, get_object

from src.core.checks import Check, complain, either, list_of, optional, show
from src.core.errors import InputError

PACKAGES = ("src", "torch.optim", "lightning", "torchvision")
UNASKED = (  # of lightning: what writes where it is told to, sends elsewhere or starts a server
    *("CometLogger", "LitLogger", "MLFlowLogger", "WandbLogger"),
    *("Checkpoint", "ModelCheckpoint", "OnExceptionCheckpoint", "SpikeDetection", "ServableModuleValidator"),
)
TRUST = "trust=mylab behind the folders: they may name classes of that package, too"  # for --help
TARGET = "_target_"
CALLING = ("optimizer", "scheduler")  # sections that may name functions, in values too: those of trusted packages
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
OF_HYDRA = re.compile(r"_[a-z]+_")  # settings that tell Hydra how to make something
PLACE = re.compile(r"(dir|dirpath|path|folder|root)$", re.IGNORECASE)  # how a setting's name ends that says where
ELSEWHERE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|.*(://|(^|[/\\])\.\.([/\\]|$))", re.DOTALL)

LENT: set[Path] = set()  # folders that the config opened last names: its data are read there, nothing is written

_PACKAGE = Check(lambda value: isinstance(value, str) and bool(NAME.fullmatch(value)), "a package's name")
TRUSTED = optional(either(_PACKAGE, list_of(_PACKAGE, "a list of them")))

Kinds = tuple[type, ...]


class Rules(NamedTuple):
    """What a config may name.

    Attributes:
        places: the kind of class that a setting takes, by its name; "callbacks.*" is each setting in it.
        nested: the kinds of classes that may stand elsewhere.
        unasked: kinds that are refused all the same unless the user trusts their package.
        writing: the sections in which nothing may say where files lie.
    """

    places: Mapping[str, type]
    nested: Kinds = ()
    unasked: Kinds = ()
    writing: tuple[str, ...] = ()


def read_packages(value: Any) -> tuple[str, ...]:
    """Return the packages that ``trust=`` names.

    Raises:
        InputError: if it is something else.
    """
    value = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if not TRUSTED.allows(value):
        raise InputError(complain("trust", value, TRUSTED))
    return (value,) if isinstance(value, str) else tuple(value or ())


def take_trust(arguments: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the packages that a command's arguments trust, and the other arguments.

    Raises:
        InputError: if ``trust=`` names something else than packages.
    """
    given = [argument for argument in arguments if argument.startswith("trust=")]
    rest = [argument for argument in arguments if argument not in given]
    if not given:
        return (), rest
    try:
        return read_packages(OverridesParser.create().parse_override(given[-1]).value()), rest
    except HydraException:
        return read_packages(given[-1].removeprefix("trust=")), rest  # it is told what it should be


def spell_trust(packages: tuple[str, ...]) -> str:
    """Return packages as a command's last word: " trust=mylab"; nothing for none."""
    if len(packages) < 2:
        return "".join(f" trust={each}" for each in packages)
    return f" 'trust=[{','.join(packages)}]'"


def find_packages(content: Any) -> tuple[str, ...]:
    """Return the packages of the classes in a config, as plain values, that must be trusted to read it back."""
    names = [(key, str(target)) for key, target in _targets(content) if NAME.fullmatch(str(target))]
    foreign = [
        name
        for key, name in names
        if not is_within(name, PACKAGES) or not _is_target(key) or name.rpartition(".")[2] in UNASKED
    ]
    return tuple(dict.fromkeys(name.split(".")[0] for name in foreign))


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Return whether a dotted name lies in one of the packages."""
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def is_lent(folder: Path) -> bool:
    """Return whether a folder is one that a run's config named, and not the user: nothing is written there."""
    return any(folder.resolve().is_relative_to(lent) for lent in LENT)


def check_trust(content: Any, source: Path, rules: Rules, packages: tuple[str, ...]) -> None:
    """Refuse a config with classes or paths that it must not name.

    Args:
        content: plain values, references resolved.
        source: the file that they come from.
        rules: what may stand where.
        packages: what the user trusts beside `PACKAGES`.

    Raises:
        InputError: naming the first such setting, and how to allow it.
    """
    try:
        targets = list(_targets(content))
        for key, target in targets:
            _check_name(key, target, packages)
        _check_settings(content, rules)
        for key, target in targets:
            _check_class(key, target, rules, packages)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _check_settings(content: Any, rules: Rules) -> None:
    """Raise an error for settings that are Hydra's own, and for those that say where files lie."""
    for key, value in _settings(content):
        *above, name = key.split(".")
        if TARGET in above or any(OF_HYDRA.fullmatch(part) and part != TARGET for part in (*above, name)):
            raise ValueError(f"{key}={show(value)}: a folder does not say how classes are made")
    for key, value in find_places(content, rules.writing).items():
        raise ValueError(f"{key}={show(value)}: a folder chooses no place elsewhere; to resume give that anew")


def find_places(content: Any, writing: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings in some sections that say where files lie, by their full names."""
    settings = {key: value for key, value in _settings(content) if key.split(".")[0] in writing and "." in key}
    return {key: value for key, value in settings.items() if _says_where(key.rpartition(".")[2], value)}


def _says_where(name: str, value: Any) -> bool:
    """Return whether a setting is a place's, or its value a path that leads elsewhere."""
    return bool(PLACE.search(name) and value not in (None, "")) or bool(ELSEWHERE.match(str(value)))


def _check_name(key: str, target: Any, packages: tuple[str, ...]) -> None:
    if not (isinstance(target, str) and NAME.fullmatch(target) and "." in target):
        raise ValueError(f"{key}={show(target)} is no class's name")
    if not is_within(target, (*PACKAGES, *packages)):
        raise ValueError(_refusal(key, target, f"a folder may name classes of {', '.join(PACKAGES)}"))


def _check_class(key: str, target: str, rules: Rules, packages: tuple[str, ...]) -> None:
    if key.split(".")[0] in CALLING and is_within(target, packages):
        function = _find(key, target)
        same = inspect.isroutine(function) and get_object(target) is function
        if same and is_within(function.__module__ or "", packages):
            return
    if not _is_target(key):
        raise ValueError(_refusal(key, target, "it is no function of a trusted package"))
    place = key.removesuffix(f".{TARGET}")
    kind = rules.places.get(place) or rules.places.get(f"{place.rpartition('.')[0]}.*")
    kinds = (kind,) if kind else rules.nested
    found = _load(key, target)
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise ValueError(f"{key}={target} is no {' or '.join(each.__name__ for each in kinds)}")
    if not is_within(found.__module__, (*PACKAGES, *packages)):
        raise ValueError(_refusal(key, f"{found.__module__}.{found.__name__}", f"{target} is only another name for it"))
    if issubclass(found, rules.unasked) and not is_within(found.__module__, packages):
        raise ValueError(_refusal(key, target, "it may write elsewhere or use the network"))


def _load(key: str, target: str) -> Any:
    """Import the class that a name stands for: in a module, and what Hydra takes it for."""
    found = _find(key, target)
    return found if isinstance(found, type) and get_class(target) is found else None


def _find(key: str, target: str) -> Any:
    """Import what a name stands for in a module."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of the user's own does when it is imported
        raise ValueError(f"{key}={target} cannot be imported ({type(error).__name__}: {error})") from error


def _refusal(key: str, target: str, why: str) -> str:
    return f"{key}={target} is not trusted ({why}); if you trust it add trust={target.split('.')[0]}"


def _targets(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield all names of classes and functions, each with its setting's name; nothing for one that is set aside."""
    for key, value in _settings(content):
        may_call = key.split(".")[0] in CALLING and key != "scheduler.monitor"
        if value is not None and (_is_target(key) or (may_call and may_name_function(value))):
            yield key, value


def may_name_function(value: Any) -> bool:
    """Return whether a setting's value is a dotted name, the only kind that is taken for a function's."""
    return isinstance(value, str) and "." in value and bool(NAME.fullmatch(value))


def _is_target(key: str) -> bool:
    return key.split(".")[-1] == TARGET


def _settings(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all settings that are no mappings or lists, by their full names."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, (dict, list)):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
