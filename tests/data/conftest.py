"""Image sets that tests may change."""

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.data.test_image_files import SETS


@pytest.fixture
def root(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the small image sets."""
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


@pytest.fixture
def published(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small image sets, which are taken for the published ones."""
    for kind in SETS:
        digests = {name: hashlib.sha256((root / kind.folder / name).read_bytes()).hexdigest() for name in kind.sha256}
        monkeypatch.setattr(kind, "sha256", digests)
    return root
