"""Checks of settings' values, each a function with its description in words. Nothing heavy is imported here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from src.core.errors import InputError

BILLION = 10**9
MAX_NUMBER = 1e38  # about the largest number in single precision
MAX_INTEGER = 10**18  # about the largest whole number that PyTorch takes
MAX_PATH_LENGTH = 1000  # characters
MAX_SHOWN_LENGTH = 60  # characters of a value that a message shows


class Check(NamedTuple):
    """A condition that a setting's value must meet.

    Attributes:
        allows: returns True if a value is valid.
        description: the valid values in words, as they follow "must be" in a message.
        schema: a JSON schema for editors that accepts these values, and perhaps others.
    """

    allows: Callable[[Any], bool]
    description: str
    schema: Mapping[str, Any] = {}


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True if a value is a number that PyTorch accepts: not NaN, not infinite and not a bool."""
    return abs(value) <= MAX_INTEGER if is_integer(value) else isinstance(value, float) and abs(value) <= MAX_NUMBER


def allow_integer(low: int, high: int = BILLION) -> Check:
    """Return a check for whole numbers from ``low`` to ``high``."""
    return Check(
        lambda value: is_integer(value) and low <= value <= high,
        f"a whole number from {low} to {high:,}",
        {"type": "integer", "minimum": low, "maximum": high},
    )


def allow_count_or_fraction(low: int, high: int = BILLION) -> Check:
    """Return a check for a count (int, from ``low`` to ``high``) or a fraction (float, up to 1.0)."""
    count = allow_integer(low, high)
    return Check(
        lambda value: count.allows(value) or (isinstance(value, float) and 0 <= value <= 1 and (value > 0 or not low)),
        f"{count.description}, or a fraction {'from 0.0' if not low else 'above 0.0, up'} to 1.0",
        {"type": "number", "minimum": 0, "maximum": high},
    )


def allow_one_of(*choices: Any) -> Check:
    """Return a check for one of the choices; the type must match, too (1 is not true)."""
    names = [_format_as_typed(choice) for choice in choices]
    return Check(
        lambda value: any(type(value) is type(choice) and value == choice for choice in choices),
        f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0],
        {"enum": list(choices)},
    )


def allow_list(check: Check, description: str, low: int = 0, high: int = 1000) -> Check:
    """Return a check for lists of ``low`` to ``high`` items that each pass a check."""
    return Check(
        lambda value: isinstance(value, list) and low <= len(value) <= high and all(map(check.allows, value)),
        description,
        {"type": "array", "items": check.schema, "minItems": low, "maxItems": high},
    )


def allow_null_or(check: Check) -> Check:
    return Check(
        lambda value: value is None or check.allows(value),
        f"null or {check.description}",
        {"anyOf": [{"type": "null"}, check.schema]},
    )


def allow_any_of(*checks: Check) -> Check:
    words = [check.description for check in checks]
    return Check(
        lambda value: any(check.allows(value) for check in checks),
        f"{', '.join(words[:-1])} or {words[-1]}",
        {"anyOf": [check.schema for check in checks]},
    )


def allow_number(allows: Callable[[Any], bool], description: str, **limits: float) -> Check:
    """Return a check for numbers, with the limits of a JSON schema, such as ``minimum``."""
    return Check(lambda value: is_number(value) and allows(value), description, {"type": "number", **limits})


POSITIVE = allow_number(lambda value: value > 0, "a number above 0, up to 1e38 (whole: 10¹⁸)", exclusiveMinimum=0)
NON_NEGATIVE = allow_number(lambda value: value >= 0, "a number from 0 to 1e38 (whole: 10¹⁸)", minimum=0)
PROBABILITY = allow_number(lambda value: 0 <= value < 1, "a number from 0 to below 1", minimum=0, exclusiveMaximum=1)
FRACTION = allow_number(lambda value: 0 <= value <= 1, "a number from 0 to 1", minimum=0, maximum=1)
UP_TO_ONE = allow_number(lambda value: 0 < value <= 1, "a number above 0, up to 1", exclusiveMinimum=0, maximum=1)
SECONDS = allow_number(
    lambda value: 0 < value <= BILLION, "seconds above 0, up to 1,000,000,000", exclusiveMinimum=0, maximum=BILLION
)
SEED = Check(
    lambda value: is_integer(value) and 0 <= value < 2**32,
    "a whole number from 0 to 2³²−1",
    {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
)
BOOLEAN = Check(lambda value: isinstance(value, bool), "true or false", {"type": "boolean"})
TEXT = Check(lambda value: isinstance(value, str) and bool(value), "a text", {"type": "string", "minLength": 1})
MAPPING = Check(lambda value: isinstance(value, Mapping), "a dictionary", {"type": "object"})
PATH = Check(
    lambda value: isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_PATH_LENGTH,
    f"a path of at most {MAX_PATH_LENGTH:,} characters",
    {"type": "string", "minLength": 1, "maxLength": MAX_PATH_LENGTH},
)
LABEL = Check(
    lambda value: isinstance(value, (str, bool)) or is_number(value),
    "a text or a number",
    {"type": ["string", "number", "boolean"]},
)


def format_escaped(text: str) -> str:
    """Return a text with its control characters as escape sequences."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def format_value(value: Any) -> str:
    """Return a value for a message: as in YAML (null, true), on one line, at most `MAX_SHOWN_LENGTH` characters."""
    text = format_escaped(_format_as_typed(value)[: MAX_SHOWN_LENGTH + 1])
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[: MAX_SHOWN_LENGTH - 1]}…"


def _format_as_typed(value: Any) -> str:
    """Return a value as a user types it (null, true), not as Python prints it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_format_as_typed(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return f"[{', '.join(map(_format_as_typed, value))}]"
    return str(value)


def describe_invalid(name: str, value: Any, check: Check) -> str:
    """Return one line that explains why a setting's value is invalid."""
    return f"{name}={format_value(value)} must be {check.description}"


def check_settings(settings: Mapping[str, Any], checks: Mapping[str, Check], prefix: str) -> None:
    """Refuse settings of a launcher or a sweeper that are missing, unknown or invalid.

    Raises:
        InputError: naming each such setting.
    """
    wrong = [f"{prefix}{name} is missing" for name in checks if name not in settings]
    for name, value in settings.items():
        if name not in checks:
            wrong.append(f"there is no setting {prefix}{format_value(name)}: there are {', '.join(checks)}")
        elif not checks[name].allows(value):
            wrong.append(describe_invalid(f"{prefix}{name}", value, checks[name]))
    if wrong:
        raise InputError("; ".join(wrong))
