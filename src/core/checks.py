"""Checks of settings' values, each a function with its description in words. Nothing heavy is imported here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from src.core.errors import InputError

BILLION = 10**9
LARGEST = 1e38  # about the largest number in single precision
LARGEST_WHOLE = 10**18  # about the largest whole number that PyTorch takes
LONGEST_PATH = 1000  # characters
LONGEST = 60  # characters of a value that a message shows


class Check(NamedTuple):
    """A condition that a setting's value must meet.

    Attributes:
        allows: returns True if a value is valid.
        words: the valid values in words, as they follow "must be" in a message.
    """

    allows: Callable[[Any], bool]
    words: str


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True if a value is a number that PyTorch accepts: not NaN, not infinite and not a bool."""
    return abs(value) <= LARGEST_WHOLE if is_whole(value) else isinstance(value, float) and abs(value) <= LARGEST


def whole(low: int, high: int = BILLION) -> Check:
    """Return a check for whole numbers from ``low`` to ``high``."""
    return Check(lambda value: is_whole(value) and low <= value <= high, f"a whole number from {low} to {high:,}")


def count_or_fraction(low: int, high: int = BILLION) -> Check:
    """Return a check for a count (int, from ``low`` to ``high``) or a fraction (float, up to 1.0)."""
    count = whole(low, high)
    return Check(
        lambda value: count.allows(value) or (isinstance(value, float) and 0 <= value <= 1 and (value > 0 or not low)),
        f"{count.words}, or a share {'from 0.0' if not low else 'above 0.0, up'} to 1.0",
    )


def one_of(*choices: Any) -> Check:
    """Return a check for one of the choices; the type must match, too (1 is not true)."""
    names = [_spell(choice) for choice in choices]
    return Check(
        lambda value: any(type(value) is type(choice) and value == choice for choice in choices),
        f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0],
    )


def list_of(each: Check, words: str, low: int = 0, high: int = 1000) -> Check:
    """Return a check for lists of ``low`` to ``high`` items that each pass a check."""
    return Check(
        lambda value: isinstance(value, list) and low <= len(value) <= high and all(map(each.allows, value)), words
    )


def optional(check: Check) -> Check:
    return Check(lambda value: value is None or check.allows(value), f"null or {check.words}")


def either(*checks: Check) -> Check:
    words = [check.words for check in checks]
    return Check(lambda value: any(check.allows(value) for check in checks), f"{', '.join(words[:-1])} or {words[-1]}")


ABOVE_ZERO = Check(lambda value: is_number(value) and value > 0, "a number above 0, up to 1e38 (whole: 10¹⁸)")
FROM_ZERO = Check(lambda value: is_number(value) and value >= 0, "a number from 0 to 1e38 (whole: 10¹⁸)")
PROBABILITY = Check(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
FRACTION = Check(lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
SEED = Check(lambda value: is_whole(value) and 0 <= value < 2**32, "a whole number from 0 to 2³²−1")
SECONDS = Check(lambda value: is_number(value) and 0 < value <= BILLION, "seconds above 0, up to 1,000,000,000")
SWITCH = Check(lambda value: isinstance(value, bool), "true or false")
TEXT = Check(lambda value: isinstance(value, str) and bool(value), "a text")
MAPPING = Check(lambda value: isinstance(value, Mapping), "a dictionary")
PATH = Check(
    lambda value: isinstance(value, str) and bool(value.strip()) and len(value) <= LONGEST_PATH,
    f"a path of at most {LONGEST_PATH:,} characters",
)
LABEL = Check(lambda value: isinstance(value, (str, bool)) or is_number(value), "a text or a number")


def escape(text: str) -> str:
    """Return a text with its control characters as escape sequences."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def show(value: Any) -> str:
    """Return a value for a message: as in YAML (null, true), on one line, at most `LONGEST` characters."""
    text = escape(_spell(value)[: LONGEST + 1])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _spell(value: Any) -> str:
    """Return a value as a user types it (null, true), not as Python prints it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_spell(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return f"[{', '.join(map(_spell, value))}]"
    return str(value)


def complain(name: str, value: Any, check: Check) -> str:
    """Return one line that explains why a setting's value is invalid."""
    return f"{name}={show(value)} must be {check.words}"


def require(settings: Mapping[str, Any], checks: Mapping[str, Check], prefix: str) -> None:
    """Refuse settings of a launcher or a sweeper that are missing, unknown or invalid.

    Raises:
        InputError: naming each such setting.
    """
    wrong = [f"{prefix}{name} is missing" for name in checks if name not in settings]
    for name, value in settings.items():
        if name not in checks:
            wrong.append(f"there is no setting {prefix}{show(name)}: there are {', '.join(checks)}")
        elif not checks[name].allows(value):
            wrong.append(complain(f"{prefix}{name}", value, checks[name]))
    if wrong:
        raise InputError("; ".join(wrong))
