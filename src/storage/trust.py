"""Decide which classes and paths a config may name if it was read from a folder, which may be a stranger's.

Settings that the user types are trusted. A folder's config may name classes of this project and its libraries, each of
the type that its setting expects, and classes of other packages only if the user trusts these: ``trust=mylab``. Names
are checked before anything is imported. Functions are called only if they make an optimizer or a scheduler, or a part
of one, and belong to a package that the user trusts.
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

from src.core.checks import Check, allow_any_of, allow_list, allow_null_or, describe_invalid, format_value
from src.core.errors import InputError

TRUSTED_PACKAGES = ("src", "torch.optim", "lightning", "torchvision")
UNTRUSTED_CLASSES = (  # classes of lightning that write to any path, send data elsewhere or start a server
    *("CometLogger", "LitLogger", "MLFlowLogger", "WandbLogger"),
    *("Checkpoint", "ModelCheckpoint", "OnExceptionCheckpoint", "SpikeDetection", "ServableModuleValidator"),
)
TRUST_HELP = "trust=mylab behind the folders: they may name classes of that package, too"  # for --help
TARGET = "_target_"
FUNCTION_SECTIONS = ("optimizer", "scheduler")  # sections that may name functions of trusted packages, also in values
NAME_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
HYDRA_KEY = re.compile(r"_[a-z]+_")  # Hydra's settings of how to make an object, such as _target_
PATH_NAME = re.compile(r"(dir|dirpath|path|folder|root)$", re.IGNORECASE)  # endings of the names of settings with paths
OUTSIDE_PATH = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|.*(://|(^|[/\\])\.\.([/\\]|$))", re.DOTALL)

EXTERNAL_DATA_FOLDERS: set[Path] = (
    set()
)  # data folders named by the config that was opened last: read from, never written to

_PACKAGE = Check(lambda value: isinstance(value, str) and bool(NAME_PATTERN.fullmatch(value)), "a package's name")
TRUST_CHECK = allow_null_or(allow_any_of(_PACKAGE, allow_list(_PACKAGE, "a list of them")))

Classes = tuple[type, ...]


class Rules(NamedTuple):
    """The classes and paths that a config may name.

    Attributes:
        classes: the base class that each setting expects, by the setting's name; "callbacks.*" is each of the section.
        nested: the base classes that any other setting may name.
        untrusted: base classes that are refused unless the user trusts their package.
        writing_sections: the sections in which no setting may be a path.
    """

    classes: Mapping[str, type]
    nested: Classes = ()
    untrusted: Classes = ()
    writing_sections: tuple[str, ...] = ()


def read_packages(value: Any) -> tuple[str, ...]:
    """Return the packages that a value of ``trust=`` names.

    Raises:
        InputError: if it is neither a package's name nor a list of them.
    """
    value = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if not TRUST_CHECK.allows(value):
        raise InputError(describe_invalid("trust", value, TRUST_CHECK))
    return (value,) if isinstance(value, str) else tuple(value or ())


def extract_trust(arguments: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the packages that a command's arguments trust, and the other arguments.

    Raises:
        InputError: if ``trust=`` names anything but packages.
    """
    trusting = [argument for argument in arguments if argument.startswith("trust=")]
    rest = [argument for argument in arguments if argument not in trusting]
    if not trusting:
        return (), rest
    try:
        return read_packages(OverridesParser.create().parse_override(trusting[-1]).value()), rest
    except HydraException:
        return read_packages(trusting[-1].removeprefix("trust=")), rest  # raises a message of ours instead of Hydra's


def format_trust(packages: tuple[str, ...]) -> str:
    """Return packages as a command's last argument, such as " trust=mylab"; an empty text for no packages."""
    if len(packages) < 2:
        return "".join(f" trust={each}" for each in packages)
    return f" 'trust=[{','.join(packages)}]'"


def find_packages(content: Any) -> tuple[str, ...]:
    """Return the packages that must be trusted to open a config, which is given as plain values."""
    names = [(key, str(target)) for key, target in _walk_targets(content) if NAME_PATTERN.fullmatch(str(target))]
    foreign = [
        name
        for key, name in names
        if not _is_within(name, TRUSTED_PACKAGES) or not _is_target(key) or name.rpartition(".")[2] in UNTRUSTED_CLASSES
    ]
    return tuple(dict.fromkeys(name.split(".")[0] for name in foreign))


def _is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Return True if a dotted name lies in one of the packages."""
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def is_external_data(folder: Path) -> bool:
    """Return True if a folder lies in a data folder named by a run's config, where nothing may be written."""
    return any(folder.resolve().is_relative_to(lent) for lent in EXTERNAL_DATA_FOLDERS)


