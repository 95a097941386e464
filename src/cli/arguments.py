"""What is typed after the command, looked at before Hydra reads it: flags, and settings as NAME=VALUE."""

import os
import unicodedata
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from src.cli.catalog import is_evaluation, list_choices, list_groups
from src.cli.messages import find_meant
from src.core.checks import show
from src.core.errors import InputError

UNTYPED = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, halves of characters, ends of lines
FLAGS = "--hydra-help shows the flags that there are"


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments of more than a line, flags that Hydra does not have, and settings without a value.

    Raises:
        InputError: naming the argument, and how it is typed.
    """

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; {FLAGS}")

    for argument in arguments:
        if odd := [char for char in argument if char != "\t" and unicodedata.category(char) in UNTYPED]:
            raise InputError(f"{show(argument)}: an argument is a line of text, and {odd[0]!a} is no part of one")
    parser = get_args_parser()
    for number, argument in enumerate(arguments):
        if argument.startswith("-") and not _is_flag(parser, argument.partition("=")[0]):
            refuse(_tell_flag(argument, arguments[number + 1 :]))
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(arguments)
    if given.experimental_rerun is not None:
        raise InputError("--experimental-rerun reads a pickle, which runs the code in it: use resume=FOLDER")
    for number, argument in enumerate(given.overrides):
        if argument.startswith("=") or ("=" not in argument and not argument.startswith("~")):
            raise InputError(_tell_word(argument, given.overrides[number + 1 :]))


def _is_flag(parser: ArgumentParser, name: str) -> bool:
    """Return whether a parser has a flag, which may be shortened (--multi) or have its value attached (-cjob)."""
    known = parser._option_string_actions
    if name.startswith("--"):
        return any(each.startswith(name) for each in known)
    return name in known or (name[:2] in known and known[name[:2]].nargs != 0)


def _tell_flag(argument: str, following: Sequence[str]) -> str:
    """Return what to tell of a flag that there is not, such as ``--epochs 3``."""
    name, _, value = argument.partition("=")
    meant = find_meant(name.strip("-").replace("-", "_"))
    setting = f": {meant}={value or _value_in(following)}" if meant else " (NAME=VALUE)"
    return f"{show(argument)}: there is no such flag; a setting is typed without dashes{setting}"


def _tell_word(argument: str, following: Sequence[str]) -> str:
    """Return what to tell of an argument without a value, such as the first of ``seed 3``."""
    told = f"{show(argument)}: a setting is typed NAME=VALUE, without spaces"
    groups = [group for group in list_groups() if argument in list_choices(group)]
    if groups:
        return f"{told}; did you mean {groups[0]}={argument}?"
    if os.sep in argument or os.path.isdir(argument):
        return f"{told}; did you mean {'run' if is_evaluation() else 'resume'}={argument}?"
    meant = find_meant(argument)
    return f"{told}: {meant}={_value_in(following)}" if meant else told


def _value_in(following: Sequence[str]) -> str:
    """Return the value that follows a name after a space, also ``= 3`` or ``=3``; a stand-in if there is none."""
    words = [word.removeprefix("=") for word in following[:2] if word != "="]
    plain = bool(words) and "=" not in words[0] and not words[0].startswith("--")
    return show(words[0]) if plain else "…"
