"""A run's config as its folder keeps it, and what differs between two."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.cli.messages import CONF
from src.core.errors import InputError
from src.storage.moved import restore_names, update_names
from src.storage.plain import read_yaml
from src.storage.references import UNKNOWN, check_extent, take_out_foreign
from src.storage.strays import refuse_strays
from src.storage.trust import LENT, Rules, check_trust, find_packages, find_places

FILE = Path(".hydra", "config.yaml")  # in a run's folder
PARTS = ("data", "model", "optimizer", "trainer")
SEVERAL = ("callbacks", "logger")  # sections of parts
WRITING = (*SEVERAL, "trainer")  # sections whose parts write files

# What does not make a run another: where its files lie, if they are verified, what it runs on, how it is started.
APART = (
    "data.root",
    "data.verify",
    "data_on_device",
    "name",
    "paths.",
    "recipe.",  # what of it is used stands where it is used
    "rerun",
    "resume",
    "threads",
    "trust",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)

# Settings that came later, and the values at which a run is what it was before there were any.
LATER: dict[str, Any] = {"monitor": None, "mode": None, "test": True, "cuda_graph": True}


def read_config(folder: Path) -> DictConfig:
    """Return the config of the run in a folder to compare it with another; nothing may be made from it.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    content = _read_content(folder)
    take_out_foreign(content)
    return OmegaConf.create(content)


def open_config(
    folder: Path, packages: tuple[str, ...], given: Iterable[str] = (), writing: tuple[str, ...] = ()
) -> DictConfig:
    """Return the config of the run in a folder to make the run's parts from it; it may be a stranger's.

    Its data are read where it says, if it names a folder that is there; all other paths are those of this project.

    Args:
        folder: the run's.
        packages: what the user trusts, see `src.storage.trust`.
        given: names of settings that the user gives anew; what the config has there is set aside.
        writing: the sections, such as "callbacks", whose parts will write files.

    Raises:
        InputError: if there is none, it is damaged, or names what a folder must not name.
    """
    content, source = _read_content(folder), folder / FILE
    given = set(given)
    _set_aside(content, given)
    foreign = take_out_foreign(content)
    _settle_paths(content, given, foreign)
    for key, text in foreign.items():
        how = f"write its value there, or to resume give {key}=…"
        raise InputError(f"{source}: {key}: {text} is not looked up, since the folder may be a stranger's; {how}")
    check_trust(_resolved(content, source), source, _rules(writing), packages)
    return OmegaConf.create({**content, "trust": None})


