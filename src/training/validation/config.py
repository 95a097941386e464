"""Validation of a run's config before any data are loaded.

The parts must exist and name classes of the right kind. A setting must pass its check in settings.py or,
if that has none, match the type hint of its class.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import isroutine
from os.path import isfile
from typing import Any, NamedTuple

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from src.core.checks import describe_invalid, format_value
from src.core.errors import InputError
from src.core.hints import describe_type, get_hints, get_parameters, is_of_type
from src.core.names import suggest_name
from src.storage.configs import BASE_CLASSES
from src.training.validation.settings import CHECKS, EVALUATION, EXPORT, PREDICTION

NO_CLASS = "it is not a class"
MULTI_GROUPS = ("callbacks", "logger")  # groups with several named parts
OPTIONAL_GROUPS = ("scheduler", *MULTI_GROUPS)
KNOWN_PACKAGES = ("src.", "torch.", "lightning.")
DEFAULTED_SETTINGS = ("monitor", "mode")  # of a callback: null stands for the run's monitored metric and its mode
FACTORY_GROUPS = ("optimizer", "scheduler")  # a function that makes the object may stand for the class
SCHEDULE_PLACEHOLDERS = ("total_steps", "lr")  # in a schedule's settings: for the run's number of steps, learning rate
TIMM = "src.models.pretrained.Timm"
NETWORKS_BY_NAME = ("src.models.pretrained.Torchvision", TIMM)  # their networks are those of model.arch
FIXED_NETWORKS = {"src.models.resnet18.ResNet18": "resnet18"}  # classes, and the name of their network in torchvision
COMMON_DATA_SETTINGS = ("data.batch_size",)  # same meaning in any data module
HYDRA_KEYS = ("_partial_", "_args_")  # with these Hydra would create something else than the part


class Component(NamedTuple):
    """An object of a run: its full name, its settings, and the name of the base class that it must have."""

    name: str
    settings: Any
    base_class: str


def check_config(cfg: DictConfig) -> None:
    """Raise an error if no run can have this config.

    Settings that the config lacks are skipped, and so are those that only user-defined classes have.

    Raises:
        InputError: naming each wrong setting, its value and what it must be.
    """
    unresolved: Any = OmegaConf.to_container(cfg, resolve=False)
    unresolved.pop("hydra", None)  # jobs of a stack have this section too, and it cannot be fully resolved there
    settings = {str(key): _resolve(cfg[key]) for key in unresolved}
    wrong = find_wrong_settings(settings, unresolved) + _find_unread_settings(settings, str(unresolved))
    if not cfg.get("resume"):  # a resumed run no longer needs the files
        wrong += find_missing_files(settings)
    if wrong:
        raise InputError("; ".join(wrong))


def _resolve(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def find_wrong_settings(settings: Mapping[str, Any], unresolved: Mapping[str, Any] | None = None) -> list[str]:
    """Return what is wrong with a run's settings, one line per error.

    Args:
        settings: nested plain values.
        unresolved: the same settings with unresolved references. A setting that only refers to another wrong one is not
            reported.
    """
    wrong = _find_missing_groups(settings)
    skipped = []
    for part in find_components(settings):
        if error := _find_class_error(part):
            wrong.append(error)
            skipped.append(part.name)
            continue
        wrong += _find_wrong_types(part)
        if not part.settings["_target_"].startswith(KNOWN_PACKAGES):
            skipped += [f"{part.name}.{key}" for key in part.settings if not _is_known_setting(part, key)]
    own = PREDICTION if "top" in settings else EXPORT if "format" in settings else EVALUATION
    used = own if "run" in settings else {}
    checks = CHECKS | used
    values = {name: _lookup_setting(settings, name) for name in checks if not _is_within(name, skipped)}
    bad = {name: value for name, (exists, value) in values.items() if exists and not checks[name].allows(value)}
    texts = {name: str(_lookup_setting(unresolved or {}, name)[1]) for name in bad}
    # A setting that refers to another wrong one is wrong only because of it: report the origin alone.
    origins = [name for name in bad if not any(_is_referenced(other, texts[name]) for other in bad)]
    return wrong + [describe_invalid(name, bad[name], checks[name]) for name in origins]


def _is_known_setting(component: Component, key: str) -> bool:
    """Return True if a part's setting is declared by a class of this project, torch or Lightning, also by inheritance.

    It separates the known settings of a user-defined subclass from those that it adds. ``data.batch_size`` is known in
    any data module.
    """
    kind = find_class(component.settings["_target_"])
    declared = get_parameters(kind).get(key) if isinstance(kind, type) else None
    return f"{component.name}.{key}" in COMMON_DATA_SETTINGS or (
        declared is not None and declared.__module__.startswith(KNOWN_PACKAGES)
    )


def _is_within(name: str, sections: list[str]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _find_missing_groups(settings: Mapping[str, Any]) -> list[str]:
    """Return an error for each group that a full run config lacks; an evaluation config may lack any."""
    groups = [name for name in BASE_CLASSES if "." not in name and {"name", "seed"} <= settings.keys()]
    wrong = [name for name in groups if not isinstance(settings.get(name), Mapping)]
    return [f"{name} is missing: it was deleted (~{name}, {name}=null), and a run needs it" for name in wrong]


def find_components(settings: Mapping[str, Any]) -> Iterator[Component]:
    """Yield the objects that a run consists of."""
    for name, kind in BASE_CLASSES.items():
        exists, value = _lookup_setting(settings, name)
        if name in MULTI_GROUPS and isinstance(value, Mapping):
            yield from (Component(f"{name}.{key}", node, kind) for key, node in value.items() if node is not None)
        elif exists and isinstance(value, Mapping) and (value or name not in OPTIONAL_GROUPS):
            yield Component(name, value, kind)


def _lookup_setting(settings: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Return True and the value of a setting if it exists, else False and ``None``."""
    node: Any = settings
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False, None
        node = node[key]
    return True, node


