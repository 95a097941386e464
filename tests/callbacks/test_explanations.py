"""What explains predictions: calibration, saliency and the embedding, with the weights set by hand."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from lightning import LightningModule
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from src.callbacks.explanations.calibration import ReliabilityDiagram, compute_error, count_by_confidence
from src.callbacks.explanations.embedding import Embedding, compute_principal_components, make_thumbnails
from src.callbacks.explanations.saliency import Saliency, SaliencyMaps, attach_overlays, compute_saliency
from src.data.loading.samples import Samples
from src.models.mlp import MLP
from tests.callbacks.test_pictures_of_a_run import NAMES, Pixels, make_brightness_model, pixels
from tests.doubles import ZERO_RATE_SGD, quiet_trainer

# Calibration


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_calibration_error_equals_that_of_torchmetrics(classes: int) -> None:
    """One output is the logit of the second class against 0."""
    generator = torch.Generator().manual_seed(classes)
    outputs = 2 * torch.randn(1000, classes, generator=generator)
    targets = torch.randint(max(classes, 2), (1000,), generator=generator)
    both = torch.cat([torch.zeros(1000, 1), outputs], dim=1) if classes == 1 else outputs
    expected = multiclass_calibration_error(both.softmax(dim=1), targets, num_classes=max(classes, 2), n_bins=15)
    found = compute_error(count_by_confidence(outputs, targets).numpy())
    assert found > 0.1
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_reliability_bars_are_accuracies(drawn: list[Figure], tmp_path: Path) -> None:
    # Outputs (0, b, 2b) with b = ±0.5 and ±3: the confidence is 0.506 or 0.950, in the bins from 7/15 and from 14/15.
    test = pixels([105, 95, 105, 95, 130, 70], [2, 0, 0, 1, 2, 0])
    trainer = quiet_trainer(tmp_path, callbacks=[ReliabilityDiagram()])
    trainer.test(make_brightness_model(), datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    upper, lower = drawn[0].axes
    low, high = [1 / (1 + np.exp(-b) + np.exp(-2 * b)) for b in (0.5, 3)]
    bars, above, below = [[(bar.get_x(), bar.get_y(), bar.get_height()) for bar in each] for each in upper.containers]
    assert np.allclose(bars, [(7 / 15, 0, 2 / 4), (14 / 15, 0, 1)])
    assert np.allclose(above, [(7 / 15, 2 / 4, low - 2 / 4), (14 / 15, 1, 0)])
    assert np.allclose(below, [(7 / 15, low, 0), (14 / 15, high, 1 - high)])
    assert [bar.get_height() for bar in lower.containers[0]] == pytest.approx([4 / 6, 2 / 6])
    error = (4 * (low - 0.5) + 2 * (1 - high)) / 6
    assert f"expected calibration error {error:.2%}" in drawn[0].get_suptitle()
    assert drawn[0].get_suptitle().startswith(f"Test set: 66.7% correct, mean confidence {(2 * low + high) / 3:.1%}")
    assert (tmp_path / "figures" / "reliability.png").is_file()


# Saliency


class Maps(LightningModule):
    """Passes two channels through a convolution and an activation in place, and weighs their means for each class."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        convolution, output = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, len(weights), bias=False)
        with torch.no_grad():
            convolution.weight.copy_(torch.eye(2)[:, :, None, None])
            output.weight.copy_(torch.tensor(weights))
        self.net = nn.Sequential(convolution, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), output)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.net(x)
        return outputs


CHANNELS = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 2.0], [2.0, -1.0]]]])


@pytest.mark.parametrize("weights", [[[1.0, -1.0], [0.0, 0.0]], [[1.0, -1.0]], [[-1.0, 1.0]]])
def test_grad_cam_equals_one_by_hand(weights: list[list[float]]) -> None:
    """A single output is explained by what moves it away from 0, up or down."""
    # The outputs' gradients are 1/4 at each pixel of the first channel and -1/4 at the two positive ones of the second:
    # the channels weigh 1 and -1/2, so the map is ReLU(first - second / 2) = (1.5, 1; 2, 4.5).
    saliency = compute_saliency(Maps(weights), CHANNELS)
    assert saliency is not None and saliency.method == "Grad-CAM"
    torch.testing.assert_close(saliency.maps, torch.tensor([[[1.5, 1.0], [2.0, 4.5]]]) / 4.5)


def test_saliency_without_convolution_is_gradient() -> None:
    """Of the predicted class, and of the stronger channel."""
    model = MLP([], "relu", 0.0, False, in_shape=[2, 1, 2], num_classes=2, task="multiclass", optimizer=ZERO_RATE_SGD)
    layer: Any = list(model.net.modules())[-1]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[9.0, 9.0, 9.0, 9.0], [1.0, -2.0, -4.0, 1.0]]))
        layer.bias.copy_(torch.tensor([0.0, 100.0]))
    saliency = compute_saliency(model.train(), torch.ones(3, 2, 1, 2))
    assert saliency is not None and saliency.method == "gradient"
    torch.testing.assert_close(saliency.maps, torch.tensor([[[1.0, 0.5]]]).expand(3, 1, 2))
    assert model.training and layer.weight.grad is None


