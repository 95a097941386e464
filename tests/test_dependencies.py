"""What the project depends on: no versions with known holes, and hashes for those that are pinned."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from src.core.extras import LOGGER_PACKAGES
from tests.command_line import build_python_path, run_process
from tests.dependencies import LOCK, ROOT, audit, line_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HIDE_MODULES = """
import sys
from importlib.machinery import PathFinder
find_installed = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {names} else find_installed(name, path, target)
PathFinder.find_spec = find_spec
"""
RUN_COMMANDS = """
import sys
from pathlib import Path
from tests.command_line import run

for module, *arguments in (
    ("src.train", "trainer.max_epochs=2", "name=one"),
    ("src.eval", "run=outputs/runs/one"),
    ("src.predict", "run=outputs/runs/one", "split=test"),
    ("src.train", "-m", "trainer.max_epochs=2", "seed=1,2", "name=two"),
    ("src.runs",),
):
    outcome = run(module, *arguments, cwd=Path.cwd())
    if outcome.code:
        sys.exit(outcome.text)
    print(module)
"""
LOCK_LINE = re.compile(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def read_requirements() -> dict[str, Requirement]:
    """What the project asks for, its extras' included but for those that the tests do without."""
    parts = PROJECT["optional-dependencies"].items()
    extras = [
        text for name, texts in parts if name not in ("table", "notebook", *LOGGER_PACKAGES.values()) for text in texts
    ]
    found = [Requirement(text) for text in PROJECT["dependencies"] + extras]
    return {each.name: each for each in found if each.name != PROJECT["name"]}


def read_pinned_versions() -> dict[str, str]:
    """The versions in constraints.txt, by their names in one spelling."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def find_packages_of_plain_installation() -> set[str]:
    """The packages that come with the project if none of its extras is asked for, by their names in one spelling."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    while waiting:
        each = waiting.pop()
        if (name := canonicalize_name(each.name)) in found or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in requires(name) or []]
    return found


def test_plain_installation_has_every_import(tmp_path: Path) -> None:
    """A run, its evaluation, a sweep and the lists work without any package that only the extras bring."""
    plain = find_packages_of_plain_installation()
    providers = {name: {canonicalize_name(each) for each in by} for name, by in packages_distributions().items()}
    hidden = sorted(name for name, by in providers.items() if not by & plain and name not in ("src", "tests"))
    assert {"ray", "optuna", "requests", "pytest"} <= set(hidden)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(HIDE_MODULES.format(names=hidden))
    (tmp_path / "commands.py").write_text(RUN_COMMANDS)
    path = f"{tmp_path / 'path'}:{build_python_path()}"
    outcome = run_process("commands", cwd=tmp_path, is_fresh=True, PYTHONPATH=path)
    assert outcome.code == 0, outcome.text
    assert outcome.out.splitlines() == ["src.train", "src.eval", "src.predict", "src.train", "src.runs"], outcome.text


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("hydra-core", ["1.3.2", "1.3.3", "1.3.7"], "1.3.8"),
        ("lightning", ["2.6.1", "2.6.2", "2.6.3", "2.6.5"], "2.6.6"),
        ("torch", ["2.5.1", "2.9.1"], "2.11.0"),
        ("filelock", ["3.20.0", "3.20.2"], "3.20.3"),
        ("jinja2", ["3.1.3", "3.1.5"], "3.1.6"),
        ("ray", ["2.51.0"], "2.52.0"),
        ("pytest", ["9.0.2"], "9.0.3"),
    ],
)
def test_vulnerable_versions_are_excluded(name: str, bad: list[str], good: str) -> None:
    allowed = read_requirements()[name].specifier
    assert not [version for version in bad if version in allowed]
    assert good in allowed


def test_pinned_versions_meet_requirements() -> None:
    versions = read_pinned_versions()
    for name, requirement in read_requirements().items():
        assert versions[canonicalize_name(name)] in requirement.specifier, name


def test_lock_has_hash_per_version() -> None:
    """The lock has a hash for each pinned version."""
    locks = list(ROOT.glob("lock-*.txt"))
    assert [path.name for path in locks] == ["lock-linux-x86_64-cpython-311.txt"]
    head, *lines = locks[0].read_text().splitlines()
    matches = [LOCK_LINE.fullmatch(line) for line in lines]
    assert head.startswith("#") and all(matches)
    locked = {canonicalize_name(match[1]): match[2] for match in matches if match}
    assert locked == read_pinned_versions()
    assert "://" not in locks[0].read_text()  # nothing of where the files were


def test_lock_line_uses_pip_hash() -> None:
    """A line of the lock has the hash that pip reports."""
    report = {
        "metadata": {"name": "Jinja2", "version": "3.1.6"},
        "download_info": {"url": "file:///a.whl", "archive_info": {"hashes": {"sha256": "ab" * 32}}},
    }
    assert line_of(report) == f"Jinja2==3.1.6 --hash=sha256:{'ab' * 32}\n"


def test_locked_install_requires_hashes() -> None:
    command = ["make", "--dry-run", f"PYTHON={sys.executable}", "install-locked"]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tools, all_of_it, project = [line for line in recipe.splitlines() if "pip install" in line]
    assert f"'^setuptools==' {LOCK.name}" in tools and f"--requirement {LOCK.name}" in all_of_it
    assert all("--require-hashes --no-deps" in line for line in (tools, all_of_it))
    assert all("--no-deps --no-build-isolation" in line for line in (all_of_it, project))
    assert project.endswith("--editable .")


# Asking for known holes

TABLE = "Name   Version ID\nfilelock 3.13.0  CVE-2025-68146"


def make_fake_command(out: str, err: str, status: int) -> list[str]:
    """A command that writes and ends as pip-audit would."""
    return [
        sys.executable,
        "-c",
        f"import sys; print({err!r}, file=sys.stderr); print({out!r}, end=''); sys.exit({status})",
    ]


def test_audit_reports_known_vulnerabilities(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        audit(make_fake_command(TABLE, "Found 1 known vulnerability in 1 package", 1))
    assert ended.value.code == 1
    assert capsys.readouterr().out == f"{TABLE}\n"


def test_audit_passes_without_vulnerabilities(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        audit(make_fake_command("", "No known vulnerabilities found", 0))
    assert ended.value.code == 0
    assert capsys.readouterr().out == "No known vulnerabilities found\n"


def test_failed_audit_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """An audit that could not be carried out is reported as such and fails."""
    with pytest.raises(SystemExit) as ended:
        audit(make_fake_command("", "Traceback (most recent call last):\n  File\nConnectionError: no network", 1))
    assert ended.value.code == "not audited: ConnectionError: no network"  # which Python prints, and ends with 1
    assert capsys.readouterr().out == ""
