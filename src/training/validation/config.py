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

from src.core.checks import complain, show
from src.core.errors import InputError
from src.core.hints import fits, hints_of, parameters_of, spell
from src.core.names import guess
from src.training.validation.settings import CHECKS, EVALUATION

KINDS = {  # the base class of each part
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
SEVERAL = ("callbacks", "logger")  # groups with several named parts
MAY_BE_EMPTY = ("scheduler", *SEVERAL)
OURS = ("src.", "torch.", "lightning.")
FILLED_IN = ("monitor", "mode")  # of a callback: null stands for the run's monitored metric and its mode
MAY_BE_FUNCTIONS = ("optimizer", "scheduler")  # a function that makes the object may stand for the class
STAND_INS = ("total_steps", "lr")  # in a schedule's settings: for the run's number of steps, learning rate
OF_ALL_DATA = ("data.batch_size",)  # same meaning in any data module
OF_HYDRA = ("_partial_", "_args_")  # with these Hydra would create something else than the part


class Part(NamedTuple):
    """An object of a run: its full name, its settings, and the name of the base class that it must have."""

    name: str
    settings: Any
    kind: str


def check(cfg: DictConfig) -> None:
    """Raise an error if no run can have this config.

    Settings that the config lacks are skipped, and so are those that only user-defined classes have.

    Raises:
        InputError: naming each wrong setting, its value and what it must be.
    """
    unresolved: Any = OmegaConf.to_container(cfg, resolve=False)
    unresolved.pop("hydra", None)  # jobs of a stack have this section too, and it cannot be fully resolved there
    settings = {str(key): _resolve(cfg[key]) for key in unresolved}
    wrong = wrong_settings(settings, unresolved) + unread(settings, str(unresolved))
    if not cfg.get("resume"):  # a resumed run no longer needs the files
        wrong += missing_files(settings)
    if wrong:
        raise InputError("; ".join(wrong))


def _resolve(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def wrong_settings(settings: Mapping[str, Any], written: Mapping[str, Any] | None = None) -> list[str]:
    """Return what is wrong with a run's settings, one line per error.

    Args:
        settings: nested plain values.
        written: the same settings with unresolved references. A setting that only refers to another wrong one is not
            reported.
    """
    wrong = missing_groups(settings)
    skipped = []
    for part in parts(settings):
        if error := wrong_part(part):
            wrong.append(error)
            skipped.append(part.name)
            continue
        wrong += wrong_types(part)
        if not part.settings["_target_"].startswith(OURS):
            skipped += [f"{part.name}.{key}" for key in part.settings if not _is_shared(part, key)]
    checks = CHECKS | EVALUATION if "run" in settings else CHECKS
    values = {name: look_up(settings, name) for name in checks if not _is_within(name, skipped)}
    bad = {name: value for name, (exists, value) in values.items() if exists and not checks[name].allows(value)}
    texts = {name: str(look_up(written or {}, name)[1]) for name in bad}
    # A setting that refers to another wrong one is wrong only because of it: report the origin alone.
    origins = [name for name in bad if not any(_is_referred_to(other, texts[name]) for other in bad)]
    return wrong + [complain(name, bad[name], checks[name]) for name in origins]


def _is_shared(part: Part, key: str) -> bool:
    """Return True if a part's setting is declared by a class of this project, torch or Lightning, also by inheritance.

    It separates the known settings of a user-defined subclass from those that it adds. ``data.batch_size`` is known in
    any data module.
    """
    kind = found_class(part.settings["_target_"])
    declared = parameters_of(kind).get(key) if isinstance(kind, type) else None
    return f"{part.name}.{key}" in OF_ALL_DATA or (declared is not None and declared.__module__.startswith(OURS))


def _is_within(name: str, sections: list[str]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def missing_groups(settings: Mapping[str, Any]) -> list[str]:
    """Return an error for each group that a full run config lacks; an evaluation config may lack any."""
    groups = [name for name in KINDS if "." not in name and {"name", "seed"} <= settings.keys()]
    wrong = [name for name in groups if not isinstance(settings.get(name), Mapping)]
    return [f"{name} is missing: it was deleted (~{name}, {name}=null), and nothing runs without it" for name in wrong]


def parts(settings: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the objects that a run consists of."""
    for name, kind in KINDS.items():
        exists, value = look_up(settings, name)
        if name in SEVERAL and isinstance(value, Mapping):
            yield from (Part(f"{name}.{key}", node, kind) for key, node in value.items() if node is not None)
        elif exists and isinstance(value, Mapping) and (value or name not in MAY_BE_EMPTY):
            yield Part(name, value, kind)


def look_up(settings: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Return True and the value of a setting if it exists, else False and ``None``."""
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
    setting = f"{part.name}._target_={show(target)}"
    if not isinstance(target, str):
        return f"{setting} must be the name of a class"
    found = found_class(target)
    if isinstance(found, str):
        is_factory = part.name in MAY_BE_FUNCTIONS and found == NO_CLASS and isroutine(get_object(target))
        return None if is_factory else f"{setting}: {found}"
    if not issubclass(found, found_class(part.kind)):  # type: ignore[arg-type]
        return f"{setting} must be a class of {part.kind}"
    if extra := [key for key in OF_HYDRA if key in part.settings]:
        return f"{part.name}.{extra[0]}: a {part.name.split('.')[0]} takes no such setting"
    return None


@cache
def found_class(target: str) -> type | str:
    """Return the class with a name, or a text that says why there is none."""
    try:
        found = get_object(target)
    except Exception as error:  # the import may raise anything
        cause = error.__cause__ or error
        return f"there is no such class ({type(cause).__name__}: {cause})"
    return found if isinstance(found, type) else NO_CLASS


def wrong_types(part: Part) -> list[str]:
    """Return an error for each of a part's settings that is not in the table and does not fit its type hint."""
    found = found_class(part.settings["_target_"])
    hints = hints_of(found) if isinstance(found, type) else {}
    functions = [key for key in part.settings if key.endswith("_fn") and key not in hints]
    if part.name.startswith("callbacks."):  # some pass their settings on to a class that is not a callback
        hints = {**hints, **dict.fromkeys(functions, Callable[..., Any])}
    own = {key: value for key, value in part.settings.items() if key in functions or _is_shared(part, key)}
    unknown = {key: value for key, value in own.items() if f"{part.name}.{key}" not in CHECKS}
    return [
        f"{part.name}.{key}={show(value)} must be {spell(hints[key])}"
        for key, value in unknown.items()
        if key in hints and not fits(value, hints[key]) and not _stands_in(part.name, key, value)
    ]


def _stands_in(part: str, key: str, value: Any) -> bool:
    """Return True if a value is a placeholder for one that is filled in later."""
    if part in MAY_BE_FUNCTIONS and isinstance(value, str) and "." in value:
        return True  # the name of a function
    return (value is None and key in FILLED_IN) or (part == "scheduler" and value in STAND_INS)


def unread(settings: Mapping[str, Any], unresolved: str) -> list[str]:
    """Return an error for each setting that nothing reads: no part of a run, and no other setting's reference."""
    known = {name.split(".")[0] for name in [*KINDS, *CHECKS, *EVALUATION]}
    found = [key for key in settings if key not in known]
    for group in ("recipe", "paths"):
        found += [name for name in leaves(settings.get(group), f"{group}.") if name not in CHECKS]
    found = [name for name in found if not _is_referred_to(name, unresolved)]
    existing = leaves(settings, "")
    hints = {name: f", did you mean {near}?" for name in found if (near := guess(name, set(existing) - set(found)))}
    return [f"{show(name)}: there is no such setting{hints.get(name, ', and no other refers to it')}" for name in found]


def _is_referred_to(name: str, unresolved: str) -> bool:
    """Return True if a reference names a setting or a section that contains it, also relatively (``${..lr}``)."""
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
        from src.models.resnet18 import published_names  # importing torchvision's models is slow

        if weights not in published_names() and not isfile(weights):
            names = ", ".join(published_names())
            wrong.append(f"model.weights={show(weights)}: there is no such file, and published weights are {names}")
    return wrong
