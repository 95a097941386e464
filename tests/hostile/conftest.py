"""A working directory with a run in it, and copies of it to be spoiled."""

import shutil
from pathlib import Path

import pytest

from tests.hostile import make_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory, to be left as it is."""
    cwd = tmp_path_factory.mktemp("hostile")
    make_scene(cwd)
    return cwd


@pytest.fixture
def cwd(scene: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(scene, tmp_path / "here", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")))
