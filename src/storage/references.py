"""Look at the references in a config of unknown origin: ``${seed}`` leads to a value beside it, others lead outside.

What leads outside, to the environment (``${oc.env:HOME}``) or into a function, is never looked up. What stays inside
must not multiply: ten settings that each name the one before it twice are a thousand, thirty are a billion.
"""

import re
from collections.abc import Iterator
from typing import Any

from src.storage.plain import DEEPEST

_KEY = r"\.*[\w-]+(?:\.[\w-]+)*"
INSIDE = re.compile(rf"\$\{{(?:(?P<key>{_KEY})|oc\.select:\s*(?P<asked>{_KEY})\s*(?:,(?P<otherwise>[^${{}}]*))?)\}}")
UNKNOWN = "(not looked up)"  # stands for a reference that leads outside
MOST = 2**22  # characters that all values have together once their references are followed

Path = tuple[str | int, ...]  # to a value: the names of the settings that it lies in


def take_out_foreign(content: Any) -> dict[str, str]:
    """Replace the texts with references that lead outside by `UNKNOWN`; return them by the names of their settings."""
    found = {}
    for path, text, holder in list(_texts(content, ())):
        if "${" in INSIDE.sub("", text):
            found[spell(path)] = text
            holder[path[-1]] = UNKNOWN
    return found


def check_extent(content: Any) -> None:
    """Raise an error if references lead nowhere, in a circle, or to too much in all.

    Raises:
        ValueError: naming a setting.
    """
    extent = _Extents(content).of(content, (), 0)
    if extent > MOST:
        raise ValueError(f"with its references followed it has more than {MOST:,} characters")


def spell(path: Path) -> str:
    """Return a setting's full name."""
    return ".".join(map(str, path))


def _texts(content: Any, path: Path) -> Iterator[tuple[Path, str, Any]]:
    """Yield each text with its path and what holds it."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, (dict, list)):
            yield from _texts(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value, content


class _Extents:
    """Count the characters of values once their references are followed, each value once."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.known: dict[Path, int] = {}

    def of(self, value: Any, path: Path, steps: int) -> int:
        if steps > 2 * DEEPEST:
            raise ValueError(f"{spell(path)}: its references lead in a circle, or too far")
        if path not in self.known:
            self.known[path] = self._count(value, path, steps + 1)
        return self.known[path]

    def _count(self, value: Any, path: Path, steps: int) -> int:
        if isinstance(value, dict):
            return sum(len(str(key)) + self.of(each, (*path, key), steps) for key, each in value.items())
        if isinstance(value, list):
            return sum(1 + self.of(each, (*path, place), steps) for place, each in enumerate(value))
        references = list(INSIDE.finditer(value)) if isinstance(value, str) else []
        return len(str(value)) + sum(self._of_target(each, path, steps) for each in references)

    def _of_target(self, reference: "re.Match[str]", path: Path, steps: int) -> int:
        key = reference["key"] or reference["asked"]
        up = len(key) - len(key.lstrip("."))
        target: Path = path[:-up] if up else ()
        value = self.content
        for place in target:
            value = value[place]
        for name in key.lstrip(".").split("."):
            place = int(name) if isinstance(value, list) and name.isdecimal() else name
            try:
                value = value[place]
            except (LookupError, TypeError):
                if reference["key"]:
                    raise ValueError(f"{spell(path)}: {reference[0]} leads nowhere") from None
                return len(reference["otherwise"] or "")
            target = (*target, place)
        return self.of(value, target, steps)
