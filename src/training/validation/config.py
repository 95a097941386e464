"""A run's config, held to what its settings have to be before any data are loaded.

The parts have to be there and name classes of the right kind; a setting has to be what the table in settings.py
says, and one that only its class knows has to be of the type that the class asks for.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import isroutine
from os.path import isfile
from typing import Any, NamedTuple

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from src.core.checks import complain, show
from src.core.errors import InputError
from src.core.hints import fits, hints_of, parameters_of, spell
from src.core.names import guess
from src.training.validation.settings import CHECKS, EVALUATION

KINDS = {  # of what class each part has to be
    "model": "lightning.LightningModule",
    "data": "lightning.LightningDataModule",
    "optimizer": "torch.optim.Optimizer",
    "scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "trainer": "lightning.Trainer",
    "callbacks": "lightning.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
    "trainer.profiler": "lightning.pytorch.profilers.Profiler",
    "trainer.strategy": "lightning.pytorch.strategies.Strategy",
}
NO_CLASS = "that is no class"
SEVERAL = ("callbacks", "logger")  # groups of parts, by names of their own
MAY_BE_EMPTY = ("scheduler", *SEVERAL)
OURS = ("src.", "torch.", "lightning.")
FILLED_IN = ("monitor", "mode")  # of a callback: null stands for what the run is judged by
MAY_BE_FUNCTIONS = ("optimizer", "scheduler")  # that make one
STAND_INS = ("total_steps", "lr")  # of a schedule's settings: for numbers of the run
OF_ALL_DATA = ("data.batch_size",)  # what they mean, whatever the data module
OF_HYDRA = ("_partial_", "_args_")  # with them Hydra would make something else of a part


class Part(NamedTuple):
    """An object of a run: its full name, its settings, and the class that it has to be of."""

    name: str
    settings: Any
    kind: str


def check(cfg: DictConfig) -> None:
    """Refuse a config that no run can have.

    Settings that a config does not have are passed over, and those that only classes of one's own have.

    Raises:
        InputError: naming each wrong setting, its value and what it must be.
    """
    unresolved: Any = OmegaConf.to_container(cfg, resolve=False)
    unresolved.pop("hydra", None)  # a stack's jobs have it, too, and not all of it can be resolved there
    settings = {str(key): _resolve(cfg[key]) for key in unresolved}
    wrong = wrong_settings(settings, unresolved) + unread(settings, str(unresolved))
    if not cfg.get("resume"):  # a resumed run needs them no more
        wrong += missing_files(settings)
    if wrong:
        raise InputError("; ".join(wrong))


def _resolve(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def wrong_settings(settings: Mapping[str, Any], written: Mapping[str, Any] | None = None) -> list[str]:
    """Return what is wrong with a run's settings, a line for each.

    Args:
        settings: plain values, nested.
        written: the same with references as they are written: what only takes over a wrong value is not told.
    """
    wrong = missing_groups(settings)
    passed_over = []
    for part in parts(settings):
        if told := wrong_part(part):
            wrong.append(told)
            passed_over.append(part.name)
            continue
        wrong += wrong_types(part)
        if not part.settings["_target_"].startswith(OURS):
            passed_over += [f"{part.name}.{key}" for key in part.settings if not _is_shared(part, key)]
    checks = CHECKS | EVALUATION if "run" in settings else CHECKS
    values = {name: look_up(settings, name) for name in checks if not _is_within(name, passed_over)}
    bad = {name: value for name, (there, value) in values.items() if there and not checks[name].allows(value)}
    texts = {name: str(look_up(written or {}, name)[1]) for name in bad}
    first = [name for name in bad if not any(_is_referred_to(each, texts[name]) for each in bad)]
    return wrong + [complain(name, bad[name], checks[name]) for name in first]


def _is_shared(part: Part, key: str) -> bool:
    """Return whether a setting of a class of one's own is one of ours: a class of ours that it builds on declares it.

    A data module that builds on none has the settings of data modules as well.
    """
    kind = found_class(part.settings["_target_"])
    declared = parameters_of(kind).get(key) if isinstance(kind, type) else None
    return f"{part.name}.{key}" in OF_ALL_DATA or (declared is not None and declared.__module__.startswith(OURS))


def _is_within(name: str, sections: list[str]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def missing_groups(settings: Mapping[str, Any]) -> list[str]:
    """Return which groups a whole config of a run lacks; evaluation needs none."""
    groups = [name for name in KINDS if "." not in name and {"name", "seed"} <= settings.keys()]
    wrong = [name for name in groups if not isinstance(settings.get(name), Mapping)]
    return [f"{name} is missing: it was deleted (~{name}, {name}=null), and nothing runs without it" for name in wrong]


def parts(settings: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the objects that a run is made of."""
    for name, kind in KINDS.items():
        there, value = look_up(settings, name)
        if name in SEVERAL and isinstance(value, Mapping):
            yield from (Part(f"{name}.{key}", each, kind) for key, each in value.items() if each is not None)
        elif there and isinstance(value, Mapping) and (value or name not in MAY_BE_EMPTY):
            yield Part(name, value, kind)


