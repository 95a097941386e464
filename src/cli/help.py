"""Show all settings with their values and what they are for, as the comments of the YAML files say it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.cli.evaluation import means_nothing
from src.storage.files import read_text

COLUMN = 36  # where comments begin, unless a value is longer
_Comments = dict[str, str | None]
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<value>[^#]*?)(?:\s# (?P<comment>.*))?")


def describe_settings(*, _root_: DictConfig) -> str:
    """Return a config's settings, a line each: name, value and comment; Hydra's own apart.

    A resolver for ``hydra.help.template``, in which Hydra takes a single dollar sign for a name to fill in.
    """
    comments: _Comments = {**_read_comments(_root_.hydra)}
    if _root_.hydra.job.config_name == "eval":
        comments |= dict.fromkeys(filter(means_nothing, (f"trainer.{name}" for name in _root_.trainer)))
    lines = [line for key in _root_ if key != "hydra" for line in _format(_root_, str(key), str(key), 0, comments)]
    return "\n".join(lines).replace("$", "$$")


def _format(parent: DictConfig, key: str, path: str, depth: int, comments: _Comments) -> Iterator[str]:
    """Yield the lines of a setting and of those below it; ``None`` as its comment hides it."""
    if comments.get(path, "") is None:
        return
    node, start = _get_value(parent, key), "  " * (depth + 1) + f"{key}:"
    if isinstance(node, DictConfig) and len(node):
        yield _add_comment(start, comments.get(path))  # of a group: which choice it is
        for name in map(str, node):
            yield from _format(node, name, f"{path}.{name}", depth + 1, comments)
    else:
        yield _add_comment(f"{start} {_as_typed(node)}", comments.get(path))


def _get_value(parent: DictConfig, key: str) -> Any:
    """Return a setting's value with references resolved; one that cannot be resolved here as it is written."""
    if OmegaConf.is_missing(parent, key):
        return "???"
    try:
        return parent[key]
    except OmegaConfBaseException:
        return OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[call-overload, index]


def _as_typed(value: Any) -> str:
    if isinstance(value, (DictConfig, ListConfig)):
        return json.dumps(OmegaConf.to_container(value)).replace('"', "")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return '""' if value == "" else str(value)


def _add_comment(line: str, comment: str | None) -> str:
    return f"{line:<{COLUMN}}  # {comment}" if comment else line


def _read_comments(hydra: DictConfig) -> dict[str, str]:
    """Return the comments of the chosen files by the full names of the settings beside which they stand."""
    folders = [Path(each.path) for each in hydra.runtime.config_sources if each.schema == "file"]
    found: dict[str, str] = {}
    for group, choice in hydra.runtime.choices.items():
        if choice and not group.startswith("hydra"):
            found[group] = choice
            found |= _comments_in(folders, f"{group}/{choice}", f"{group}.")
    return found | _comments_in(folders, hydra.job.config_name, "")  # which has the last word on values, too


def _comments_in(folders: list[Path], name: str, prefix: str) -> dict[str, str]:
    """Return the comments in a config, and in those of its group that it builds on."""
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        return {}
    text = read_text(path)
    found: dict[str, str] = {}
    for base in re.findall(r"^  - (\w+)$", text, re.MULTILINE):
        if "/" in name and base != "_self_":
            found |= _comments_in(folders, f"{name.rpartition('/')[0]}/{base}", prefix)
    parents: list[str] = []
    for line in filter(None, map(_LINE.fullmatch, text.splitlines())):
        depth = len(line["indent"]) // 2
        parents[depth:] = [line["key"]]
        if line["comment"]:
            found[prefix + ".".join(parents)] = line["comment"]
    return found
