"""Text of ``--help``: all settings with their values, explained by the comments in the YAML files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.cli.evaluation import TRAINER_SETTINGS, is_training_setting
from src.storage.files import read_text

COMMENT_COLUMN = 36  # where comments start, unless the value is longer
_Comments = dict[str, str | None]
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<value>[^#]*?)(?:\s# (?P<comment>.*))?")


def describe_settings(*, _root_: DictConfig) -> str:
    """Return a config's settings without Hydra's own, one line each: name, value and comment.

    A resolver for ``hydra.help.template``. Dollar signs are doubled, for Hydra reads a single one as a variable.
    """
    comments: _Comments = {**_read_comments(_root_.hydra)}
    if (config := _root_.hydra.job.config_name) in TRAINER_SETTINGS:
        names = [f"trainer.{name}" for name in _root_.trainer]
        comments |= dict.fromkeys(name for name in names if is_training_setting(name, config))
        comments |= {} if TRAINER_SETTINGS[config] else {"trainer": None}
    lines = [
        line for key in _root_ if key != "hydra" for line in _format_setting(_root_, str(key), str(key), 0, comments)
    ]
    return "\n".join(lines).replace("$", "$$")


def _format_setting(parent: DictConfig, key: str, path: str, depth: int, comments: _Comments) -> Iterator[str]:
    """Yield the lines of a setting and of those below it; a setting whose comment is ``None`` is hidden."""
    if comments.get(path, "") is None:
        return
    node, start = _get_value(parent, key), "  " * (depth + 1) + f"{key}:"
    if isinstance(node, DictConfig) and len(node):
        yield _add_comment(start, comments.get(path))  # a group's comment is the name of its choice
        for name in map(str, node):
            yield from _format_setting(node, name, f"{path}.{name}", depth + 1, comments)
    else:
        yield _add_comment(f"{start} {_format_value(node)}", comments.get(path))


def _get_value(parent: DictConfig, key: str) -> Any:
    """Return a setting's value with references resolved, or as written if they cannot be resolved here."""
    if OmegaConf.is_missing(parent, key):
        return "???"
    try:
        return parent[key]
    except OmegaConfBaseException:
        return OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[call-overload, index]


def _format_value(value: Any) -> str:
    if isinstance(value, (DictConfig, ListConfig)):
        return json.dumps(OmegaConf.to_container(value)).replace('"', "")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return '""' if value == "" else str(value)


def _add_comment(line: str, comment: str | None) -> str:
    return f"{line:<{COMMENT_COLUMN}}  # {comment}" if comment else line


def _read_comments(hydra: DictConfig) -> dict[str, str]:
    """Return the comments in the files of the chosen groups, by the full names of their settings."""
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    found: dict[str, str] = {}
    for group, choice in hydra.runtime.choices.items():
        if choice and not group.startswith("hydra"):
            found[group] = choice
            found |= read_file_comments(folders, f"{group}/{choice}", f"{group}.")
    return found | read_file_comments(folders, hydra.job.config_name, "")  # it overrides their values, too


def read_file_comments(folders: list[Path], name: str, prefix: str) -> dict[str, str]:
    """Return the comments in a config and in the configs of its group on which it is based."""
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        return {}
    text = read_text(path)
    found: dict[str, str] = {}
    for base in re.findall(r"^  - (\w+)(?:@\w+)?$", text, re.MULTILINE):
        if "/" in name and base != "_self_":
            found |= read_file_comments(folders, f"{name.rpartition('/')[0]}/{base}", prefix)
    parents: list[str] = []
    own_prefix = "" if "# @package _global_" in text else prefix
    for line in filter(None, map(_LINE.fullmatch, text.splitlines())):
        depth = len(line["indent"]) // 2
        parents[depth:] = [line["key"]]
        if line["comment"]:
            found[own_prefix + ".".join(parents)] = line["comment"]
    return found