def look_up(settings: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Return whether a setting is there, and its value."""
    node: Any = settings
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False, None
        node = node[key]
    return True, node


def wrong_part(part: Part) -> str | None:
    """Return what is wrong with the class of a part; ``None`` if it is of the right kind."""
    if not isinstance(part.settings, Mapping) or "_target_" not in part.settings:
        if part.name == "scheduler":
            return f"scheduler.{next(iter(part.settings))}: there is no scheduler to take it; choose scheduler=…"
        return f"{part.name} must have a class: {part.name}._target_=…"
    target = part.settings["_target_"]
    told = f"{part.name}._target_={show(target)}"
    if not isinstance(target, str):
        return f"{told} must be the name of a class"
    found = found_class(target)
    if isinstance(found, str):
        makes_one = part.name in MAY_BE_FUNCTIONS and found == NO_CLASS and isroutine(get_object(target))
        return None if makes_one else f"{told}: {found}"
    if not issubclass(found, found_class(part.kind)):  # type: ignore[arg-type]
        return f"{told} must be a class of {part.kind}"
    if extra := [key for key in OF_HYDRA if key in part.settings]:
        return f"{part.name}.{extra[0]}: a {part.name.split('.')[0]} takes no such setting"
    return None


@cache
def found_class(target: str) -> type | str:
    """Return the class of a name, or why there is none."""
    try:
        found = get_object(target)
    except Exception as error:  # of the import, too
        cause = error.__cause__ or error
        return f"there is no such class ({type(cause).__name__}: {cause})"
    return found if isinstance(found, type) else NO_CLASS


def wrong_types(part: Part) -> list[str]:
    """Return which settings of a part that the table does not have are not what its class asks for."""
    found = found_class(part.settings["_target_"])
    hints = hints_of(found) if isinstance(found, type) else {}
    functions = [key for key in part.settings if key.endswith("_fn") and key not in hints]
    if part.name.startswith("callbacks."):  # some hand their settings on to what is not a callback
        hints = {**hints, **dict.fromkeys(functions, Callable[..., Any])}
    shared = {key: value for key, value in part.settings.items() if key in functions or _is_shared(part, key)}
    unknown = {key: value for key, value in shared.items() if f"{part.name}.{key}" not in CHECKS}
    return [
        f"{part.name}.{key}={show(value)} must be {spell(hints[key])}"
        for key, value in unknown.items()
        if key in hints and not fits(value, hints[key]) and not _stands_in(part.name, key, value)
    ]


def _stands_in(part: str, key: str, value: Any) -> bool:
    """Return whether a value stands for one that is known later."""
    if part in MAY_BE_FUNCTIONS and isinstance(value, str) and "." in value:
        return True  # a function's name
    return (value is None and key in FILLED_IN) or (part == "scheduler" and value in STAND_INS)


def unread(settings: Mapping[str, Any], unresolved: str) -> list[str]:
    """Return which settings nothing reads: neither a part of a run nor a reference of another setting."""
    known = {name.split(".")[0] for name in [*KINDS, *CHECKS, *EVALUATION]}
    found = [key for key in settings if key not in known]
    for group in ("recipe", "paths"):
        found += [name for name in leaves(settings.get(group), f"{group}.") if name not in CHECKS]
    found = [name for name in found if not _is_referred_to(name, unresolved)]
    there = leaves(settings, "")
    hints = {name: f", did you mean {near}?" for name in found if (near := guess(name, set(there) - set(found)))}
    return [f"{show(name)}: there is no such setting{hints.get(name, ', and no other refers to it')}" for name in found]


def _is_referred_to(name: str, unresolved: str) -> bool:
    """Return whether a reference in a config names a setting or a section that it is in, also by dots (``${..lr}``)."""
    *above, last = map(re.escape, name.split("."))
    sections = [r"\.".join(above[: depth + 1]) + r"(?=[,}])" for depth in range(len(above))]
    names = "|".join([r"\.".join([*above, last]) + r"\b", *sections, rf"\.+{last}\b"])
    return re.search(rf"\${{[^{{}}]*(?<![\w.])(?:{names})", unresolved) is not None


def leaves(node: Any, prefix: str) -> list[str]:
    """Return the full names of the values below a node."""
    if not isinstance(node, Mapping):
        return []
    nested = {f"{prefix}{key}": value for key, value in node.items()}
    return [name for key, value in nested.items() for name in (leaves(value, f"{key}.") or [key])]


def missing_files(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the checkpoints that a new run is to start from."""
    path, weights = settings.get("ckpt_path"), look_up(settings, "model.weights")[1]
    wrong = []
    if path and weights:
        wrong.append("ckpt_path and model.weights both give the first weights: use one of them")
    if isinstance(path, str) and not isfile(path):
        wrong.append(f"ckpt_path={show(path)}: there is no such file")
    if isinstance(weights, str) and look_up(settings, "model._target_")[1] == "src.models.resnet18.ResNet18":
        from src.models.resnet18 import published_names  # torchvision's models take a while to import

        if weights not in published_names() and not isfile(weights):
            names = ", ".join(published_names())
            wrong.append(f"model.weights={show(weights)}: there is no such file, and published weights are {names}")
    return wrong
