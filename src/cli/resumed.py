"""``resume=FOLDER`` as Hydra's arguments: that run's own settings, in its folder, and all that is Hydra's from here."""

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

NAME = "resumed"  # the config's, as Hydra knows it
OTHER_CONFIGS = ("--config-p", "-cp", "--config-n", "-cn")  # flags, which may be shortened


def resumed_arguments(arguments: list[str]) -> list[str]:
    """Return a command's arguments with ``resume=FOLDER`` put into effect; without it as they are.

    Raises:
        InputError: if there is no run, its config is damaged or names what a folder must not name.
    """
    asked = [argument for argument in arguments if argument.startswith("resume=") and not is_evaluation()]
    given = OverridesParser.create().parse_override(asked[-1]).value() if asked else None
    if not given:
        return arguments
    if not PATH.allows(given):
        raise InputError(complain("resume", given, PATH))
    own = [f"--config-name={NAME}", "hydra.output_subdir=null"]  # the run's config is kept when it starts
    rest = [each for each in arguments if not each.startswith("resume=") and each not in own]
    if {"-m", "--multirun"} & set(rest):
        raise InputError("resume= goes on with one run: leave out -m")
    if any(each.startswith(OTHER_CONFIGS) for each in rest):
        raise InputError("resume= goes on with the run's own config: leave out --config-path and --config-name")
    folder = Path(str(given)).absolute()
    if not os.path.isfile(folder / FILE):  # also for a name that no file can have
        raise InputError(f"resume={show(given)}: no run there ({folder / FILE} is missing)")
    names = {each.split("=")[0].lstrip("+~") for each in rest if not each.startswith("-")}
    with importing():
        run = open_config(folder, take_trust(rest)[0], names, WRITING)
    refuse_other_weights(run, folder, names)
    tell_hydra(run)
    path = in_quotes(str(folder))
    return [*own, f"hydra.run.dir={path}", f"resume={path}", *rest]  # Hydra takes no flag between settings


def in_quotes(value: str) -> str:
    """Return a value that Hydra takes as it stands; a backslash counts before a quote alone."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"


def tell_hydra(run: DictConfig) -> None:
    """Have Hydra know a run's config as a main one, with Hydra's own settings from conf/train.yaml."""
    main = main_config()
    ours = [entry for entry in main["defaults"] if any("hydra/" in key for key in entry if isinstance(entry, dict))]
    content: Any = OmegaConf.to_container(run)
    node = {"defaults": [*ours, "_self_"], **content, "resume": None, "hydra": main["hydra"]}
    ConfigStore.instance().store(NAME, node)


def refuse_other_weights(run: DictConfig, folder: Path, given: set[str]) -> None:
    """Refuse a run that would start over from weights of a file elsewhere, which the folder names.

    Raises:
        InputError: naming the setting.
    """
    if any((folder / "checkpoints" / f"{name}.ckpt").is_file() for name in ("last", "best")):
        return
    for key in ("ckpt_path", "model.weights"):
        weights = OmegaConf.select(run, key)
        if weights and key not in given and not re.fullmatch("[A-Z][A-Z0-9_]*", str(weights)):  # torchvision's names
            how = "a folder does not choose a file elsewhere; give that, too"
            raise InputError(f"{folder} has no checkpoint yet and starts over from {key}={weights}: {how}")
