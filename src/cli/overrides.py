"""Preparation of a command's settings for Hydra: values are quoted, and settings without effect are refused."""

import os
import re
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException

from src.cli.arguments import VALUE_FLAGS, check_arguments
from src.cli.catalog import is_group
from src.cli.messages import SINGLE_CHOICE_GROUPS, describe_unknown_choice
from src.cli.resumed import quote_for_hydra
from src.core.checks import format_value
from src.core.errors import InputError

SINGLE_PATH_SETTINGS = ("resume", "paths.outputs", "hydra.run.dir", "hydra.sweep.dir")  # never swept over
TEXT_SETTINGS = (
    "name",
    *SINGLE_PATH_SETTINGS,
    "run",
    "checkpoint",
    "out",
    "grid",
    "ckpt_path",
    "paths.data",
    "data.root",
    "data.labels",
    "data.masks",
    "data.cache",
    "data.file",
    "data.test_file",
    "data.text",
    "data.target",
    "model.weights",
)
NON_TEXT_WORDS = ("true", "false", "null", "nan", "inf")  # words that Hydra does not parse as text
SWEEP_ARGUMENTS = ("-m", "--multirun", "hydra.mode=MULTIRUN", "sweep=")  # prefixes of the arguments that start a sweep
SWEEP_FUNCTION = re.compile(
    r"(choice|range|interval|glob|sort|shuffle|tag|extend_list)\("
)  # functions of Hydra's grammar

REFUSED_SETTINGS = {  # settings that must not be given, and why
    "hydra.output_subdir": "a run keeps its settings in .hydra, without which it can be neither resumed nor evaluated",
    "hydra.callbacks.claim_folder": "it keeps a run from writing into another's folder",
    "hydra.runtime": "Hydra sets it itself; name=… or hydra.run.dir=… sets a run's folder",
    "hydra.overrides": "Hydra sets it itself",
    "hydra.sweeper.params": "type the settings themselves: -m NAME=VALUE,VALUE",
    "hydra.job.num": "Hydra sets it itself",
    "hydra.job.id": "Hydra sets it itself",
    "hydra.job.override_dirname": "Hydra sets it itself",
    "hydra.job.config_name": "Hydra sets it itself; --config-name chooses another",
}


def prepare_arguments(arguments: list[str]) -> list[str]:
    """Return a command's arguments in the form that Hydra needs: flags first, paths and names in quotes.

    Raises:
        InputError: for arguments that no command accepts, or a setting given twice.
    """
    arguments = _move_flags_first(arguments)
    check_arguments(arguments)
    sweeping = any(argument.startswith(SWEEP_ARGUMENTS) for argument in arguments)
    arguments = [_quote_argument(argument, sweeping) for argument in arguments]
    refuse_repeated_settings(arguments)
    _refuse_hydra_settings(arguments)
    _refuse_unnamed_choices(arguments)
    return arguments


def _move_flags_first(arguments: list[str]) -> list[str]:
    """Return the arguments with flags and their values first: Hydra accepts none between settings."""
    flags: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, has_value, _ = argument.partition("=")
        (flags if name in (*SWEEP_ARGUMENTS[:2], *VALUE_FLAGS) else others).append(argument)
        if name in VALUE_FLAGS and not has_value:
            flags += [value for value in [next(rest, None)] if value is not None]
    return [*flags, *others]


def _refuse_hydra_settings(arguments: list[str]) -> None:
    """Refuse changes of Hydra's own settings that have no effect or would break a run."""
    for argument in arguments:
        typed, _, value = argument.partition("=")
        key = typed.lstrip("+~")
        if _is_set_by_lightning(key) or (key == "hydra.output_subdir" and value == ".hydra"):
            continue
        for beginning, why in REFUSED_SETTINGS.items():
            if f"{key}.".startswith(f"{beginning}."):
                raise InputError(f"{argument}: {why}")
        if argument == "~hydra.callbacks":
            raise InputError(f"{argument}: {REFUSED_SETTINGS['hydra.callbacks.claim_folder']}")


