"""Pictures drawn of a finished run afterwards: they are those that the run itself has drawn."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.core.errors import InputError
from src.training.redraw import draw_figures
from tests.command_line import get_small_image_settings, load_checkpoint, train

XOR = ("trainer.max_epochs=3", "model.hidden_size=2", "optimizer.lr=0.1", "callbacks=plane")
PLANE = {"cost_and_accuracy", "confusion_matrix", "curves", "decision_regions", "hidden_space"}
CIFAR = ("model=cnn", "callbacks=images", "trainer.max_epochs=2", "data.flip=true", "data.crop=4", "seed=3")
IMAGE_FIGURES = {
    "augmented_batch",
    "class_accuracy",
    "class_probabilities",
    "confusion_matrix",
    "curves",
    "feature_maps",
}
IMAGE_FIGURES |= {"first_layer", "misclassified", "samples"}


class RunFigures(NamedTuple):
    """A run's pictures (H, W, 3) by their names, and what lies in its folder beside them and its events.

    Those of earlier epochs, which are drawn while it trains, are left out.
    """

    pictures: dict[str, np.ndarray]
    others: dict[str, bytes]


def read_figures(folder: Path) -> RunFigures:
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    pictures = {path.stem: np.asarray(Image.open(path)) for path in folder.glob("figures/*.png")}
    others = {name: path.read_bytes() for name, path in files.items() if not name.endswith(".png") and not events(path)}
    return RunFigures(pictures, others)


def events(path: Path) -> bool:
    return path.name.startswith("events.out")


def last_steps(folder: Path) -> dict[str, int]:
    """The step of each picture's last version in the events."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: found.Images(tag)[-1].step for tag in found.Tags()["images"]}


def redraw_figures(folder: Path) -> RunFigures:
    """What is there when a run without its pictures has been drawn anew."""
    for path in [path for path in folder.rglob("*") if path.suffix == ".png" or events(path)]:
        path.unlink()
    shutil.rmtree(folder / "figures")
    draw_figures(folder)
    return read_figures(folder)


def assert_equal(again: RunFigures, before: RunFigures) -> None:
    assert set(again.pictures) == set(before.pictures)
    for name, picture in before.pictures.items():
        np.testing.assert_array_equal(again.pictures[name], picture, err_msg=name)
    assert again.others == before.others


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on points."""
    return train(*XOR, cwd=tmp_path_factory.mktemp("drawn")).folder


@pytest.fixture
def points(drawn: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(drawn, tmp_path / "points"))


def test_figures_of_points_redraw_identically(points: Path) -> None:
    """Redrawn figures of points equal the run's own pixel for pixel, and nothing else changes."""
    before, steps = read_figures(points), last_steps(points)
    assert set(before.pictures) == PLANE
    assert_equal(redraw_figures(points), before)
    assert last_steps(points) == steps
    assert EventAccumulator(str(points)).Reload().Tags()["scalars"] == []  # those of the run it has logged itself


def test_figures_of_images_redraw_identically(data_dir: Path, tmp_path: Path) -> None:
    """Redrawn figures of images equal the run's own pixel for pixel."""
    settings = (*get_small_image_settings("cifar10", data_dir), *CIFAR, "model.channels=[4,8]")
    folder = train(*settings, cwd=tmp_path).folder
    before = read_figures(folder)
    assert set(before.pictures) == IMAGE_FIGURES
    assert_equal(redraw_figures(folder), before)


def test_redraw_uses_the_available_device(tmp_path: Path) -> None:
    """A run that was trained on other devices is redrawn on the one that is available."""
    folder = train(*XOR, "logger=none", cwd=tmp_path).folder
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    config.trainer.update({"accelerator": "gpu", "devices": 2, "strategy": "ddp", "num_nodes": 2})
    config.ckpt_path = "gone.ckpt"
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    before = read_figures(folder)
    assert_equal(redraw_figures(folder), before)
    assert not any(map(events, folder.iterdir()))  # as it has kept none


def test_redraw_needs_callback_state_in_checkpoint(
    tmp_path: Path,
) -> None:
    """Figures of what callbacks recorded in training are redrawn if the checkpoint has it, else left out."""
    norms = "+callbacks.norms={_target_:src.callbacks.figures.gradient_norms.GradientNorms,every_n_steps:2}"
    descent = ("data=linear", "model.hidden_size=[]", "model.output_bias=false", "callbacks=descent", norms)
    folder = train(*descent, "optimizer=sgd", "trainer.max_epochs=2", cwd=tmp_path).folder
    before = read_figures(folder)
    assert {"descent", "gradient_norms", "curves"} < set(before.pictures)
    assert_equal(redraw_figures(folder), before)
    last = folder / "checkpoints" / "last.ckpt"
    content = load_checkpoint(last)
    content["callbacks"] = {name: content["callbacks"][name] for name in ("History", "RunCheckpoint")}
    torch.save(content, last)
    assert set(before.pictures) - set(redraw_figures(folder).pictures) == {"descent", "gradient_norms"}


def test_best_checkpoint_suffices_to_redraw(points: Path) -> None:
    (points / "checkpoints" / "last.ckpt").unlink()
    before = read_figures(points)
    assert_equal(redraw_figures(points), before)


def test_failed_redraw_changes_nothing(points: Path) -> None:
    (points / "checkpoints" / "last.ckpt").write_bytes(b"none")
    before = sorted(points.rglob("*"))
    with pytest.raises(InputError, match=r"last\.ckpt is truncated or not a checkpoint"):
        draw_figures(points)
    assert sorted(points.rglob("*")) == before
