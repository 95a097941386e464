"""Checks of the command line's arguments before Hydra parses them: flags, and settings as NAME=VALUE."""

import os
import unicodedata
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from src.cli.catalog import is_evaluation, list_choices, list_groups
from src.cli.messages import match_setting_name
from src.core.checks import format_value
from src.core.errors import InputError

UNTYPABLE_CATEGORIES = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # Unicode categories: control characters, surrogates, line and paragraph ends
VALUE_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p")
PATH_STARTS = ("./", "../", "/", "~/")
FLAGS_HINT = "--hydra-help lists all flags"


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments of several lines, flags that Hydra does not have, and settings without a value.

    Raises:
        InputError: naming the argument and its correct form.
    """

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; {FLAGS_HINT}")

    for argument in arguments:
        if odd := [char for char in argument if char != "\t" and unicodedata.category(char) in UNTYPABLE_CATEGORIES]:
            raise InputError(
                f"{format_value(argument)}: an argument is one line of text and must not contain {odd[0]!a}"
            )
    parser = get_args_parser()
    for number, argument in enumerate(arguments):
        if argument.startswith("-") and not _is_flag(parser, argument.partition("=")[0]):
            refuse(_explain_flag(argument, arguments[number + 1 :]))
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(arguments)
    if given.experimental_rerun is not None:
        raise InputError("--experimental-rerun reads a pickle, which runs the code in it: use resume=FOLDER")
    for number, argument in enumerate(given.overrides):
        if argument.startswith("=") or ("=" not in argument and not argument.startswith("~")):
            raise InputError(_explain_word(argument, given.overrides[number + 1 :]))


def split_paths(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the paths among the arguments of a command that takes paths and settings, and the other arguments.

    A path is a word without "=", or one that begins like a path: ``./a=b.png``. A dash alone is one, too.
    """
    paths: list[str] = []
    others: list[str] = []
    is_value = False  # True: the word before is a flag that takes a value
    for argument in arguments:
        is_word = argument == "-" or not ("=" in argument or argument.startswith(("-", "~")))
        is_path = not is_value and (is_word or argument.startswith(PATH_STARTS))
        (paths if is_path else others).append(argument)
        is_value = argument in VALUE_FLAGS
    return paths, others


def drop_completed_paths(line: str) -> str:
    """Return a command line that the shell completes without the paths before its last word."""
    command, *words = line.split(" ")
    return " ".join([command, *split_paths(words[:-1])[1], *words[-1:]])


def _is_flag(parser: ArgumentParser, name: str) -> bool:
    """Return True if a parser has this flag; it may be shortened (--multi) or have its value attached (-cjob)."""
    known = parser._option_string_actions
    if name.startswith("--"):
        return any(flag.startswith(name) for flag in known)
    return name in known or (name[:2] in known and known[name[:2]].nargs != 0)


def _explain_flag(argument: str, following: Sequence[str]) -> str:
    """Return the message about a flag that does not exist, such as ``--epochs 3``."""
    name, _, value = argument.partition("=")
    meant = match_setting_name(name.strip("-").replace("-", "_"))
    setting = f": {meant}={value or _find_value(following)}" if meant else " (NAME=VALUE)"
    return f"{format_value(argument)}: there is no such flag; a setting is typed without dashes{setting}"


def _explain_word(argument: str, following: Sequence[str]) -> str:
    """Return the message about an argument without a value, such as ``seed`` in ``seed 3``."""
    message = f"{format_value(argument)}: a setting is typed NAME=VALUE, without spaces"
    groups = [group for group in list_groups() if argument in list_choices(group)]
    if groups:
        return f"{message}; did you mean {groups[0]}={argument}?"
    if os.sep in argument or os.path.isdir(argument):
        return f"{message}; did you mean {'run' if is_evaluation() else 'resume'}={argument}?"
    meant = match_setting_name(argument)
    return f"{message}: {meant}={_find_value(following)}" if meant else message


def _find_value(following: Sequence[str]) -> str:
    """Return the value typed after a space (``3``, ``= 3`` or ``=3``); "…" if there is none."""
    words = [word.removeprefix("=") for word in following[:2] if word != "="]
    plain = bool(words) and "=" not in words[0] and not words[0].startswith("--")
    return format_value(words[0]) if plain else "…"
