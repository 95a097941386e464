"""Read the type hints of classes' constructors and check plain values against them."""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from inspect import unwrap
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from src.core.checks import is_integer, is_number

TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}
LIST_TYPES = (list, tuple, Sequence, Iterable)
DICT_TYPES = (dict, Mapping)


@cache
def get_hints(cls: type) -> dict[str, Any]:
    """Return the annotated constructor parameters of a class and its bases, by name."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is not object and "__init__" in vars(base):
            with suppress(Exception):  # names that are imported only for type checkers
                found |= get_type_hints(vars(base)["__init__"])
    return found


def get_parameters(cls: type) -> dict[str, type]:
    """Return the named constructor parameters of a class and its bases, each with the class that declares it."""
    found: dict[str, type] = {}
    for base in cls.__mro__:
        if base is not object and "__init__" in vars(base):
            code = getattr(unwrap(vars(base)["__init__"]), "__code__", None)
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount] if code else ()
            found = {**dict.fromkeys(names, base), **found}
    return found


def is_of_type(value: Any, hint: Any) -> bool:
    """Return True if a plain value, or the object that Hydra makes from it, may have a type."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return any(is_of_type(value, option) for option in inner)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in inner)
    if hint is float:
        return is_number(value)
    if hint is int:
        return is_integer(value) and abs(value) < 2**63
    if origin in LIST_TYPES:
        return isinstance(value, list) and (
            not inner or all(any(is_of_type(item, option) for option in inner) for item in value)
        )
    if origin in DICT_TYPES:
        return isinstance(value, dict)
    if origin is Callable:
        return isinstance(value, dict) and "_target_" in value
    if hint in TYPE_NAMES or not isinstance(hint, type):
        return hint not in TYPE_NAMES or isinstance(value, hint)
    return isinstance(value, hint) or (isinstance(value, dict) and "_target_" in value)


def describe_type(hint: Any) -> str:
    """Return a type in words."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(describe_type, inner)))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in LIST_TYPES:
        return "a list"
    if origin in DICT_TYPES:
        return "a dictionary"
    if origin is Callable:
        return "a function (a setting cannot name one: wrap it in your own class)"
    return TYPE_NAMES.get(hint) or f"an object of {getattr(hint, '__name__', hint)}"


def has_custom_hooks(instance: object, base: type, hooks: Iterable[str]) -> bool:
    """Return True if an object or its class overrides any of these hooks of a base class."""
    assigned = vars(instance).keys() & set(hooks)
    return bool(assigned) or any(getattr(type(instance), hook, None) is not getattr(base, hook, None) for hook in hooks)
