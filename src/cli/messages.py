"""One-line error messages, which suggest the nearest existing name where a name is wrong."""

import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from src.cli.catalog import (
    CONF,
    find_choices,
    is_evaluation,
    list_choices,
    list_groups,
    list_settings,
    typed_settings,
)
from src.core.checks import escape, show
from src.core.disk import StorageError, find_fault
from src.core.errors import InputError
from src.core.names import guess, guess_words

STARTING = ("cli.py", "composition.py", "train.py", "eval.py")  # this project's files in which a command starts
LONGEST = 600  # characters of a text from Hydra
OF_HYDRA = (
    " Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.",
    ", set env var HYDRA_FULL_ERROR=1 to see chained exception.",
    " object_type=dict",
)
ADDED = (  # arguments of lightning.Trainer that are not in conf/trainer/
    *("benchmark", "detect_anomaly", "enable_autolog_hparams", "gradient_clip_algorithm", "inference_mode", "max_time"),
    *("min_epochs", "min_steps", "reload_dataloaders_every_n_epochs", "sync_batchnorm", "val_check_interval"),
)
ONE_EACH = ("model", "data", "optimizer", "scheduler", "trainer")  # groups with exactly one choice per run
PARTS = tuple(f"{group}." for group in ONE_EACH)  # settings of their classes, which may accept further ones
MISCONFIGURED = "MisconfigurationException"  # what Lightning raises for settings that it does not accept