def _find_class_error(component: Component) -> str | None:
    """Return what is wrong with the class of a part; ``None`` if it is of the right kind."""
    if not isinstance(component.settings, Mapping) or "_target_" not in component.settings:
        if component.name == "scheduler":
            return f"scheduler.{next(iter(component.settings))}: no scheduler is chosen; choose scheduler=…"
        return f"{component.name} must have a class: {component.name}._target_=…"
    target = component.settings["_target_"]
    setting = f"{component.name}._target_={format_value(target)}"
    if not isinstance(target, str):
        return f"{setting} must be the name of a class"
    found = find_class(target)
    if isinstance(found, str):
        is_factory = component.name in FACTORY_GROUPS and found == NO_CLASS and isroutine(get_object(target))
        return None if is_factory else f"{setting}: {found}"
    if not issubclass(found, find_class(component.base_class)):  # type: ignore[arg-type]
        return f"{setting} must be a class of {component.base_class}"
    if extra := [key for key in HYDRA_KEYS if key in component.settings]:
        return f"{component.name}.{extra[0]}: a {component.name.split('.')[0]} has no such setting"
    return None


@cache
def find_class(target: str) -> type | str:
    """Return the class with a name, or a text that says why there is none."""
    try:
        found = get_object(target)
    except Exception as error:  # the import may raise anything
        cause = error.__cause__ or error
        return f"there is no such class ({type(cause).__name__}: {cause})"
    return found if isinstance(found, type) else NO_CLASS


def _find_wrong_types(component: Component) -> list[str]:
    """Return an error for each of a part's settings that is not in the table and does not fit its type hint."""
    found = find_class(component.settings["_target_"])
    hints = get_hints(found) if isinstance(found, type) else {}
    functions = [key for key in component.settings if key.endswith("_fn") and key not in hints]
    if component.name.startswith("callbacks."):  # some pass their settings on to a class that is not a callback
        hints = {**hints, **dict.fromkeys(functions, Callable[..., Any])}
    own = {
        key: value for key, value in component.settings.items() if key in functions or _is_known_setting(component, key)
    }
    unknown = {key: value for key, value in own.items() if f"{component.name}.{key}" not in CHECKS}
    return [
        f"{component.name}.{key}={format_value(value)} must be {describe_type(hints[key])}"
        for key, value in unknown.items()
        if key in hints and not is_of_type(value, hints[key]) and not _is_placeholder(component.name, key, value)
    ]


