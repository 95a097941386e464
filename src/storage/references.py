"""Check the references in a config of unknown origin.

Internal references such as ``${seed}`` point to another value of the config. External ones, to the environment
(``${oc.env:HOME}``) or into a function, are never resolved. Internal ones must not expand without limit: if each
setting refers twice to the previous one, ten settings expand to a thousand values and thirty to a billion.
"""

import re
from collections.abc import Iterator
from typing import Any

from src.storage.plain import DEEPEST

_KEY = r"\.*[\w-]+(?:\.[\w-]+)*"
INSIDE = re.compile(rf"\$\{{(?:(?P<key>{_KEY})|oc\.select:\s*(?P<asked>{_KEY})\s*(?:,(?P<otherwise>[^${{}}]*))?)\}}")
UNKNOWN = "(not looked up)"  # replaces an external reference
MOST = 2**22  # maximum characters of all values together, with references resolved

Path = tuple[str | int, ...]  # keys and list indices that lead to a value


def take_out_foreign(content: Any) -> dict[str, str]:
    """Replace texts with external references by `UNKNOWN`, in place, and return the texts by their settings' names."""
    found = {}
    for path, text, holder in list(_texts(content, ())):
        if "${" in INSIDE.sub("", text):
            found[spell(path)] = text
            holder[path[-1]] = UNKNOWN
    return found


def check_extent(content: Any) -> None:
    """Check that references exist, form no cycle and expand to at most `MOST` characters in total.

    Raises:
        ValueError: naming a setting.
    """
    extent = _Extents(content).of(content, (), 0)
    if extent > MOST:
        raise ValueError(f"with its references followed it has more than {MOST:,} characters")


def spell(path: Path) -> str:
    """Return a setting's full name, its keys joined by dots."""
    return ".".join(map(str, path))


def _texts(content: Any, path: Path) -> Iterator[tuple[Path, str, Any]]:
    """Yield the path of each text, the text, and the dict or list that holds it."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, (dict, list)):
            yield from _texts(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value, content


class _Extents:
    """The sizes of a config's values with references resolved, in characters; each value is counted once and cached."""

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
            return sum(len(str(key)) + self.of(item, (*path, key), steps) for key, item in value.items())
        if isinstance(value, list):
            return sum(1 + self.of(item, (*path, index), steps) for index, item in enumerate(value))
        references = list(INSIDE.finditer(value)) if isinstance(value, str) else []
        return len(str(value)) + sum(self._of_target(item, path, steps) for item in references)

    def _of_target(self, reference: "re.Match[str]", path: Path, steps: int) -> int:
        key = reference["key"] or reference["asked"]
        # Leading dots make a reference relative: one dot is the setting's own section, each further dot one level up.
        up = len(key) - len(key.lstrip("."))
        target: Path = path[:-up] if up else ()
        value = self.content
        for index in target:
            value = value[index]
        for name in key.lstrip(".").split("."):
            index = int(name) if isinstance(value, list) and name.isdecimal() else name
            try:
                value = value[index]
            except (LookupError, TypeError):
                if reference["key"]:
                    raise ValueError(f"{spell(path)}: {reference[0]} leads nowhere") from None
                return len(reference["otherwise"] or "")
            target = (*target, index)
        return self.of(value, target, steps)
