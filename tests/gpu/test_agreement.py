"""Every model learns every data set on the GPU as it does on the CPU."""

from pathlib import Path

import pytest
import torch

from tests.command_line import Outcome, get_small_image_settings, read_history, read_weights, train_bare

pytestmark = pytest.mark.gpu
TOYS = ("xor", "gate", "pulse", "linear", "parabola", "cubic", "ten_points", "wheat")
IMAGES = ("mnist", "fashion_mnist", "cifar10")
CASES = [
    *[(model, data) for model in ("mlp", "nearest_neighbor") for data in (*TOYS, *IMAGES)],
    *[("cnn", data) for data in IMAGES],
]
EXACT_CASES = [("mlp", "cifar10"), ("cnn", "cifar10"), *[("resnet18", data) for data in IMAGES]]
SETTINGS = ("optimizer=sgd", "optimizer.lr=0.02", "trainer.max_epochs=2")
NO_AUGMENTATION = ("data.flip=false", "data.crop=0", "data.cutout=0")  # on a GPU other random numbers are drawn


def make_settings(model: str, data: str, folder: Path) -> list[str]:
    chosen = [f"data={data}", f"paths.data={folder}"]
    if data in IMAGES:
        chosen = [*get_small_image_settings(data, folder), "data.train_size=32", *NO_AUGMENTATION]
    dropout = [] if model == "nearest_neighbor" else ["model.dropout=0"]
    stem = ["model.stem=imagenet"] if model == "resnet18" else []  # a tenth of the work
    return [f"model={model}", *chosen, *SETTINGS, *dropout, *stem]


def assert_close(here: Outcome, there: Outcome, tolerance: float) -> None:
    """The same metrics and weights, to a tolerance relative to the largest of each."""
    for row, its in zip(read_history(here.folder), read_history(there.folder), strict=True):
        assert row == pytest.approx(its, rel=tolerance, abs=tolerance)
    for mine, other in zip(tensors(here), tensors(there), strict=True):
        scale = float(other.abs().max()) if other.numel() else 1.0
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * max(1.0, scale))
    tested = {name: value for name, value in there.metrics.items() if name in ("test/loss", "test/acc")}
    assert {name: here.metrics[name] for name in tested} == pytest.approx(tested, rel=tolerance, abs=tolerance)


def tensors(outcome: Outcome) -> list[torch.Tensor]:
    """The weights; what nearest neighbours remember is no tensor."""
    return [value for value in read_weights(outcome.folder).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(("model", "data"), CASES, ids=["-".join(case) for case in CASES])
def test_float32_run_agrees_with_cpu(model: str, data: str, wheat_dir: Path, trainer: str, tmp_path: Path) -> None:
    """A run on the GPU agrees with one on the CPU up to rounding in float32."""
    settings = make_settings(model, data, wheat_dir)
    assert_close(train_bare(*settings, trainer, cwd=tmp_path), train_bare(*settings, "trainer=cpu", cwd=tmp_path), 2e-3)


@pytest.mark.parametrize(("model", "data"), EXACT_CASES, ids=["-".join(case) for case in EXACT_CASES])
def test_float64_run_agrees_with_cpu(model: str, data: str, data_dir: Path, trainer: str, tmp_path: Path) -> None:
    """In float64 the weights agree with those of a run on the CPU to nine digits.

    In ResNet18 batch norm over the few images of these tests makes differences of float32 a percent within two epochs.
    """
    settings = [*make_settings(model, data, data_dir), "trainer.precision=64-true"]
    # Metrics are logged in float32.
    here, there = train_bare(*settings, trainer, cwd=tmp_path), train_bare(*settings, "trainer=cpu", cwd=tmp_path)
    assert_close(here, there, 1e-6)
    torch.testing.assert_close(tensors(here), tensors(there), rtol=0, atol=1e-9)
