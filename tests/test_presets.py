"""What a preset tuned for one choice does not silently stay with another."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.presets import tuned
from tests.command_line import BARE, quick, run

PRESET = """
# @package _global_
defaults:
  - override /optimizer: sgd
optimizer:
  lr: 0.5
recipe:
  max_epochs: 1
  sgd: { momentum: 0.5 }
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A config folder of one's own, with a preset that sets a learning rate for its optimizer."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "fast.yaml").write_text(PRESET)
    return f"hydra.searchpath=[{tmp_path / 'mine'}]"


def optimizer_of(folder: Path) -> dict[str, object]:
    settings = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=True)
    assert isinstance(settings, dict)
    return dict(settings["optimizer"])


def test_a_preset_has_its_way_with_its_own_optimizer(mine: str, tmp_path: Path) -> None:
    made = optimizer_of(quick(mine, "experiment=fast", cwd=tmp_path).folder)
    assert (made["lr"], made["momentum"]) == (0.5, 0.5)


def test_another_optimizer_does_not_keep_the_presets_learning_rate(mine: str, tmp_path: Path) -> None:
    error = run("src.train", mine, "experiment=fast", "optimizer=adam", *BARE, cwd=tmp_path).error
    assert "experiment=fast sets optimizer.lr for optimizer=sgd" in error
    assert "with optimizer=adam give optimizer.lr=… too" in error


def test_another_optimizer_with_its_own_learning_rate_is_taken(mine: str, tmp_path: Path) -> None:
    made = optimizer_of(quick(mine, "experiment=fast", "optimizer=adam", "optimizer.lr=0.02", cwd=tmp_path).folder)
    assert (made["_target_"], made["lr"]) == ("torch.optim.Adam", 0.02)


def test_a_preset_that_chooses_nothing_ties_nothing() -> None:
    assert tuned(OmegaConf.create({"optimizer": {"lr": 0.5}})) == []
    assert tuned(OmegaConf.create(PRESET)) == [("optimizer", "sgd", "optimizer.lr")]
