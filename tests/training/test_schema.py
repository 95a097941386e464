"""Schemas for editors: they accept the files in conf/ and what the checks accept, and reject what is misspelt."""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from omegaconf import OmegaConf
from referencing import Registry, Resource

from src.training.validation.schema import FOLDER, build_schemas
from src.training.validation.settings import CHECKS, EVALUATION, EXPORT, PREDICTION
from tests.command_line import CONF, ROOT

SCHEMAS = build_schemas()
FILES = [*sorted(CONF.glob("*.yaml")), *sorted(CONF.glob("*/*.yaml"))]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 500, 10**7, 10**12, 2**32 - 1, 0.0, 0.5, 1.0, 1e-9, 1e30, -0.5),
    *("", "a", "lr", "total_steps", "a/b.csv", "x.png", "00:01:00:00", "mean", "none", "cpu", "test/acc"),
    *([], [0], [1, 2], [0.5, 0.9], ["a"], [1, "a"], [None], {}, {"hours": 1}, {"_target_": "a.B"}),
]


def find_errors(name: str, content: Any) -> list[str]:
    """What a schema has against the content of a file."""
    files = [(f"{other}.json", Resource.from_contents(schema)) for other, schema in SCHEMAS.items()]
    registry: Any = Registry().with_resources(files)
    return [error.message for error in Draft7Validator(SCHEMAS[name], registry=registry).iter_errors(content)]


def test_committed_schemas_are_up_to_date() -> None:
    """Write them again with `make schema`."""
    assert {path.stem: json.loads(path.read_text()) for path in (ROOT / FOLDER).glob("*.json")} == SCHEMAS


def test_editor_finds_schema_of_each_file() -> None:
    mapping = json.loads((ROOT / ".vscode/settings.json").read_text())["yaml.schemas"]
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        fitting = [Path(file) for file, patterns in mapping.items() if any(fnmatch(name, each) for each in patterns)]
        assert len(fitting) == 1
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert find_errors(fitting[0].stem, content) == [], name


@pytest.mark.parametrize(
    ("schema", "content", "message"),
    [
        ("model", {"hidden_sise": 3}, "hidden_sise"),
        ("model", {"_target_": "src.models.mlp.MLP", "dropout": "much"}, "much"),
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": -1}, "-1"),
        ("run", {"trianer": {"max_epochs": 3}}, "trianer"),
        ("run", {"trainer": {"max_epochs": 0.5}}, "0.5"),
        ("run", {"seed": "seven"}, "seven"),
        ("run", {"model": {"hidden_sise": 3}}, "hidden_sise"),
        ("data", {"data": {"batch_size": []}}, "[]"),
        ("callbacks", {"progress": {"refresh_rate": 0}}, "0"),
        ("predict", {"grids": "a.png"}, "grids"),
    ],
)
def test_wrong_settings_are_shown(schema: str, content: Any, message: str) -> None:
    (error,) = find_errors(schema, content)
    assert message in error


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ("model", {"_target_": "mylab.Net", "depth": 3}),
        ("optimizer", {"_target_": "torch.optim.SGD", "foreach": True}),
        ("run", {"callbacks": {"mine": {"_target_": "mylab.Mine", "often": 3}, "curves": None}}),
        ("run", {"model": {"hidden_size": "${seed}"}, "optimizer": {"lr": "???"}, "recipe": {"own": 1}}),
    ],
)
def test_own_classes_and_references_are_accepted(schema: str, content: Any) -> None:
    assert find_errors(schema, content) == []


def test_schemas_accept_what_checks_accept() -> None:
    for name, check in (CHECKS | EVALUATION | PREDICTION | EXPORT).items():
        validator = Draft7Validator(dict(check.schema))
        refused = [value for value in VALUES if check.allows(value) and not validator.is_valid(value)]
        assert refused == [], name