def check_trust(content: Any, source: Path, rules: Rules, packages: tuple[str, ...]) -> None:
    """Refuse a config with classes or paths that it must not name.

    Args:
        content: plain values, references resolved.
        source: the config's file.
        rules: the classes and paths that are allowed.
        packages: the packages that the user trusts in addition to `TRUSTED_PACKAGES`.

    Raises:
        InputError: naming the first forbidden setting, and how to allow it.
    """
    try:
        targets = list(_walk_targets(content))
        for key, target in targets:
            _check_name(key, target, packages)
        _check_settings(content, rules)
        for key, target in targets:
            _check_class(key, target, rules, packages)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _check_settings(content: Any, rules: Rules) -> None:
    """Raise `ValueError` for settings of Hydra's own, and for paths in the sections that write files."""
    for key, value in _walk_settings(content):
        *above, name = key.split(".")
        if TARGET in above or any(HYDRA_KEY.fullmatch(part) and part != TARGET for part in (*above, name)):
            raise ValueError(f"{key}={format_value(value)}: a folder's config must not set how classes are created")
    for key, value in find_path_settings(content, rules.writing_sections).items():
        problem = "a folder's config must not name paths outside it; to resume, give the setting again"
        raise ValueError(f"{key}={format_value(value)}: {problem}")


def find_path_settings(content: Any, sections: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings in the sections ``sections`` that are paths, by their full names."""
    settings = {key: value for key, value in _walk_settings(content) if key.split(".")[0] in sections and "." in key}
    return {key: value for key, value in settings.items() if _is_path_setting(key.rpartition(".")[2], value)}


def _is_path_setting(name: str, value: Any) -> bool:
    """Return True if a setting's name is that of a path, or its value is a path that leads outside."""
    return bool(PATH_NAME.search(name) and value not in (None, "")) or bool(OUTSIDE_PATH.match(str(value)))


def _check_name(key: str, target: Any, packages: tuple[str, ...]) -> None:
    if not (isinstance(target, str) and NAME_PATTERN.fullmatch(target) and "." in target):
        raise ValueError(f"{key}={format_value(target)} is not a class's name")
    if not _is_within(target, (*TRUSTED_PACKAGES, *packages)):
        raise ValueError(_format_refusal(key, target, f"a folder may name classes of {', '.join(TRUSTED_PACKAGES)}"))


def _check_class(key: str, target: str, rules: Rules, packages: tuple[str, ...]) -> None:
    if key.split(".")[0] in FUNCTION_SECTIONS and _is_within(target, packages):
        function = _import_object(key, target)
        same = inspect.isroutine(function) and get_object(target) is function
        if same and _is_within(function.__module__ or "", packages):
            return
    if not _is_target(key):
        raise ValueError(_format_refusal(key, target, "it is not a function of a trusted package"))
    setting = key.removesuffix(f".{TARGET}")
    kind = rules.classes.get(setting) or rules.classes.get(f"{setting.rpartition('.')[0]}.*")
    kinds = (kind,) if kind else rules.nested
    found = _load_class(key, target)
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise ValueError(f"{key}={target} is not a {' or '.join(each.__name__ for each in kinds)}")
    if not _is_within(found.__module__, (*TRUSTED_PACKAGES, *packages)):
        raise ValueError(
            _format_refusal(key, f"{found.__module__}.{found.__name__}", f"{target} is only another name for it")
        )
    if issubclass(found, rules.untrusted) and not _is_within(found.__module__, packages):
        raise ValueError(_format_refusal(key, target, "it may write elsewhere or use the network"))


def _load_class(key: str, target: str) -> Any:
    """Import and return a class; return ``None`` if it is not a class, or Hydra finds another one by this name."""
    found = _import_object(key, target)
    return found if isinstance(found, type) and get_class(target) is found else None


def _import_object(key: str, target: str) -> Any:
    """Import and return the object with a dotted name."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # importing a user's module may raise anything
        raise ValueError(f"{key}={target} cannot be imported ({type(error).__name__}: {error})") from error


def _format_refusal(key: str, target: str, reason: str) -> str:
    return f"{key}={target} is not trusted ({reason}); if you trust it add trust={target.split('.')[0]}"


def _walk_targets(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield each setting that names a class or a function, with its value; settings that are ``None`` are skipped."""
    for key, value in _walk_settings(content):
        may_call = key.split(".")[0] in FUNCTION_SECTIONS and key != "scheduler.monitor"
        if value is not None and (_is_target(key) or (may_call and can_name_function(value))):
            yield key, value


def can_name_function(value: Any) -> bool:
    """Return True if a setting's value is a dotted name, the only form in which a function can be named."""
    return isinstance(value, str) and "." in value and bool(NAME_PATTERN.fullmatch(value))


def _is_target(key: str) -> bool:
    return key.split(".")[-1] == TARGET


def _walk_settings(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full names and values of all settings that are neither mappings nor lists."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, (dict, list)):
            yield from _walk_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
