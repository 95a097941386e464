"""YAML of unknown origin, and the references in it."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.core.errors import InputError
from src.storage.plain import read_yaml
from src.storage.references import UNRESOLVED, check_expanded_size, extract_external_references


def write_config(folder: Path, content: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_values_match_omegaconf(tmp_path: Path) -> None:
    content = "a: 1e-3\nb: [1, 2.5, true, null, 2026-11-27]\nc: {d: '1', 2: 'ü\n\n  e'}\n"
    assert read_yaml(write_config(tmp_path, content)) == {
        "a": 0.001,
        "b": [1, 2.5, True, None, "2026-11-27"],
        "c": {"d": "1", 2: "ü\ne"},
    }


BILLION = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)),
    ]
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (BILLION, "an anchor (a0)"),
        ("a: &x 1\nb: *x", "an anchor (x)"),
        ("a: *x", "an anchor (x)"),
        ("a: !!python/object/apply:os.system [touch ran]", "a tag (tag:yaml.org,2002:python/object/apply:os.system)"),
        ("a: !!python/object/apply:pathlib.PosixPath [/etc]", "a tag"),
        ("a: !!binary aGVsbG8=", "a tag"),
        ("!x {a: 1}", "a tag (!x)"),
        ("[" * 100_000, "more than 50 levels deep"),
        ("{a: " * 100_000, "more than 50 levels deep"),
        ("- " * 100_000, "more than 50 levels deep"),
        ("? " * 100_000, "more than 50 levels deep"),
        ("a: " + "x" * 20_000, "a value of more than 10,000 characters"),
        ("a: " + ":59" * 3_400, "a value of more than 10,000 characters"),  # base 60, which takes a square of time
        ("a: 0x" + "f" * 100, "more than 128 bits"),
        ("a: " + "9" * 5_000, "is damaged"),
        ('a: "\\e]0;title\\a"', "control characters"),
        ('"\\x9b2J": 1', "control characters"),
        ("a: 1\na: 2", "duplicate key a"),
        ("a: 1\n---\nb: 2", "is damaged"),
        ("{[a]: 1}", "is damaged"),
        ("1.5: a", "1.5 is not a setting's name"),
        ("a: [1, 2", "is damaged"),
        (b"a: \xff\xfe", "is damaged"),
        (b"a: \x00", "is damaged"),
        (b"a: 1\n" * 300_000, "such a file has at most 1,048,576"),
    ],
    ids=range(25),
)
def test_unsafe_yaml_is_refused(tmp_path: Path, content: str | bytes, told: str) -> None:
    """Anything but plain values is refused in one line, before it is built."""
    path = write_config(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_irregular_file_is_refused_immediately(tmp_path: Path) -> None:
    """A pipe or a missing file is refused without waiting."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is not a regular file"):
        read_yaml(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"nothing cannot be read \(No such file"):
        read_yaml(tmp_path / "nothing")


# References


def test_only_external_references_are_extracted() -> None:
    """References to other settings stay; those to anything outside are taken out."""
    content = {
        "seed": 1,
        "data": {"order": "${seed}", "same": "${.order}", "up": "${..seed}", "list": ["${..order}", "${oc.env:HOME}"]},
        "lr": "${oc.select:recipe.adam.lr,0.001}",
        "nothing": "${oc.select:recipe}",
        "name": "width_${seed}_${data.order}",
    }  # fmt: skip
    outside = {
        "a": "${oc.env:HOME,x}",
        "b": "${now:%Y}",
        "c": "x${oc.decode:y}z",
        "d": "${hydra:runtime.cwd}",
        "e": "${oc.select:a,${oc.env:HOME}}",
        "f": "${${name}}",
        "g": "${name_or:a,b}",
        "h": "$${seed}{oc.env:HOME}",
        "i": "${seed",
        "j": "${oc.create:{a: 1}}",
    }
    found = extract_external_references(content | {"x": (held := dict(outside))})
    assert found == {"data.list.1": "${oc.env:HOME}"} | {f"x.{key}": text for key, text in outside.items()}
    assert set(held.values()) == {UNRESOLVED}
    check_expanded_size(content)
    resolved: Any = OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    assert resolved["data"] == {"order": 1, "same": 1, "up": 1, "list": [1, UNRESOLVED]}
    assert (resolved["lr"], resolved["nothing"], resolved["name"]) == (0.001, None, "width_1_1")


def make_doubling_settings(count: int, what: Any) -> dict[str, Any]:
    """Settings that each name the one before it twice."""
    return {"a0": what} | {f"a{n}": f"${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, count)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (make_doubling_settings(40, "x"), "more than 4,194,304 characters"),
        ({"a0": ["x"]} | {f"a{n}": [f"${{a{n - 1}}}"] * 9 for n in range(1, 20)}, "more than 4,194,304 characters"),
        ({"a": "${b}", "b": "${a}"}, "form a cycle"),
        ({"a": {"b": "${a}"}}, "form a cycle"),
        ({f"a{n}": f"${{a{n + 1}}}" for n in range(1000)} | {"a1000": 1}, "or a chain that is too long"),
        ({"a": "${b.c}", "b": 1}, "a: ${b.c} refers to a setting that does not exist"),
        ({"a": ["${..nowhere}"]}, "a.0: ${..nowhere} refers to a setting that does not exist"),
    ],
    ids=range(7),
)
def test_invalid_references_are_refused(content: dict[str, Any], told: str) -> None:
    """References that multiply, form a cycle or refer to nothing are refused."""
    with pytest.raises(ValueError, match=re.escape(told)):
        check_expanded_size(content)


def test_many_references_are_accepted() -> None:
    check_expanded_size({"seed": 1, "list": ["${seed}"] * 10_000} | make_doubling_settings(10, "x"))
