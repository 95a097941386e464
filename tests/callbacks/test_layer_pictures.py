"""What is drawn of a network's first layer: its weights, and what it makes of an image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.callbacks.figures.feature_maps import FeatureMaps, compute_first_block, compute_kirsch_stages
from src.callbacks.figures.first_layer import (
    FirstLayer,
    compute_signed_colours,
    count_columns,
    draw_signed,
    find_strongest,
    get_image_weights,
)
from src.data.loading.samples import Samples
from src.models.airbench import Airbench
from src.models.cnn import CNN
from src.models.mlp import MLP
from src.models.resnet18 import ResNet18Net
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule, quiet_trainer

NAMES = ("cat", "dog", "emu")


def mlp(in_shape: list[int], hidden: list[int]) -> MLP:
    return MLP(hidden, "relu", 0.0, False, in_shape=in_shape, num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD)


def cnn(in_shape: list[int], batch_norm: bool | str = True, activation: str = "relu") -> CNN:
    """A network of two convolutions whose batch norms have seen data."""
    settings: Any = {"in_shape": in_shape, "num_classes": 3, "task": "multiclass", "optimizer": ZERO_RATE_SGD}
    model = CNN([6, 4], [], activation, 0.0, batch_norm, **settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def images(channels: int) -> Samples:
    return Samples(torch.randint(256, (6, channels, 8, 8), dtype=torch.uint8), torch.arange(6) % 3)


def array(axis: Any) -> Tensor:
    return torch.as_tensor(np.asarray(axis.images[0].get_array()))


# The first layer's weights


def test_image_weights_have_image_shape() -> None:
    """A convolution gives its kernels; a linear layer gives each unit's weights as an image."""
    model: Any = cnn([3, 8, 8])
    assert torch.equal(get_image_weights(model.net, (3, 8, 8)), model.net.features[0][0].weight)  # (6, 3, 3, 3)
    model = mlp([1, 4, 5], [7])
    weights: Any = get_image_weights(model.net, (1, 4, 5))
    assert weights.shape == (7, 1, 4, 5)
    assert weights[6, 0, 1, 2] == model.net.layers[0][0].weight[6, 7]  # row 1, column 2 of 5 columns


@pytest.mark.parametrize(
    ("net", "in_shape"),
    [
        (nn.Linear(2, 3), (2,)),  # no images
        (nn.Linear(16, 3), (1, 5, 5)),  # something else than the image comes in
        (nn.Conv2d(5, 3, 3), (5, 8, 8)),  # of five channels
        (nn.Linear(20, 3), (5, 2, 2)),
        (nn.ReLU(), (1, 5, 5)),  # nothing to show
    ],
)
def test_non_image_weights_are_omitted(net: nn.Module, in_shape: tuple[int, ...]) -> None:
    assert get_image_weights(net, in_shape) is None


def test_strongest_units_come_first() -> None:
    weights = torch.tensor([[1.0, 1.0], [0.0, -3.0], [2.0, 0.0]])  # norms √2, 3, 2
    assert find_strongest(weights, 2).tolist() == [1, 2]
    assert find_strongest(weights, 9).tolist() == [1, 2, 0]


def test_signed_colours_are_centred_on_grey() -> None:
    """Zero is grey; the limit is the full colour."""
    weights = torch.tensor([[[0.0, -2.0]], [[0.0, 2.0]], [[0.0, 1.0]]])  # (3, 1, 2)
    torch.testing.assert_close(
        compute_signed_colours(weights, 2.0), torch.tensor([[[0.5, 0.5, 0.5], [0.0, 1.0, 0.75]]])
    )


def test_zero_maps_are_drawn_white() -> None:
    axis = Figure().subplots()
    drawn = draw_signed(axis, torch.zeros(1, 2, 2), 0.0)
    assert min(drawn.to_rgba(np.zeros(1))[0]) > 0.95


def test_grey_weights_share_symmetric_scale() -> None:
    figure, weights = Figure(), torch.tensor([[[[3.0, -4.0]]], [[[1.0, 2.0]]]])  # (2, 1, 1, 2)
    FirstLayer(2, 0).draw(figure, weights, [5, 0], "epoch 1")
    first, second = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in (first, second)] == ["5", "0"]
    assert array(first).tolist() == [[3, -4]] and array(second).tolist() == [[1, 2]]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-4, 4)
    assert figure.axes[-1].get_ylabel() == "weight"  # the colour bar
    assert figure.get_suptitle() == "First layer: the strongest units' weights (1×2), epoch 1"