def _is_placeholder(component: str, key: str, value: Any) -> bool:
    """Return True if a value is a placeholder for one that is filled in later."""
    if component in FACTORY_GROUPS and isinstance(value, str) and "." in value:
        return True  # the name of a function
    return (value is None and key in DEFAULTED_SETTINGS) or (
        component == "scheduler" and value in SCHEDULE_PLACEHOLDERS
    )


def _find_unread_settings(settings: Mapping[str, Any], unresolved: str) -> list[str]:
    """Return an error for each setting that nothing reads: no part of a run, and no other setting's reference."""
    known = {name.split(".")[0] for name in [*BASE_CLASSES, *CHECKS, *EVALUATION, *PREDICTION, *EXPORT]}
    found = [key for key in settings if key not in known]
    for group in ("recipe", "paths"):
        found += [name for name in _get_leaf_names(settings.get(group), f"{group}.") if name not in CHECKS]
    found = [name for name in found if not _is_referenced(name, unresolved)]
    existing = _get_leaf_names(settings, "")
    hints = {
        name: f", did you mean {near}?" for name in found if (near := suggest_name(name, set(existing) - set(found)))
    }
    return [
        f"{format_value(name)}: there is no such setting{hints.get(name, ', and no other refers to it')}"
        for name in found
    ]


def _is_referenced(name: str, unresolved: str) -> bool:
    """Return True if a reference names a setting or a section that contains it, also relatively (``${..lr}``)."""
    *above, last = map(re.escape, name.split("."))
    sections = [r"\.".join(above[: depth + 1]) + r"(?=[,}])" for depth in range(len(above))]
    names = "|".join([r"\.".join([*above, last]) + r"\b", *sections, rf"\.+{last}\b"])
    return re.search(rf"\${{[^{{}}]*(?<![\w.])(?:{names})", unresolved) is not None


def _get_leaf_names(node: Any, prefix: str) -> list[str]:
    """Return the full names of the values below a node."""
    if not isinstance(node, Mapping):
        return []
    nested = {f"{prefix}{key}": value for key, value in node.items()}
    return [name for key, value in nested.items() for name in (_get_leaf_names(value, f"{key}.") or [key])]


def find_missing_files(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the checkpoints that a new run is to start from."""
    path, weights = settings.get("ckpt_path"), _lookup_setting(settings, "model.weights")[1]
    wrong = []
    if path and weights:
        wrong.append("ckpt_path and model.weights both set the initial weights: use only one of them")
    if isinstance(path, str) and not isfile(path):
        wrong.append(f"ckpt_path={format_value(path)}: there is no such file")
    return wrong + _find_unpublished(settings)


def _find_unpublished(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the names of a network and of its weights that others published."""
    target, arch, weights = (_lookup_setting(settings, f"model.{key}")[1] for key in ("_target_", "arch", "weights"))
    arch = FIXED_NETWORKS.get(str(target), arch if target in NETWORKS_BY_NAME else None)
    if not isinstance(arch, str) or (target in FIXED_NETWORKS and weights is None):
        return []
    # Importing torchvision's models is slow.
    from src.models.published import networks, timm_networks

    library: Any = timm_networks if target == TIMM else networks
    if wrong := library.find_wrong_name(arch):
        return [wrong]
    if not isinstance(weights, str) or weights in (names := library.get_published_names(arch)) or isfile(weights):
        return []
    there = f"published weights are {', '.join(names) or 'none'}"
    return [f"model.weights={format_value(weights)}: there is no such file, and {there}"]
