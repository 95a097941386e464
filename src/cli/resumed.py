"""Translation of ``resume=FOLDER`` for Hydra: the run's own config and folder, with this project's Hydra settings."""

import os
import re
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.cli.catalog import is_evaluation
from src.cli.startup import disable_gc_for_imports
from src.core.checks import PATH, describe_invalid, format_value
from src.core.errors import InputError
from src.storage.configs import CONFIG_FILE, WRITING_SECTIONS, load_main_config, open_config
from src.storage.trust import extract_trust

CONFIG_NAME = "resumed"  # the name under which Hydra's config store holds the run's config
OWN_ARGUMENTS = (f"--config-name={CONFIG_NAME}", "hydra.output_subdir=null")  # the run saves its config itself
CONFIG_FLAGS = ("--config-p", "-cp", "--config-n", "-cn")  # prefixes: argparse allows shortened flags


def expand_resume(arguments: list[str]) -> list[str]:
    """Return a command's arguments with ``resume=FOLDER`` replaced by the run's config; unchanged without it.

    Raises:
        InputError: if there is no run, or its config is damaged or names a class or path that is not trusted.
    """
    if (found := register_resumed(arguments)) is None:
        return arguments
    path, rest = found
    return [*OWN_ARGUMENTS, f"hydra.run.dir={path}", f"resume={path}", *rest]  # flags first: Hydra accepts none later


def register_resumed(arguments: list[str]) -> tuple[str, list[str]] | None:
    """Register the config of the run that ``resume=FOLDER`` names with Hydra, as `CONFIG_NAME`.

    Returns:
        The folder, quoted for Hydra, and the other arguments; ``None`` if no run is resumed.

    Raises:
        InputError: as `expand_resume`.
    """
    asked = [argument for argument in arguments if argument.startswith("resume=") and not is_evaluation()]
    given = OverridesParser.create().parse_override(asked[-1]).value() if asked else None
    if not given:
        return None
    if not PATH.allows(given):
        raise InputError(describe_invalid("resume", given, PATH))
    rest = [other for other in arguments if not other.startswith("resume=") and other not in OWN_ARGUMENTS]
    if {"-m", "--multirun"} & set(rest):
        raise InputError("resume= continues one run: leave out -m")
    if any(other.startswith(CONFIG_FLAGS) for other in rest):
        raise InputError("resume= uses the run's own config: leave out --config-path and --config-name")
    folder = Path(str(given)).absolute()
    if not os.path.isfile(folder / CONFIG_FILE):  # also False for an impossible file name
        raise InputError(f"resume={format_value(given)}: no run there ({folder / CONFIG_FILE} is missing)")
    names = {other.split("=")[0].lstrip("+~") for other in rest if not other.startswith("-")}
    with disable_gc_for_imports():
        run = open_config(folder, extract_trust(rest)[0], names, WRITING_SECTIONS)
    if not any((folder / "checkpoints" / f"{name}.ckpt").is_file() for name in ("last", "best")):
        refuse_foreign_weights(run, folder, names)
    _register_run_config(run)
    return quote_for_hydra(str(folder)), rest


def quote_for_hydra(value: str) -> str:
    """Return a value quoted for Hydra, in whose grammar a backslash escapes only before a quote."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"


def _register_run_config(run: DictConfig) -> None:
    """Register a run's config with Hydra as a primary config, with Hydra's own settings from conf/train.yaml."""
    main = load_main_config()
    ours = [entry for entry in main["defaults"] if any("hydra/" in key for key in entry if isinstance(entry, dict))]
    content: Any = OmegaConf.to_container(run)
    node = {"defaults": [*ours, "_self_"], **content, "resume": None, "hydra": main["hydra"]}
    ConfigStore.instance().store(CONFIG_NAME, node)


def refuse_foreign_weights(run: DictConfig, folder: Path, overridden: set[str]) -> None:
    """Refuse to start a run over whose config names a weights file to start from.

    The folder may come from someone else and must not choose a file elsewhere; the user may, on the command line.

    Raises:
        InputError: naming the setting.
    """
    for key in ("ckpt_path", "model.weights"):
        weights = OmegaConf.select(run, key)
        # A name in capitals is one of torchvision's weights, not a file.
        if weights and key not in overridden and not re.fullmatch("[A-Z][A-Z0-9_]*", str(weights)):
            how = f"a folder must not choose a file elsewhere; give {key}=… on the command line, too"
            raise InputError(f"{folder} starts over from {key}={weights}: {how}")