def test_unit_numbers_are_omitted_when_crowded() -> None:
    assert [count_columns(count) for count in (1, 32, 128)] == [6, 8, 15]
    figure = Figure()
    FirstLayer(128, 0).draw(figure, torch.randn(128, 3, 3, 3), list(range(128)), "selected weights")
    assert sum(len(axis.images) for axis in figure.axes) == 128
    assert {axis.get_title() for axis in figure.axes} == {""}


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [1, 2, 3]), (2, [1, 3])])
def test_first_layer_is_drawn_periodically(every: int, epochs: list[int], drawn: list[Figure], tmp_path: Path) -> None:
    """The figure is drawn every n epochs, and at the end with the selected weights."""
    model: Any = cnn([3, 8, 8]).train()
    data = InMemoryDataModule(images(3), test=images(3), class_names=NAMES)
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[FirstLayer(4, every)])
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    endings = [figure.get_suptitle().split(", ")[-1] for figure in drawn]
    assert endings == [*(f"epoch {number}" for number in epochs), "selected weights"]
    kernels = model.net.features[0][0].weight.detach()
    units = find_strongest(kernels, 4)
    shown = [axis for axis in drawn[-1].axes if axis.images]
    assert [axis.get_title() for axis in shown] == [str(unit) for unit in units.tolist()]
    limit = kernels[units].abs().max()
    for axis, kernel in zip(shown, kernels[units], strict=True):
        torch.testing.assert_close(array(axis), 0.5 + kernel.permute(1, 2, 0) / (2 * limit))


# Feature maps


def test_kirsch_kernel_responds_to_upper_edges() -> None:
    """The response is positive where the image is brighter above."""
    step = torch.tensor([1.0, 1.0, 0.0, 0.0])
    above, left = step[:, None].expand(4, 4), step[None, :].expand(4, 4)
    response, rectified, pooled = [stage.maps[0].tolist() for stage in compute_kirsch_stages(above)]
    assert response == rectified == [[9, 9], [15, 15]]  # 3·5 − 2·3 where the row itself is bright, then 3·5
    assert pooled == [[15]]
    response, rectified, pooled = [stage.maps[0].tolist() for stage in compute_kirsch_stages(1 - above)]
    assert response == [[-9, -9], [-15, -15]]
    assert rectified == [[0, 0], [0, 0]] and pooled == [[0]]
    response, rectified, pooled = [stage.maps[0].tolist() for stage in compute_kirsch_stages(left)]
    assert response == [[1, -1], [1, -1]]  # 2·5 − 3·3, then 5 − 2·3
    assert rectified == [[1, 0], [1, 0]] and pooled == [[1]]


def test_kirsch_pooling_takes_2x2_maximum() -> None:
    image = torch.randn(8, 6)
    _, rectified, pooled = compute_kirsch_stages(image)
    assert pooled.maps.shape == (1, 3, 2)
    assert pooled.maps[0, 2, 1] == rectified.maps[0, 4:6, 2:4].max()


def test_uniform_image_has_no_response() -> None:
    assert [float(stage.maps.abs().max()) for stage in compute_kirsch_stages(torch.full((5, 5), 0.7))] == pytest.approx(
        [0, 0, 0], abs=1e-5
    )


@pytest.mark.parametrize(
    ("batch_norm", "activation", "titles"),
    [
        (True, "relu", ["its response", "batch norm, ReLU", "2×2 max pooling"]),
        (False, "tanh", ["its response", "Tanh", "2×2 max pooling"]),
        ("after", "relu", ["its response", "ReLU", "batch norm, 2×2 max pooling"]),
    ],
)
def test_feature_maps_match_network(batch_norm: bool | str, activation: str, titles: list[str]) -> None:
    """The hooks that record the maps are removed afterwards."""
    net: Any = cnn([3, 8, 8], batch_norm, activation).net
    image = torch.randn(1, 3, 8, 8)
    block = compute_first_block(net, image)
    assert [stage.title for stage in block.stages] == titles
    assert torch.equal(block.kernels, net.features[0][0].weight)
    layers, activated = net.features[0], 3 if batch_norm is True else 2
    for stage, maps in zip(block.stages, (layers[:1](image), layers[:activated](image), layers(image)), strict=True):
        torch.testing.assert_close(stage.maps, maps[0])
    assert not any(module._forward_hooks for module in net.modules())  # as it was