def _refuse_unnamed_choices(arguments: list[str]) -> None:
    """Refuse choices that are not names, on which Hydra fails with a traceback: ``data=5``, ``-m data=xor,[5]``."""
    for override in _parse_overrides(arguments):
        value, group = override.value(), override.key_or_group
        if not is_group(group) or override.is_delete() or isinstance(value, Glob):
            continue
        for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
            names = choice if isinstance(choice, list) else [choice]
            if not (isinstance(choice, dict) or all(isinstance(name, (str, QuotedString)) for name in names)):
                shown = str(override.input_line).partition("=")[2]
                if isinstance(value, ChoiceSweep):
                    shown = Override._get_value_element_as_str(choice)  # type: ignore[arg-type]  # accepts all of these
                raise InputError(describe_unknown_choice(group, shown))
            if isinstance(choice, list) and len(choice) > 1 and group in SINGLE_CHOICE_GROUPS:
                how = f"-m {group}={','.join(map(str, choice))} trains one run with each"
                raise InputError(f"{override.input_line}: a run has one {group}; {how}")


# Paths and names


def _quote_argument(argument: str, is_sweep: bool) -> str:
    """Return an argument such as ``run=a folder, 1`` quoted, so that Hydra reads a path or a name as text.

    In a sweep a comma separates two values, except in settings that are never swept over and in the path of an
    existing file; two names are refused later.
    """
    typed, _, value = argument.partition("=")
    key = typed.lstrip("+")
    if key not in TEXT_SETTINGS or value in ("", "null") or value[0] in "'\"":
        return argument
    if key == "data.target" and value[0] == "[":  # several columns
        return argument
    if not is_sweep or key in SINGLE_PATH_SETTINGS or os.path.exists(os.path.expanduser(value)):
        return f"{typed}={_quote_value(key, value)}"
    if SWEEP_FUNCTION.match(value):  # such as choice(a,b): Hydra must parse it itself
        return argument
    return f"{typed}={','.join(_quote_value(key, part) for part in re.split(r', *', value))}"


def _quote_value(key: str, value: str) -> str:
    if _is_plain_text(value) or value == "null":
        return value
    return quote_for_hydra(value if key == "name" else os.path.expanduser(value))


def _is_plain_text(value: str) -> bool:
    """Return True if Hydra parses an unquoted value as text, not as a number, a boolean or null."""
    return re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) is not None and value.lower() not in NON_TEXT_WORDS


# Settings given twice


def refuse_repeated_settings(arguments: list[str], allow_merging: bool = True) -> None:
    """Refuse settings that are given twice: Hydra would silently use the last.

    Args:
        arguments: the command's.
        allow_merging: allow several dictionaries for one setting if they have no key in common.

    Raises:
        InputError: naming the setting and both arguments.
    """
    first: dict[str, Override] = {}
    for override in _parse_overrides(arguments):
        for name in _list_names(override) if allow_merging else [override.key_or_group]:
            before = first.setdefault(name, override)
            if before.input_line != override.input_line and not _is_set_by_lightning(name):
                both = " and ".join(format_value(given.input_line) for given in (before, override))
                raise InputError(f"{name} is given twice, {both}: give it once")


def _is_set_by_lightning(name: str) -> bool:
    """Return True if Lightning gave the setting: it adds some when it starts another process of a run."""
    return name.startswith("hydra.") and "LOCAL_RANK" in os.environ


def _parse_overrides(arguments: list[str]) -> Iterator[Override]:
    """Yield the overrides among arguments; those that cannot be parsed are skipped, for Hydra reports them later."""
    parser = OverridesParser.create()
    for argument in arguments:
        try:
            if not argument.startswith("-"):
                yield parser.parse_override(argument)
        except HydraException:
            continue


def _list_names(override: Override) -> set[str]:
    """Return the full names of the settings that an override sets; for a dictionary, those of its entries."""
    package = f"@{override.package}" if override.package else ""
    key, value = f"{override.key_or_group}{package}", override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return {name for each in values for name in _list_leaves(key, each)}


def _list_leaves(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _list_leaves(f"{name}.{key}", each)
    else:
        yield name
