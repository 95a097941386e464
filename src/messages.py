"""What is told of an error: one line, with the nearest right name where a name is wrong."""

import difflib
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.core.checks import escape, show
from src.core.storage import StorageError, find_fault
from src.errors import InputError

CONF = Path(__file__).parent.parent / "conf"
LONGEST = 600  # characters of a text of Hydra's
OF_HYDRA = (
    " Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.",
    ", set env var HYDRA_FULL_ERROR=1 to see chained exception.",
    " object_type=dict",
)
MISCONFIGURED = "MisconfigurationException"  # Lightning's name for settings that it does not take


def input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` among an error and its causes; one for a fault of the disk, whichever library met it."""
    found = error
    while found is not None and not isinstance(found, InputError):
        found = found.__cause__
    return find_fault(error) if found is None or isinstance(found, StorageError) else found


def can_be_mended(error: BaseException) -> bool:
    """Return whether an error tells of settings that its user can put right."""
    typed = isinstance(error, (HydraException, OmegaConfBaseException)) or type(error).__name__ == MISCONFIGURED
    return typed or input_error(error) is not None


def comes_from_hydra(error: BaseException) -> bool:
    """Return whether an error arose before anything of ours began: Hydra and logging took what was typed amiss."""
    frames = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [path for path in frames if path.is_relative_to(Path(__file__).parent)]
    return all(path.name in ("cli.py", "train.py", "eval.py") for path in own) and frames[-1].name != "cli.py"


def one_line(error: BaseException) -> str:
    """Return an error as one line; for names that do not exist, with the nearest that does."""
    found = input_error(error)
    if isinstance(found, StorageError):
        found = found.completed("what was there before is whole", "start again")
    if found:
        return escape(str(found).replace("\n", " "))
    text = _shortened(str(error))
    if match := re.search(r"Could not find '(.*?)' Available options|Could not find '(.*?)'", text):
        return unknown_choice(*_parted(match[1] or match[2]))
    if match := re.search(r"Could not delete from config\. '([^']+)' does", text):
        return no_such_setting(match[1])
    if key := find_unknown(error):
        return unknown_setting(key)
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]}=… is missing; --help shows what it is"
    if isinstance(error, HydraException) and (argument := _unreadable()):
        how = "put values with brackets, commas or other signs into quotes: 'key=[1,2]'"
        return f"{show(argument)} cannot be read ({text.split(' See https')[0]}): {how}"
    return text


def find_unknown(error: BaseException) -> str | None:
    """Return the name of the setting that Hydra does not find, if that is the error."""
    found = re.search(
        r"Could not override '([^']+)'|Could not delete from config\. '([^']+)' does|is not in struct full_key: (\S+)",
        _shortened(str(error)),
    )
    return next(filter(None, found.groups())) if found else None


def one_line_of_hydra(error: BaseException) -> str:
    """Return as one line what Hydra, or Python's logging, says of settings that it cannot take."""
    told = f"Hydra cannot take these settings ({type(error).__name__}: {_shortened(str(error))})"
    return _unnamed_choice() or told


def _shortened(text: str) -> str:
    """Return a text on one line, not too long, and without what only Hydra's own users know."""
    text = " ".join(text.split())
    for words in OF_HYDRA:
        text = text.replace(words, "")
    text = escape(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _parted(choice: str) -> tuple[str, str]:
    """Return the group and the name of "hydra/launcher/local"."""
    parts = choice.split("/")
    depth = 2 if parts[0] == "hydra" else 1
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def _given() -> list[str]:
    return [argument for argument in sys.argv[1:] if not argument.startswith("-")]


def _unreadable() -> str | None:
    """Return the argument that Hydra's grammar does not take."""
    parser = OverridesParser.create()
    for argument in _given():
        try:
            parser.parse_override(argument)
        except HydraException:
            return argument
    return None


def _unnamed_choice() -> str | None:
    """Return what is wrong with a choice that is no name, which Hydra does not look for."""
    for argument in [] if _unreadable() else _given():
        override = OverridesParser.create().parse_override(argument)
        value, group = override.value(), override.key_or_group
        names = value if isinstance(value, list) else [value]
        if _is_group(group) and not all(isinstance(name, str) for name in names) and not isinstance(value, dict):
            return unknown_choice(group, argument.partition("=")[2])
    return None


def _is_group(name: str) -> bool:
    return name.startswith("hydra/") or (bool(name) and (CONF / name).is_dir())


def unknown_choice(group: str, choice: str) -> str:
    """Return what to tell of a choice that a group does not have."""
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    known = f"; {group} is one of {', '.join(choices)}" if choices else ""
    return f"{group}={show(choice)}: there is no such choice{nearest(choice, choices)}{known}"


def unknown_setting(key: str) -> str:
    """Return what to tell of a setting that there is not, or no longer."""
    if any(arg.startswith("resume=") for arg in sys.argv) and (CONF / key).is_dir():
        return f"{key}=…: a resumed run keeps its {key}; to change it start a new run with ckpt_path="
    if any(arg.partition("=")[0] == f"~{key}" for arg in sys.argv):
        return f"{key} is missing: it was deleted (~{key}), and nothing runs without it"
    if key.startswith("recipe."):
        return f"the presets in use set no {key}: write +{key}=… to add it"
    return no_such_setting(key)


def no_such_setting(key: str, choices: tuple[str, ...] = ()) -> str:
    """Return what to tell of a setting that there is not, with choices beside the command line's."""
    groups = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
    return (
        f"there is no setting {show(key)}{nearest(key, [*known_settings(choices), *groups])}; --cfg job shows them all"
    )


def nearest(name: str, names: list[str]) -> str:
    """Return ", did you mean …?" if a name is near."""
    found = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    return f", did you mean {found[0]}?" if found else ""


def known_settings(more: tuple[str, ...] = ()) -> list[str]:
    """Return all settings' names under the choices that the command line makes (those that exist), and some more."""
    parts = [argument.split("=", 1) for argument in (*_given(), *more) if "=" in argument]
    choices = {group: f"{group}={value}" for group, value in parts if value in _choices(group)}
    return _composed_names("eval" if "eval" in Path(sys.argv[0]).stem else "train", tuple(choices.values()))


def _choices(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")} if _is_group(group) else set()


@cache
def _composed_names(config: str, choices: tuple[str, ...]) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return flat_names(OmegaConf.to_container(compose(config, list(choices)), resolve=False))


def flat_names(node: Any, prefix: str = "") -> list[str]:
    """Return the full names of all settings below a node."""
    if not isinstance(node, dict):
        return []
    names = [f"{prefix}{key}" for key in node]
    return names + [name for key, value in node.items() for name in flat_names(value, f"{prefix}{key}.")]