def test_in_place_layers_preserve_earlier_maps() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3))
    image = torch.randn(1, 1, 8, 8)
    response, rectified = compute_first_block(net, image).stages
    torch.testing.assert_close(response.maps, net[0](image)[0])
    assert response.maps.min() < 0
    torch.testing.assert_close(rectified.maps, response.maps.relu())


def test_feature_maps_end_before_second_convolution() -> None:
    net = ResNet18Net(3, small_stem=True, dropout=0.0, resize=None).eval()
    assert [stage.title for stage in compute_first_block(net, torch.randn(1, 1, 8, 8)).stages] == [
        "its response",
        "batch norm, ReLU",
    ]
    net = ResNet18Net(3, small_stem=False, dropout=0.0, resize=None).eval()
    block = compute_first_block(net, torch.randn(1, 1, 16, 16))
    assert [tuple(stage.maps.shape) for stage in block.stages] == [(64, 8, 8), (64, 8, 8), (64, 4, 4)]
    assert block.stages[2].title == "3×3 max pooling"


def test_feature_maps_figure_has_kernel_rows(drawn: list[Figure], tmp_path: Path) -> None:
    """The first row is the edge kernel's; the others are those of the strongest learned kernels."""
    model: Any = cnn([1, 8, 8])
    test = images(1)
    data = InMemoryDataModule(test, test=test, class_names=NAMES)
    quiet_trainer(tmp_path, callbacks=[FeatureMaps(2)]).test(model, datamodule=data, verbose=False)
    (figure,) = drawn
    rows = np.array(figure.axes).reshape(3, 4)
    assert [axis.get_xlabel() for axis in rows[0]] == ["1×8×8", "6×6", "6×6", "3×3"]
    assert [axis.get_xlabel() for axis in rows[1]] == ["1×3×3", "8×8", "8×8", "4×4"]
    assert torch.equal(array(rows[0, 0]), test.inputs[0, 0])
    for axis, stage in zip(rows[0, 1:], compute_kirsch_stages(test.inputs[0, 0] / 255), strict=True):
        torch.testing.assert_close(array(axis), stage.maps[0])
    block = compute_first_block(model.net, test.inputs[:1].float())
    norms = block.stages[0].maps.flatten(1).norm(dim=1)
    for row, unit in zip(rows[1:], norms.argsort(descending=True)[:2].tolist(), strict=True):
        assert row[0].get_title() == f"learned kernel {unit}"
        torch.testing.assert_close(array(row[0]), block.kernels[unit, 0])
        for axis, stage in zip(row[1:], block.stages, strict=True):
            torch.testing.assert_close(array(axis), stage.maps[unit])
            low, high = axis.images[0].get_clim()
            assert low == -high == pytest.approx(-float(stage.maps[unit].abs().max()))


def test_untrained_kernels_are_labelled_fixed(drawn: list[Figure], tmp_path: Path) -> None:
    settings: Any = {"in_shape": [1, 8, 8], "num_classes": 3, "task": "multiclass", "optimizer": ZERO_RATE_SGD}
    model, data = (
        Airbench([4], 1.0, 0.1, 1.0, **settings),
        InMemoryDataModule(images(1), test=images(1), class_names=NAMES),
    )
    quiet_trainer(tmp_path, callbacks=[FeatureMaps(2)]).test(model, datamodule=data, verbose=False)
    kernels = [axis.get_title() for axis in drawn[0].axes if "kernel " in axis.get_title()]
    assert len(kernels) == 2 and all(title.startswith("fixed kernel ") for title in kernels)


@pytest.mark.parametrize("callback", [FirstLayer(4, 1), FeatureMaps(4)])
def test_point_data_have_no_layer_figures(callback: Any, drawn: list[Figure], tmp_path: Path) -> None:
    samples = Samples(torch.randn(6, 2), torch.arange(6) % 3)
    data = InMemoryDataModule(samples, test=samples, class_names=NAMES)
    model, trainer = mlp([2], [4]), quiet_trainer(tmp_path, callbacks=[callback])
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert drawn == []


def test_feature_maps_require_convolution(drawn: list[Figure], tmp_path: Path) -> None:
    data = InMemoryDataModule(images(1), test=images(1), class_names=NAMES)
    trainer = quiet_trainer(tmp_path, callbacks=[FeatureMaps(4)])
    trainer.test(mlp([1, 8, 8], [4]), datamodule=data, verbose=False)
    assert drawn == []
    assert compute_first_block(nn.Linear(8, 2), torch.randn(1, 8)) is None