def _read_content(folder: Path) -> dict[str, Any]:
    """Return what a run's config holds: all its parts, references that are not endless, nothing of Hydra's."""
    refuse_strays(folder)
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"run={folder}: no run there ({path} is missing)")
    content = update_names(read_yaml(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it has no settings")
    for part in ("hydra", "defaults"):
        if part in content:
            raise InputError(f"{path}: {part} is for Hydra, and a folder has no say in that: take it out")
    try:
        _check_parts(content)
        check_extent(content)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return content


def _check_parts(content: dict[str, Any]) -> None:
    """Raise an error if a part of a run is missing or does not name its class."""
    for name in (*PARTS, *SEVERAL, "scheduler"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"it has no {name}")
    parts = {name: content[name] for name in PARTS}
    parts |= {f"{name}.{key}": part for name in SEVERAL for key, part in content[name].items() if part is not None}
    for name, part in parts.items():
        if not isinstance(part, dict) or part.get("_target_") is None:
            raise ValueError(f"{name} does not say what it is")


def _set_aside(content: dict[str, Any], given: set[str]) -> None:
    """Empty the settings of these names, as far as they are there and no sections."""
    for key in given:
        *above, name = key.split(".")
        holder: Any = content
        for part in above:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and name in holder and (above or not isinstance(holder[name], dict)):
            holder[name] = None


def _settle_paths(content: dict[str, Any], given: set[str], foreign: dict[str, str]) -> None:
    """Have a config's paths be those of this project, but for folders with data that are there."""
    paths, data = content.get("paths"), content["data"]
    paths = paths if isinstance(paths, dict) else {}
    LENT.clear()
    content["paths"] = {**paths, **main_config()["paths"]}
    for key in [key for key in foreign if key == "data.root" or key.startswith("paths.")]:
        del foreign[key]
    if _is_folder(paths.get("data")):
        content["paths"]["data"] = paths["data"]
        LENT.add(Path(paths["data"]).resolve())
    if isinstance(data.get("root"), str) and "${" not in data["root"]:
        if _is_folder(data["root"]) and "paths.data" not in given:
            LENT.add(Path(data["root"]).resolve())
        else:
            data["root"] = "${paths.data}"


def _is_folder(path: Any) -> bool:
    return isinstance(path, str) and path not in ("", UNKNOWN) and "${" not in path and Path(path).is_dir()


def _resolved(content: dict[str, Any], source: Path) -> Any:
    """Return a config's plain values with references resolved."""
    try:
        return OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{source} is damaged: {' '.join(str(error).split())}") from error


def needed_trust(cfg: DictConfig) -> tuple[str, ...]:
    """Return the packages that must be trusted to open a run again that has this config."""
    return find_packages(OmegaConf.to_container(cfg))


def find_places_to_give(cfg: DictConfig) -> list[str]:
    """Return the settings, as they are typed, that a command gives anew which goes on with a run of this config."""
    places = find_places(OmegaConf.to_container(cfg, resolve=True), WRITING)
    return [f"{key}={value}" for key, value in places.items()]


def why_closed(cfg: DictConfig) -> str:
    """Return why no command opens a run of this config again, whatever is trusted; "" if one does."""
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    for name in [key for key in content if key not in (*PARTS, *SEVERAL, "scheduler")]:
        del content[name]
    try:
        check_trust(content, FILE, _rules(()), needed_trust(cfg))
    except InputError as error:
        return str(error).removeprefix(f"{FILE}: ")
    return ""


def main_config() -> dict[str, Any]:
    """Return this project's own conf/train.yaml as it is written."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    return content


def _rules(writing: tuple[str, ...]) -> Rules:
    """Return what a run's config may name."""
    from lightning import Callback, LightningDataModule  # takes seconds, see `src.train`
    from lightning.pytorch import callbacks, loggers
    from lightning.pytorch.serve import ServableModuleValidator
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from src.training.validation.config import KINDS

    places = {f"{name}.*" if name in SEVERAL else name: get_class(kind) for name, kind in KINDS.items()}
    elsewhere = (loggers.CometLogger, loggers.LitLogger, loggers.MLFlowLogger, loggers.WandbLogger)
    unasked = (callbacks.Checkpoint, callbacks.SpikeDetection, ServableModuleValidator, *elsewhere)
    return Rules(places, (nn.Module, Optimizer, LRScheduler, Callback, LightningDataModule), unasked, writing)


def changes(before: DictConfig, after: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by their full names; one whose value before is not looked up does not."""
    old, new = LATER | flat(before), LATER | flat(after)
    keys = [key for key in [*old, *[key for key in new if key not in old]] if UNKNOWN not in str(old.get(key))]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def select_identifying(settings: dict[str, Any]) -> dict[str, Any]:
    """Return of settings by their full names those that make a run another."""
    own = {key: value for key, value in settings.items() if not key.startswith(APART)}
    return {key: restore_names(value) for key, value in own.items() if key not in LATER or value != LATER[key]}


def flat(config: DictConfig) -> dict[str, Any]:
    """Settings by their full names, with their values, Hydra's own apart; a list is a value."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    parts = {key: config[key] for key in config if key != "hydra"}
    nested = {key: part for key, part in parts.items() if OmegaConf.is_config(part)}
    walk(parts | {key: OmegaConf.to_container(part, resolve=True) for key, part in nested.items()}, "")
    return found
