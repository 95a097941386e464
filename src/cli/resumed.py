"""Translation of ``resume=FOLDER`` for Hydra: the run's own config and folder, with this project's Hydra settings."""

import os
import re
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.cli.catalog import is_evaluation
from src.cli.startup import importing
from src.core.checks import PATH, complain, show
from src.core.errors import InputError
from src.storage.configs import FILE, WRITING, main_config, open_config
from src.storage.trust import take_trust

NAME = "resumed"  # the name under which Hydra's config store holds the run's config
OTHER_CONFIGS = ("--config-p", "-cp", "--config-n", "-cn")  # prefixes: argparse allows shortened flags


def resumed_arguments(arguments: list[str]) -> list[str]:
    """Return a command's arguments with ``resume=FOLDER`` replaced by the run's config; unchanged without it.

    Raises:
        InputError: if there is no run, or its config is damaged or names a class or path that is not trusted.
    """
    asked = [argument for argument in arguments if argument.startswith("resume=") and not is_evaluation()]
    given = OverridesParser.create().parse_override(asked[-1]).value() if asked else None
    if not given:
        return arguments
    if not PATH.allows(given):
        raise InputError(complain("resume", given, PATH))
    own = [f"--config-name={NAME}", "hydra.output_subdir=null"]  # the run saves its config itself when it starts
    rest = [other for other in arguments if not other.startswith("resume=") and other not in own]
    if {"-m", "--multirun"} & set(rest):
        raise InputError("resume= goes on with one run: leave out -m")
    if any(other.startswith(OTHER_CONFIGS) for other in rest):
        raise InputError("resume= goes on with the run's own config: leave out --config-path and --config-name")
    folder = Path(str(given)).absolute()
    if not os.path.isfile(folder / FILE):  # also False for an impossible file name
        raise InputError(f"resume={show(given)}: no run there ({folder / FILE} is missing)")
    names = {other.split("=")[0].lstrip("+~") for other in rest if not other.startswith("-")}
    with importing():
        run = open_config(folder, take_trust(rest)[0], names, WRITING)
    refuse_other_weights(run, folder, names)
    tell_hydra(run)
    path = in_quotes(str(folder))
    return [*own, f"hydra.run.dir={path}", f"resume={path}", *rest]  # flags first: Hydra accepts none between settings


def in_quotes(value: str) -> str:
    """Return a value quoted for Hydra, in whose grammar a backslash escapes only before a quote."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"


def tell_hydra(run: DictConfig) -> None:
    """Register a run's config with Hydra as a primary config, with Hydra's own settings from conf/train.yaml."""
    main = main_config()
    ours = [entry for entry in main["defaults"] if any("hydra/" in key for key in entry if isinstance(entry, dict))]
    content: Any = OmegaConf.to_container(run)
    node = {"defaults": [*ours, "_self_"], **content, "resume": None, "hydra": main["hydra"]}
    ConfigStore.instance().store(NAME, node)


def refuse_other_weights(run: DictConfig, folder: Path, given: set[str]) -> None:
    """Refuse a run without a checkpoint whose config names a weights file to start from.

    The folder may come from someone else and must not choose a file elsewhere; the user may, on the command line.

    Raises:
        InputError: naming the setting.
    """
    if any((folder / "checkpoints" / f"{name}.ckpt").is_file() for name in ("last", "best")):
        return
    for key in ("ckpt_path", "model.weights"):
        weights = OmegaConf.select(run, key)
        # A name in capitals is one of torchvision's weights, not a file.
        if weights and key not in given and not re.fullmatch("[A-Z][A-Z0-9_]*", str(weights)):
            how = "a folder does not choose a file elsewhere; give that, too"
            raise InputError(f"{folder} has no checkpoint yet and starts over from {key}={weights}: {how}")
