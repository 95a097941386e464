"""JSON schemas of the files in conf/, so that an editor completes names and shows errors while one types.

    python -m src.training.validation.schema        # writes .vscode/schema/ in the working folder

Names and descriptions are those of the YAML files, valid values those of the checks in settings.py.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import get_class
from omegaconf import OmegaConf

from src.cli.catalog import GROUPS_WITHOUT_SECTION, flatten_names, list_choices, list_groups, read_setting_names
from src.cli.help import read_file_comments
from src.core.checks import Check
from src.core.hints import get_parameters
from src.core.places import CONF
from src.storage.files import write_json
from src.training.validation.settings import CHECKS, EVALUATION, EXPORT, PREDICTION

FOLDER = Path(".vscode", "schema")
DIALECT = "http://json-schema.org/draft-07/schema#"  # the one that editors know best
REFERENCE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}  # a value that is given elsewhere
HYDRA_KEYS = ("_target_", "_recursive_", "_convert_")
OTHER_SECTIONS = ("hydra", "recipe")  # of a whole config, besides the groups; they may have any entries
MULTI_SECTIONS = ("callbacks", "logger")  # they may have further parts
FOREIGN_CLASSES = ("torch.", "lightning.")  # whose other arguments may be added to a section

Schema = dict[str, Any]


class Source(NamedTuple):
    """What is known about settings, by their full names: checks, comments, and the classes of sections."""

    checks: Mapping[str, Check]
    comments: Mapping[str, str]
    targets: Mapping[str, Collection[str]] = {}


def build_schemas() -> dict[str, Schema]:
    """Return the schemas by name: one for each group; "run" for train.yaml and presets; the commands'."""
    groups = [group for group in list_groups() if not group.startswith(GROUPS_WITHOUT_SECTION)]
    run = _build_command("train", [name for name in CHECKS if name.partition(".")[0] not in groups], CHECKS)
    run["properties"] |= {group: {"$ref": f"{group}.json#/definitions/section"} for group in groups}
    run["properties"]["defaults"] = _build_defaults(groups)
    found = {"run": run} | {group: _build_group(group, groups) for group in groups}
    for name, checks in (("eval", EVALUATION), ("predict", PREDICTION), ("export", EXPORT)):
        found[name] = _build_command(name, checks, CHECKS | checks)
    return {name: {"$schema": DIALECT, **schema} for name, schema in found.items()}


def write_schemas(folder: Path) -> None:
    """Write each schema as a file in a folder."""
    for name, schema in build_schemas().items():
        write_json(folder / f"{name}.json", schema)


def _build_group(group: str, groups: Iterable[str]) -> Schema:
    """Return the schema of a group's files, which hold its section or, like presets, whole parts of a config."""
    choices = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    names = [name for choice in choices for name in read_setting_names(group, choice)]
    comments: dict[str, str] = {}
    for choice in choices:
        comments |= read_file_comments([CONF], f"{group}/{choice}", f"{group}.")
    targets = _find_targets(group, choices)
    names += [name for name in CHECKS if name.startswith(f"{group}.")]
    names += [f"{part}.{key}" for part, classes in targets.items() for key in _list_arguments(classes)]
    section = _build_section(group, names, Source(CHECKS, comments, targets))
    is_whole = {"anyOf": [{"required": [name]} for name in (*groups, *OTHER_SECTIONS)]}
    where = {"if": is_whole, "then": {"$ref": "run.json"}, "else": {"$ref": "#/definitions/section"}}
    return {**where, "definitions": {"section": section}}


def _build_command(name: str, more: Iterable[str], checks: Mapping[str, Check]) -> Schema:
    """Return the schema of a command's config, with the settings in its file and others that are checked."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=False)
    names = [each for each in [*flatten_names(content), *more] if each.partition(".")[0] not in OTHER_SECTIONS]
    section = _build_section("", names, Source(checks, read_file_comments([CONF], name, "")))
    return {**section, "properties": section["properties"] | {other: {"type": "object"} for other in OTHER_SECTIONS}}


def _build_section(path: str, names: Iterable[str], source: Source) -> Schema:
    """Return the schema of a section with the settings of these full names, of which it has no others."""
    prefix = f"{path}." if path else ""
    inside = list(dict.fromkeys(name for name in names if name.startswith(prefix)))
    keys = list(dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in inside))
    properties = {key: _build_setting(f"{prefix}{key}", inside, source) for key in keys}
    schema: Schema = {"type": "object", "properties": properties}
    if path in MULTI_SECTIONS:
        return {**schema, "additionalProperties": {"type": ["object", "null", "array"]}}  # the array is "defaults"
    if not path or path not in source.targets:
        return {**schema, "additionalProperties": False}
    # A user's class has its own settings: only those of the known classes are known.
    known = sorted(source.targets[path])
    properties["_target_"] = {"anyOf": [{"enum": known}, {"type": "string"}]}
    properties |= {"defaults": {"type": "array"}}
    own = {"propertyNames": {"enum": [*properties, *HYDRA_KEYS[1:]]}}
    return {**schema, "type": ["object", "null"], "if": {"properties": {"_target_": {"enum": known}}}, "then": own}


def _build_setting(name: str, names: Iterable[str], source: Source) -> Schema:
    """Return the schema of a setting, or of the section of this name."""
    comment = source.comments.get(name)
    if (check := source.checks.get(name)) is not None:
        return {"description": comment or check.description, "anyOf": [check.schema, REFERENCE]}
    if any(other.startswith(f"{name}.") for other in names):
        return _build_section(name, names, source)
    return {"description": comment} if comment else {}


def _build_defaults(groups: Iterable[str]) -> Schema:
    """Return the schema of a defaults list, which suggests the choices of the groups."""
    choices = {group: {"anyOf": [{"enum": list_choices(group)}, {}]} for group in groups}
    properties = choices | {f"override /{group}": choice for group, choice in choices.items()}
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object", "properties": properties}]}}


def _find_targets(group: str, choices: Iterable[str]) -> dict[str, set[str]]:
    """Return the classes that a group's files name, by the section that they are the class of."""
    found: dict[str, set[str]] = {}
    for choice in choices:
        content: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"), resolve=False)
        own = content.get(group, content) if isinstance(content, dict) else {}
        parts = {f"{group}.{key}": part for key, part in own.items()} if group in MULTI_SECTIONS else {group: own}
        for name, part in parts.items():
            if isinstance(part, Mapping) and "_target_" in part:
                found.setdefault(name, set()).add(part["_target_"])
    return found


def _list_arguments(classes: Iterable[str]) -> list[str]:
    """Return the arguments of those classes that are not this project's, whose arguments are in the YAML files."""
    found = [get_class(name) for name in sorted(classes) if name.startswith(FOREIGN_CLASSES)]
    return [name for target in found for name in get_parameters(target) if name not in ("self", "params")]


if __name__ == "__main__":
    write_schemas(FOLDER)
