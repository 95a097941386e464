"""Open the config in a run's folder, and compare two configs."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.core.errors import InputError
from src.core.places import CONF
from src.storage.moved import restore_names, restore_settings, update_config
from src.storage.plain import read_yaml
from src.storage.references import UNRESOLVED, check_expanded_size, extract_external_references
from src.storage.strays import refuse_strays
from src.storage.trust import EXTERNAL_DATA_FOLDERS, Rules, check_trust, find_packages, find_path_settings

CONFIG_FILE = Path(".hydra", "config.yaml")  # relative to a run's folder
BASE_CLASSES = {  # the base class of each part
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
SINGLE_SECTIONS = ("data", "model", "optimizer", "trainer")  # sections that describe one object each
MULTI_SECTIONS = ("callbacks", "logger")  # sections with any number of objects
WRITING_SECTIONS = (*MULTI_SECTIONS, "trainer")  # sections whose objects write files

# Settings that do not change a run's result: paths, whether files are verified, the device, and how the run is started.
NON_IDENTIFYING = (
    "data.cache",
    "data.root",
    "data.stream",
    "data.verify",
    "data_on_device",
    "name",
    "paths.",
    "preview",
    "recipe.",  # the settings that use these values are compared instead
    "rerun",
    "resume",
    "threads",
    "trust",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)

# Data sets that are files of one's own: there ``data.root`` says which data, not only where they are.
OWN_FILES = ("src.data.image_folder.",)

# Settings that were added later, with the values that give the behaviour of runs from before they existed.
ADDED_DEFAULTS: dict[str, Any] = {
    "monitor": None,
    "mode": None,
    "test": True,
    "cuda_graph": True,
    "ema": None,
    "metrics": [],
    "model.class_weights": None,
    "data.mixup": 0.0,
    "data.cutmix": 0.0,
    "data.masks": None,
    "data.classes": None,
}


def read_config(folder: Path) -> DictConfig:
    """Return the config of the run in a folder for comparison only: nothing may be instantiated from it.

    Raises:
        InputError: if the config is missing or damaged.
    """
    content = _read_content(folder)
    extract_external_references(content)
    return OmegaConf.create(content)


def open_config(
    folder: Path, packages: tuple[str, ...], overridden: Iterable[str] = (), writing_sections: tuple[str, ...] = ()
) -> DictConfig:
    """Return the config of the run in a folder to instantiate its objects; the config may be a stranger's.

    The data are read from the folder that the config names, if it exists; all other paths are this project's.

    Args:
        folder: the run's folder.
        packages: the packages that the user trusts, see `src.storage.trust`.
        overridden: names of settings that the user overrides; the config's values for them are ignored.
        writing_sections: the sections, such as "callbacks", whose objects will write files.

    Raises:
        InputError: if the config is missing, damaged, or names a class or a path that it must not name.
    """
    content, source = _read_content(folder), folder / CONFIG_FILE
    overridden = set(overridden)
    _reset_settings(content, overridden)
    foreign = extract_external_references(content)
    _resolve_paths(content, overridden, foreign)
    for key, text in foreign.items():
        how = f"write its value there, or to resume give {key}=…"
        raise InputError(f"{source}: {key}: {text} is not resolved, since the folder may be a stranger's; {how}")
    check_trust(_resolve_references(content, source), source, _make_rules(writing_sections), packages)
    return OmegaConf.create({**content, "trust": None})


def _read_content(folder: Path) -> dict[str, Any]:
    """Return the content of a run's config, after checking its folder, its sections and its references."""
    refuse_strays(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"run={folder}: no run there ({path} is missing)")
    content = update_config(read_yaml(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it has no settings")
    for part in ("hydra", "defaults"):
        if part in content:
            raise InputError(f"{path}: {part} is for Hydra, and a run's config must not have it: remove it")
    try:
        _check_sections(content)
        check_expanded_size(content)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return content


def _check_sections(content: dict[str, Any]) -> None:
    """Raise `ValueError` if a section is missing or an object in it does not name its class."""
    for name in (*SINGLE_SECTIONS, *MULTI_SECTIONS, "scheduler"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"it has no {name}")
    parts = {name: content[name] for name in SINGLE_SECTIONS}
    parts |= {
        f"{name}.{key}": part for name in MULTI_SECTIONS for key, part in content[name].items() if part is not None
    }
    for name, part in parts.items():
        if not isinstance(part, dict) or part.get("_target_") is None:
            raise ValueError(f"{name} has no _target_")


def _reset_settings(content: dict[str, Any], overridden: set[str]) -> None:
    """Set the settings with these names to ``None`` if they exist; a top-level section is left as it is."""
    for key in overridden:
        *above, name = key.split(".")
        holder: Any = content
        for part in above:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and name in holder and (above or not isinstance(holder[name], dict)):
            holder[name] = None


def _resolve_paths(content: dict[str, Any], overridden: set[str], external: dict[str, str]) -> None:
    """Replace a config's paths by this project's, except for existing data folders (`EXTERNAL_DATA_FOLDERS`).

    Settings that are replaced are removed from ``external``, the settings with external references.
    """
    paths, data = content.get("paths"), content["data"]
    paths = paths if isinstance(paths, dict) else {}
    EXTERNAL_DATA_FOLDERS.clear()
    content["paths"] = {**paths, **load_main_config()["paths"]}
    for key in [key for key in external if key == "data.root" or key.startswith("paths.")]:
        del external[key]
    if _is_folder(paths.get("data")):
        content["paths"]["data"] = paths["data"]
        EXTERNAL_DATA_FOLDERS.add(Path(paths["data"]).resolve())
    if isinstance(data.get("root"), str) and "${" not in data["root"]:
        if _is_folder(data["root"]) and "paths.data" not in overridden:
            EXTERNAL_DATA_FOLDERS.add(Path(data["root"]).resolve())
        elif "paths.data" in overridden or not str(data["_target_"]).startswith(OWN_FILES):
            data["root"] = "${paths.data}"
    if "cache" in data and "data.cache" not in overridden:
        data["cache"] = "${paths.outputs}/cache"  # files are written there


def _is_folder(path: Any) -> bool:
    return isinstance(path, str) and path not in ("", UNRESOLVED) and "${" not in path and Path(path).is_dir()


def _resolve_references(content: dict[str, Any], source: Path) -> Any:
    """Return a config as plain values with references resolved."""
    try:
        return OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{source} is damaged: {' '.join(str(error).split())}") from error


def find_needed_trust(cfg: DictConfig) -> tuple[str, ...]:
    """Return the packages that must be trusted to open a run with this config again."""
    return find_packages(OmegaConf.to_container(cfg))


def find_path_overrides(cfg: DictConfig) -> list[str]:
    """Return the overrides for paths, such as "trainer.default_root_dir=…", that a command to resume this run needs."""
    paths = find_path_settings(OmegaConf.to_container(cfg, resolve=True), WRITING_SECTIONS)
    return [f"{key}={value}" for key, value in paths.items()]


def explain_unopenable(cfg: DictConfig) -> str:
    """Return the reason why no command can open a run with this config again, whatever it trusts; "" if one can."""
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    # A later command instantiates only these sections, so that only they can be the reason.
    for name in [key for key in content if key not in (*SINGLE_SECTIONS, *MULTI_SECTIONS, "scheduler")]:
        del content[name]
    try:
        check_trust(content, CONFIG_FILE, _make_rules(()), find_needed_trust(cfg))
    except InputError as error:
        return str(error).removeprefix(f"{CONFIG_FILE}: ")
    return ""


def load_main_config() -> dict[str, Any]:
    """Return this project's conf/train.yaml as plain values, uncomposed."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    return content


def _make_rules(writing_sections: tuple[str, ...]) -> Rules:
    """Return the rules for the classes and paths that a run's config may name."""
    from lightning import Callback, LightningDataModule  # importing it takes seconds, see `src.train`
    from lightning.pytorch import callbacks, loggers
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    classes = {f"{name}.*" if name in MULTI_SECTIONS else name: get_class(kind) for name, kind in BASE_CLASSES.items()}
    elsewhere = (loggers.CometLogger, loggers.LitLogger, loggers.MLFlowLogger, loggers.WandbLogger)
    unasked: tuple[type, ...] = (callbacks.Checkpoint, callbacks.SpikeDetection, *elsewhere)
    with suppress(ImportError):  # a server of models; without the package requests no config can name it either
        from lightning.pytorch.serve import ServableModuleValidator

        unasked = (*unasked, ServableModuleValidator)
    return Rules(classes, (nn.Module, Optimizer, LRScheduler, Callback, LightningDataModule), unasked, writing_sections)


def find_changes(before: DictConfig, after: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by their full names, each with its values before and after.

    Settings whose value before is an external reference, which is not resolved, are left out.
    """
    old, new = ADDED_DEFAULTS | flatten_config(before), ADDED_DEFAULTS | flatten_config(after)
    keys = [key for key in [*old, *[key for key in new if key not in old]] if UNRESOLVED not in str(old.get(key))]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def select_identifying(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that can change a run's result, as they were called first; all are given by full names."""
    own = {key: value for key, value in restore_settings(settings).items() if is_identifying(key, settings)}
    return {
        key: restore_names(value)
        for key, value in own.items()
        if key not in ADDED_DEFAULTS or value != ADDED_DEFAULTS[key]
    }


def is_identifying(key: str, settings: Mapping[str, Any]) -> bool:
    """Return True if a setting, of a run with these settings by their full names, can change the run's result."""
    if key in ("data.root", "data.task"):
        is_own = str(settings.get("data._target_")).startswith(OWN_FILES)
        return is_own if key == "data.root" else not is_own or settings[key] is not None  # the latter was added later
    return not key.startswith(NON_IDENTIFYING)


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Return a config's settings by their full names, without Hydra's own; a list counts as one value."""
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
