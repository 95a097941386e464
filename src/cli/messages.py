"""One-line error messages, which suggest the nearest existing name where a name is wrong."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from src.cli.catalog import (
    find_choices,
    get_typed_settings,
    is_evaluation,
    list_choices,
    list_groups,
    list_settings,
)
from src.core.checks import format_escaped, format_value
from src.core.disk import StorageError, find_storage_error
from src.core.errors import InputError
from src.core.names import suggest_by_words, suggest_name
from src.core.places import CONF

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0") and "LOCAL_RANK" not in os.environ
# The files of this project in which a command starts.
ENTRY_FILES = ("main.py", "startup.py", "names.py", "folders.py", "train.py", "eval.py", "predict.py", "export.py")
MAX_LENGTH = 600  # characters of a text from Hydra
HYDRA_PHRASES = (
    " Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.",
    ", set env var HYDRA_FULL_ERROR=1 to see chained exception.",
    " object_type=dict",
)
EXTRA_TRAINER_ARGUMENTS = (  # arguments of lightning.Trainer that are not in conf/trainer/
    *("benchmark", "detect_anomaly", "enable_autolog_hparams", "gradient_clip_algorithm", "inference_mode", "max_time"),
    *("min_epochs", "min_steps", "reload_dataloaders_every_n_epochs", "sync_batchnorm", "val_check_interval"),
)
SINGLE_CHOICE_GROUPS = ("model", "data", "optimizer", "scheduler", "trainer")  # groups with exactly one choice per run
CLASS_PREFIXES = tuple(
    f"{group}." for group in SINGLE_CHOICE_GROUPS
)  # settings of their classes, which may accept further ones
MISCONFIGURED = "MisconfigurationException"  # what Lightning raises for settings that it does not accept


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` among an error and its causes, or one made for a storage fault that a library raised."""
    found = error
    while found is not None and not isinstance(found, InputError):
        found = found.__cause__
    return find_storage_error(error) if found is None or isinstance(found, StorageError) else found


def is_fixable(error: BaseException) -> bool:
    """Return True if the user can fix the error, mostly by other settings."""
    typed = isinstance(error, (HydraException, OmegaConfBaseException)) or type(error).__name__ == MISCONFIGURED
    return typed or find_input_error(error) is not None


def is_hydra_error(error: BaseException) -> bool:
    """Return True if Hydra or logging raised the error over its settings, before this project's code started."""
    frames = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [path for path in frames if path.is_relative_to(Path(__file__).parents[1])]
    return all(path.name in ENTRY_FILES for path in own) and frames[-1:] != own[-1:]


def format_error(error: BaseException) -> str:
    """Return an error as one line; for a name that does not exist, with the nearest one that does."""
    found = find_input_error(error)
    if isinstance(found, StorageError):
        found = found.with_advice("earlier files are unchanged", "start again")
    if found:
        text = format_escaped(str(found).replace("\n", " "))
        return text if len(text) <= 2 * MAX_LENGTH else f"{text[:MAX_LENGTH]} … {text[-MAX_LENGTH:]}"
    text = _format_hydra_text(str(error))
    if match := re.search(r"Could not find '(.*?)'(?:\s+Available options in '.*?':((?:\n\t\S+)*))?", str(error)):
        return describe_unknown_choice(*_split_choice(match[1]), (match[2] or "").split())
    if match := re.search(r"Could not delete from config\. '([^']+)' does", text):
        return describe_unknown_setting(match[1])
    if key := find_unknown_setting(error):
        return _explain_unknown_setting(key)
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"{match[1]}: these are several values; add -m to sweep over them"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]}=… is missing; --help shows what it is"
    if match := re.search(r"Error merging override (.+)", text):
        return f"{match[1]} does not fit ({_format_hydra_text(str(error.__cause__ or 'it has another type'))})"
    if match := re.search(r"Ambiguous value for argument '(.*?)'", text):
        name, _, values = match[1].partition("=")
        if name == "sweep":
            return f"{format_value(match[1])}: a sweep is one preset; run them one after the other"
        list_too = "" if name in SINGLE_CHOICE_GROUPS else f", or give a list: '{name}=[{values}]'"
        how = f"add -m to sweep over them{list_too}"
        return f"{format_value(match[1])}: these are several values; {how}"
    if isinstance(error, HydraException) and (argument := _find_unparsable_argument()):
        how = "put values with brackets, commas or other special characters in quotes: 'key=[1,2]'"
        return f"{format_value(argument)} cannot be read ({text.split(' See https')[0]}): {how}"
    return text


