"""What a preset's header says can be typed, and no preset goes without a test."""

import re
from pathlib import Path

import pytest

from tests.command_line import CONF
from tests.course.presets import commands, composed

PRESETS = {
    f"{group}={path.stem}": path for group in ("experiment", "sweep") for path in (CONF / group).glob("[!_]*.yaml")
}
TESTS = [Path(__file__).parent / f"test_{kind}_presets.py" for kind in ("toy", "image", "sweep")]
TESTS.append(Path(__file__).parent.parent / "sweeps" / "test_general_presets.py")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_header_commands_are_valid(preset: str) -> None:
    """All commands in a preset's header compose, and the first chooses the preset itself."""
    path = PRESETS[preset]
    given = commands(path)
    assert len(given) == path.read_text().count("python -m src.train")
    assert preset in given[0]
    choices = [composed(*arguments).hydra.runtime.choices for arguments in given]
    assert choices[0][path.parent.name] == path.stem


def test_every_preset_is_run_by_a_test() -> None:
    named = re.findall(r'"((?:experiment|sweep)=\w+)"', "".join(path.read_text() for path in TESTS))
    assert set(named) == set(PRESETS)
