"""Read YAML of unknown origin as plain values.

What a file holds is looked at before anything is built from it: its kind and size, how deep it goes; tags, which
build objects, and anchors, by which ten lines become a billion, are refused.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from src.core.errors import InputError
from src.storage.files import read_bytes

MOST_BYTES = 2**20  # of a file
LONGEST = 10_000  # characters of a value
DEEPEST = 50  # levels
LARGEST = 2**128  # a whole number that can still be written out
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # signs that a terminal obeys


def read_yaml(path: Path) -> Any:
    """Return a YAML file's content: dicts, lists, texts, numbers, truth values and ``None``, references unresolved.

    Raises:
        InputError: if it is missing, cannot be read, is no such file or damaged.
    """
    try:
        text = read_bytes(path, MOST_BYTES).decode()
        _check_events(text)
        content = yaml.load(text, Loader=get_yaml_loader())  # a safe loader, with OmegaConf's numbers
        _check_values(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return content


def _check_events(text: str) -> None:
    """Raise an error if a YAML text has more in it than plain values, or goes too deep."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if getattr(event, "anchor", None):
            raise ValueError(f"it has an anchor ({event.anchor}), and such files have none")
        if getattr(event, "tag", None):
            raise ValueError(f"it has a tag ({event.tag}), and such files have none")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST:
            raise ValueError(f"it has a value of more than {LONGEST:,} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it is more than {DEEPEST} levels deep")


def _check_values(content: Any) -> None:
    """Raise an error for names that are no texts or numbers, control characters and endless numbers."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, (str, int)):
                raise ValueError(f"{key} is no setting's name")
            _check_values(key)
            _check_values(value)
    elif isinstance(content, list):
        for value in content:
            _check_values(value)
    elif isinstance(content, str) and CONTROL.search(content):
        raise ValueError("it has control characters")
    elif isinstance(content, int) and abs(content) > LARGEST:
        raise ValueError("it has a whole number of more than 128 bits")
