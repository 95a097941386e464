"""Read YAML files of unknown origin as plain values.

A file's kind, size and depth are checked before anything is built from it. Tags are refused, since they build objects,
and anchors, since ten lines with them can expand to a billion.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from src.core.errors import InputError
from src.storage.files import read_bytes

MAX_BYTES = 2**20  # of a file
MAX_VALUE_LENGTH = 10_000  # characters of a value
MAX_DEPTH = 50  # levels
MAX_INTEGER = 2**128  # limit of whole numbers; far larger ones take too long to print
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters, which a terminal would execute


def read_yaml(path: Path) -> Any:
    """Return a YAML file's content: dicts, lists, texts, numbers, bools and ``None``, with references unresolved.

    Raises:
        InputError: if the file is missing, unreadable, not plain YAML or damaged.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode()
        _check_events(text)
        content = yaml.load(text, Loader=get_yaml_loader())  # a safe loader, with OmegaConf's numbers
        _check_values(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return content


def _check_events(text: str) -> None:
    """Raise `ValueError` if a YAML text has anchors, tags or very long values, or is nested too deeply."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if getattr(event, "anchor", None):
            raise ValueError(f"it has an anchor ({event.anchor}), and such files have none")
        if getattr(event, "tag", None):
            raise ValueError(f"it has a tag ({event.tag}), and such files have none")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_VALUE_LENGTH:
            raise ValueError(f"it has a value of more than {MAX_VALUE_LENGTH:,} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _check_values(content: Any) -> None:
    """Raise `ValueError` for keys that are neither texts nor numbers, control characters and huge numbers."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, (str, int)):
                raise ValueError(f"{key} is not a setting's name")
            _check_values(key)
            _check_values(value)
    elif isinstance(content, list):
        for value in content:
            _check_values(value)
    elif isinstance(content, str) and CONTROL_CHARACTERS.search(content):
        raise ValueError("it has control characters")
    elif isinstance(content, int) and abs(content) > MAX_INTEGER:
        raise ValueError("it has a whole number of more than 128 bits")
