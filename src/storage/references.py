"""Check the references in a config of unknown origin.

Internal references such as ``${seed}`` point to another value of the config. External ones, to the environment
(``${oc.env:HOME}``) or into a function, are never resolved. Internal ones must not expand without limit: if each
setting refers twice to the previous one, ten settings expand to a thousand values and thirty to a billion.
"""

import re
from collections.abc import Iterator
from typing import Any

from src.storage.plain import MAX_DEPTH

_KEY = r"\.*[\w-]+(?:\.[\w-]+)*"
INTERNAL_REFERENCE = re.compile(
    rf"\$\{{(?:(?P<key>{_KEY})|oc\.select:\s*(?P<asked>{_KEY})\s*(?:,(?P<otherwise>[^${{}}]*))?)\}}"
)
UNRESOLVED = "(not looked up)"  # replaces an external reference
MAX_CHARACTERS = 2**22  # maximum characters of all values together, with references resolved

KeyPath = tuple[str | int, ...]  # keys and list indices that lead to a value


def extract_external_references(content: Any) -> dict[str, str]:
    """Replace texts with external references by `UNRESOLVED`, in place; return the texts by setting."""
    found = {}
    for path, text, holder in list(_walk_texts(content, ())):
        if "${" in INTERNAL_REFERENCE.sub("", text):
            found[_format_path(path)] = text
            holder[path[-1]] = UNRESOLVED
    return found


def check_expanded_size(content: Any) -> None:
    """Check that references exist, form no cycle and expand to at most `MAX_CHARACTERS` characters in total.

    Raises:
        ValueError: naming a setting.
    """
    extent = _ExpandedSizes(content).measure(content, (), 0)
    if extent > MAX_CHARACTERS:
        raise ValueError(f"with its references resolved it has more than {MAX_CHARACTERS:,} characters")


def _format_path(path: KeyPath) -> str:
    """Return a setting's full name, its keys joined by dots."""
    return ".".join(map(str, path))


def _walk_texts(content: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str, Any]]:
    """Yield the path of each text, the text, and the dict or list that holds it."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, (dict, list)):
            yield from _walk_texts(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value, content


class _ExpandedSizes:
    """The sizes of a config's values with references resolved, in characters; each value is counted once and cached."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.cache: dict[KeyPath, int] = {}

    def measure(self, value: Any, path: KeyPath, depth: int) -> int:
        if depth > 2 * MAX_DEPTH:
            raise ValueError(f"{_format_path(path)}: its references form a cycle, or a chain that is too long")
        if path not in self.cache:
            self.cache[path] = self._count(value, path, depth + 1)
        return self.cache[path]

    def _count(self, value: Any, path: KeyPath, depth: int) -> int:
        if isinstance(value, dict):
            return sum(len(str(key)) + self.measure(item, (*path, key), depth) for key, item in value.items())
        if isinstance(value, list):
            return sum(1 + self.measure(item, (*path, index), depth) for index, item in enumerate(value))
        references = list(INTERNAL_REFERENCE.finditer(value)) if isinstance(value, str) else []
        return len(str(value)) + sum(self._measure_target(item, path, depth) for item in references)

    def _measure_target(self, reference: "re.Match[str]", path: KeyPath, depth: int) -> int:
        key = reference["key"] or reference["asked"]
        # Leading dots make a reference relative: one dot is the setting's own section, each further dot one level up.
        up = len(key) - len(key.lstrip("."))
        target: KeyPath = path[:-up] if up else ()
        value = self.content
        for index in target:
            value = value[index]
        for name in key.lstrip(".").split("."):
            index = int(name) if isinstance(value, list) and name.isdecimal() else name
            try:
                value = value[index]
            except (LookupError, TypeError):
                if reference["key"]:
                    problem = f"{reference[0]} refers to a setting that does not exist"
                    raise ValueError(f"{_format_path(path)}: {problem}") from None
                return len(reference["otherwise"] or "")
            target = (*target, index)
        return self.measure(value, target, depth)