def test_patches_are_no_maps_of_grad_cam() -> None:
    """A network that only cuts an image into patches, as a transformer does, has gradients instead."""
    model = Maps([[1.0, 1.0]])
    model.net[0] = nn.Conv2d(2, 2, 2, stride=2)
    saliency = compute_saliency(model, CHANNELS.repeat(1, 1, 2, 2))
    assert saliency is not None and saliency.method == "gradient"


def test_outputs_without_gradient_are_not_explained() -> None:
    class Rounded(Maps):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach().round()

    assert compute_saliency(Rounded([[1.0, 1.0]]), CHANNELS) is None


def test_overlay_is_brightest_where_map_is() -> None:
    images = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    maps = torch.zeros(2, 4, 4)
    maps[1, 2, 3] = 1
    pairs = attach_overlays(images, Saliency(maps, "gradient"))
    assert pairs.shape == (2, 3, 4, 9) and pairs.dtype == torch.uint8
    assert pairs[..., :4].eq(100).all() and pairs[..., 4].eq(255).all()
    assert pairs[0, :, :, 5:].sum(dim=0).unique().numel() == 1
    assert int(pairs[1, :, :, 5:].sum(dim=0).argmax()) == 2 * 4 + 3


def test_saliency_is_drawn_beside_test_images(drawn: list[Figure], tmp_path: Path) -> None:
    test = pixels([150, 60, 110], [2, 0, 1])
    trainer = quiet_trainer(tmp_path, callbacks=[SaliencyMaps(count=2)])
    trainer.test(make_brightness_model(), datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    titles = [axis.get_title() for axis in drawn[0].axes if axis.images]
    assert titles == [
        "cat, predicted cat (98.2%)",
        "dog, predicted emu (66.5%)",
    ]  # 1 / (1 + e⁻⁴ + e⁻⁸) and 1 / (1 + e⁻¹ + e⁻²)


# The embedding


def test_projector_files_hold_hidden_values(drawn: list[Figure], tmp_path: Path) -> None:
    """Values, classes and thumbnails in the same order, by paths inside of the run's folder."""
    model = MLP([3], "relu", 0.0, False, in_shape=[1, 1, 1], num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD)
    test = pixels([150, 60, 110, 90, 20], [2, 0, 1, 0, 0])
    data = Pixels(test, test=test, class_names=("cat", "a  dog", "emu"))
    quiet_trainer(tmp_path, callbacks=[Embedding(count=4)]).test(model, datamodule=data, verbose=False)
    (found,) = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
    with (tmp_path / found.metadata_path).open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    chosen = [int(row["index"]) for row in rows]
    assert len(set(chosen)) == 4 and chosen == sorted(chosen)
    inputs = data.transform(test.inputs[chosen]).flatten(1)
    layers: Any = model.eval().net.layers
    with torch.no_grad():
        hidden, predicted = layers[0](inputs), model(inputs).argmax(dim=1)
    np.testing.assert_allclose(np.loadtxt(tmp_path / found.tensor_path), hidden, rtol=1e-5)
    names = ("cat", "a dog", "emu")
    assert [row["class"] for row in rows] == [names[target] for target in test.targets[chosen]]
    assert [row["prediction"] for row in rows] == [names[guess] for guess in predicted]
    assert list(found.sprite.single_image_dim) == [1, 1]
    with Image.open(tmp_path / found.sprite.image_path) as sprite:
        assert np.asarray(sprite)[..., 0].flatten().tolist() == test.inputs[chosen].flatten().tolist()
    points: Any = drawn[0].axes[0].collections
    assert sum(len(each.get_offsets()) for each in points) == 4


def test_diverged_network_stops_no_figure(drawn: list[Figure], tmp_path: Path) -> None:
    model, test = make_brightness_model(), pixels([150, 60], [2, 0])
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(math.nan)
    figures = [ReliabilityDiagram(), SaliencyMaps(count=2), Embedding(count=2)]
    trainer = quiet_trainer(tmp_path, callbacks=figures)
    trainer.test(model, datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    assert "nan%" in drawn[0].get_suptitle()


def test_points_lie_along_principal_components() -> None:
    values = torch.tensor([[3.0, 5.0, 1.0], [-3.0, 5.0, 1.0], [0.0, 7.0, 1.0], [0.0, 3.0, 1.0]])
    positions, shares = compute_principal_components(values)
    assert shares.tolist() == pytest.approx([18 / 26, 8 / 26])
    assert positions.abs().flatten().tolist() == pytest.approx([3, 0, 3, 0, 0, 2, 0, 2], abs=1e-9)


def test_large_images_become_thumbnails() -> None:
    thumbnails = make_thumbnails(torch.randint(256, (2, 3, 100, 200), dtype=torch.uint8))
    assert thumbnails.shape == (2, 3, 32, 64) and thumbnails.dtype == torch.uint8
    assert torch.equal(
        make_thumbnails(Samples(torch.ones(1, 1, 8, 8), torch.zeros(1)).inputs)[0, 0], 255 * torch.ones(8, 8).byte()
    )
