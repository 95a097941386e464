"""What several tests of presets share."""

from pathlib import Path

import pytest

from tests.command_line import get_image_settings, train_bare
from tests.data.test_wheat import make_lines, trust_text


@pytest.fixture(scope="session")
def small(data_dir: Path) -> list[str]:
    """The settings for the small image files: 160 images to train on, 40 to choose by."""
    return [*get_image_settings(data_dir), "data.val_size=40"]


@pytest.fixture(scope="session")
def pretrained(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a run of resnet18_pretrain, named as its header has it; with one (large) checkpoint."""
    cwd = tmp_path_factory.mktemp("transfer")
    few = ["data.train_size=64", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=3"]
    train_bare("experiment=resnet18_pretrain", "name=resnet18_pretrain", *small, *few, cwd=cwd)
    return cwd


@pytest.fixture
def wheat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The settings for a data folder with 60 kernels, 20 of each variety."""
    folder = tmp_path / "data" / "wheat"
    folder.mkdir(parents=True)
    (folder / "seeds_dataset.txt").write_text(trust_text(monkeypatch, "\n".join(make_lines())))
    return [f"paths.data={tmp_path / 'data'}"]