def find_unknown_setting(error: BaseException) -> str | None:
    """Return the name of the setting that Hydra does not find, if that is the error."""
    found = re.findall(
        r"Could not override '([^']+)'|Could not delete from config\. '([^']+)' does|is not in struct full_key: (\S+)",
        " ".join(f"{error} {error.__cause__}".split()),
    )
    return max(map("".join, found), key=len, default=None)  # the longest is the most precise: data.a for data={a:1}


def format_hydra_error(error: BaseException) -> str:
    """Return an error of Hydra or Python's logging about settings as one line."""
    return f"Hydra cannot use these settings ({type(error).__name__}: {_format_hydra_text(str(error))})"


def _format_hydra_text(text: str) -> str:
    """Return a text on one line, cut to `MAX_LENGTH` characters and without Hydra's hints to its own users."""
    text = " ".join(text.split())
    for words in HYDRA_PHRASES:
        text = text.replace(words, "")
    text = format_escaped(text)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def _split_choice(choice: str) -> tuple[str, str]:
    """Split "hydra/launcher/local" into group and name: ("hydra/launcher", "local")."""
    parts = choice.split("/")
    depth = 2 if parts[0] == "hydra" else 1
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def _find_unparsable_argument() -> str | None:
    """Return the first argument that Hydra's grammar cannot parse, or ``None``."""
    parser = OverridesParser.create()
    for argument in get_typed_settings():
        try:
            parser.parse_override(argument)
        except HydraException:
            return argument
    return None


def describe_unknown_choice(group: str, choice: str, available: Sequence[str] = ()) -> str:
    """Return the message about a choice that a group does not have; ``available`` are the choices that Hydra found."""
    choices = sorted({*(name for name in available if not name.startswith("_")), *list_choices(group)})
    known = f"; {group} is one of {', '.join(choices)}" if choices else ""
    return (
        f"{group}={format_value(choice)}: there is no such "
        f"choice{_format_suggestion(suggest_name(choice, choices))}{known}"
    )


def _explain_unknown_setting(key: str) -> str:
    """Return the message about a setting that does not exist or can no longer be changed."""
    if any(arg.startswith("resume=") for arg in sys.argv) and (CONF / key).is_dir():
        return f"{key}=…: a resumed run keeps its {key}; to change it start a new run with ckpt_path="
    if any(arg.partition("=")[0] == f"~{key}" for arg in sys.argv):
        return f"{key} is missing: it was deleted (~{key}), and a run needs it"
    if key.startswith("recipe."):
        return f"the presets in use set no {key}: write +{key}=… to add it"
    if key.startswith("hydra.job.env_set"):
        return "hydra.job.env_set is empty: to set a variable write +hydra.job.env_set.NAME=VALUE"
    if key.startswith("hydra."):
        return f"there is no setting {format_value(key)}; --cfg hydra shows them all"
    return describe_unknown_setting(key)


def describe_unknown_setting(key: str) -> str:
    """Return the message about a setting that does not exist, or not with the current choices."""
    hint = "" if key in list_settings() else _suggest_setting(key)
    if is_evaluation() and (not hint or (CONF / key.partition(".")[0]).is_dir()):
        return (
            f"there is no setting {format_value(key)}: a run is evaluated with its own settings; "
            "--help lists what can be set"
        )
    return f"there is no setting {format_value(key)}{hint}; --cfg job shows them all"


def _suggest_setting(key: str) -> str:
    """Return the end of the message about a wrong name: the setting probably meant; empty if none is near."""
    names, group = [*list_settings(), *list_groups()], key.partition(".")[0]
    if key == f"{group}._target_" or (group == "trainer" and key.removeprefix("trainer.") in EXTRA_TRAINER_ARGUMENTS):
        return f": write +{key}=…"
    more = f"; other arguments of the {group}'s class are added with +{key}=…" if key.startswith(CLASS_PREFIXES) else ""
    if not (meant := suggest_by_words(key, names)) and (
        found := find_choices(lambda those: suggest_by_words(key, those))
    ):
        return f": {found[1]} has {'it' if found[0] == key else f'{found[0]}{more}'}"
    return _format_suggestion(meant or suggest_name(key, names)) or more


def match_setting_name(key: str) -> str | None:
    """Return the setting or group of this name, or else the one with the nearest name."""
    names = [*list_settings(), *list_groups()]
    return key if key in names else suggest_name(key, names)


def _format_suggestion(name: str | None) -> str:
    return f", did you mean {name}?" if name else ""