def input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` among an error and its causes, or one made for a storage fault that a library raised."""
    found = error
    while found is not None and not isinstance(found, InputError):
        found = found.__cause__
    return find_fault(error) if found is None or isinstance(found, StorageError) else found


def can_be_mended(error: BaseException) -> bool:
    """Return True if the user can fix the error, mostly by other settings."""
    typed = isinstance(error, (HydraException, OmegaConfBaseException)) or type(error).__name__ == MISCONFIGURED
    return typed or input_error(error) is not None


def comes_from_hydra(error: BaseException) -> bool:
    """Return True if Hydra or logging raised the error over its settings, before this project's code started."""
    frames = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [path for path in frames if path.is_relative_to(Path(__file__).parents[1])]
    return all(path.name in STARTING for path in own) and frames[-1].name != "cli.py"


def one_line(error: BaseException) -> str:
    """Return an error as one line; for a name that does not exist, with the nearest one that does."""
    found = input_error(error)
    if isinstance(found, StorageError):
        found = found.completed("what was there before is whole", "start again")
    if found:
        text = escape(str(found).replace("\n", " "))
        return text if len(text) <= 2 * LONGEST else f"{text[:LONGEST]} … {text[-LONGEST:]}"
    text = _shortened(str(error))
    if match := re.search(r"Could not find '(.*?)'(?:\s+Available options in '.*?':((?:\n\t\S+)*))?", str(error)):
        return unknown_choice(*_parted(match[1]), (match[2] or "").split())
    if match := re.search(r"Could not delete from config\. '([^']+)' does", text):
        return no_such_setting(match[1])
    if key := find_unknown(error):
        return unknown_setting(key)
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{match[1]}: these are several values; add -m to sweep over them"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]}=… is missing; --help shows what it is"
    if match := re.search(r"Error merging override (.+)", text):
        return f"{match[1]} does not fit ({_shortened(str(error.__cause__ or 'it is another type'))})"
    if match := re.search(r"Ambiguous value for argument '(.*?)'", text):
        name, _, values = match[1].partition("=")
        if name == "sweep":
            return f"{show(match[1])}: a sweep is one preset; run them one after the other"
        list_too = "" if name in ONE_EACH else f", or give a list: '{name}=[{values}]'"
        how = f"add -m to sweep over them{list_too}"
        return f"{show(match[1])}: these are several values; {how}"
    if isinstance(error, HydraException) and (argument := _unreadable()):
        how = "put values with brackets, commas or other signs into quotes: 'key=[1,2]'"
        return f"{show(argument)} cannot be read ({text.split(' See https')[0]}): {how}"
    return text


def find_unknown(error: BaseException) -> str | None:
    """Return the name of the setting that Hydra does not find, if that is the error."""
    found = re.findall(
        r"Could not override '([^']+)'|Could not delete from config\. '([^']+)' does|is not in struct full_key: (\S+)",
        " ".join(f"{error} {error.__cause__}".split()),
    )
    return max(map("".join, found), key=len, default=None)  # the longest is the most precise: data.a for data={a:1}


def one_line_of_hydra(error: BaseException) -> str:
    """Return an error of Hydra or Python's logging about settings as one line."""
    return f"Hydra cannot take these settings ({type(error).__name__}: {_shortened(str(error))})"


def _shortened(text: str) -> str:
    """Return a text on one line, cut to `LONGEST` characters and without Hydra's hints to its own users."""
    text = " ".join(text.split())
    for words in OF_HYDRA:
        text = text.replace(words, "")
    text = escape(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _parted(choice: str) -> tuple[str, str]:
    """Split "hydra/launcher/local" into group and name: ("hydra/launcher", "local")."""
    parts = choice.split("/")
    depth = 2 if parts[0] == "hydra" else 1
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def _unreadable() -> str | None:
    """Return the first argument that Hydra's grammar cannot parse, or ``None``."""
    parser = OverridesParser.create()
    for argument in typed_settings():
        try:
            parser.parse_override(argument)
        except HydraException:
            return argument
    return None


def unknown_choice(group: str, choice: str, there: Sequence[str] = ()) -> str:
    """Return the message about a choice that a group does not have; ``there`` are the choices that Hydra found."""
    choices = sorted({*there, *list_choices(group)})
    known = f"; {group} is one of {', '.join(choices)}" if choices else ""
    return f"{group}={show(choice)}: there is no such choice{_ask(guess(choice, choices))}{known}"


def unknown_setting(key: str) -> str:
    """Return the message about a setting that does not exist or can no longer be changed."""
    if any(arg.startswith("resume=") for arg in sys.argv) and (CONF / key).is_dir():
        return f"{key}=…: a resumed run keeps its {key}; to change it start a new run with ckpt_path="
    if any(arg.partition("=")[0] == f"~{key}" for arg in sys.argv):
        return f"{key} is missing: it was deleted (~{key}), and nothing runs without it"
    if key.startswith("recipe."):
        return f"the presets in use set no {key}: write +{key}=… to add it"
    if key.startswith("hydra.job.env_set"):
        return "hydra.job.env_set is empty: to set a variable write +hydra.job.env_set.NAME=VALUE"
    if key.startswith("hydra."):
        return f"there is no setting {show(key)}; --cfg hydra shows them all"
    return no_such_setting(key)


def no_such_setting(key: str) -> str:
    """Return the message about a setting that does not exist, or not with the current choices."""
    hint = "" if key in list_settings() else hint_at(key)
    if is_evaluation() and (not hint or (CONF / key.partition(".")[0]).is_dir()):
        return f"there is no setting {show(key)}: a run is evaluated with its own settings; --help shows what there is"
    return f"there is no setting {show(key)}{hint}; --cfg job shows them all"


def hint_at(key: str) -> str:
    """Return the end of the message about a wrong name: the setting probably meant; empty if none is near."""
    names, group = [*list_settings(), *list_groups()], key.partition(".")[0]
    if key == f"{group}._target_" or (group == "trainer" and key.removeprefix("trainer.") in ADDED):
        return f": write +{key}=…"
    more = f"; what else the class of {group} takes is added by +{key}=…" if key.startswith(PARTS) else ""
    if not (meant := guess_words(key, names)) and (found := find_choices(lambda those: guess_words(key, those))):
        return f": {found[1]} has {'it' if found[0] == key else f'{found[0]}{more}'}"
    return _ask(meant or guess(key, names)) or more


def find_meant(key: str) -> str | None:
    """Return the setting or group of this name, or else the one with the nearest name."""
    names = [*list_settings(), *list_groups()]
    return key if key in names else guess(key, names)


def _ask(name: str | None) -> str:
    return f", did you mean {name}?" if name else ""
