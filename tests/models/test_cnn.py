from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.core.errors import InputError
from src.models.cnn import CNN
from tests.doubles import SGD, is_plain, reload_model


def cnn(channels: list[int], in_shape: tuple[int, ...] = (1, 28, 28), **settings: Any) -> CNN:
    """A classifier of ten classes."""
    given = {"hidden_size": 16, "activation": "relu", "dropout": 0.0, "batch_norm": True, **settings}
    base = {"in_shape": list(in_shape), "num_classes": 10, "task": "multiclass", "optimizer": SGD}
    return CNN(channels, **{**base, **given})


def make_dirac_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """The first block's, in a network that begins by passing on what comes in."""
    model = cnn([outputs], (inputs, 8, 8), init="dirac")
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (3, 20, 36)])
def test_each_block_halves_the_image(in_shape: tuple[int, ...]) -> None:
    model, x = cnn([4, 6], in_shape), torch.randn(5, *in_shape)
    assert model.net.features(x).shape == (5, 6, in_shape[1] // 4, in_shape[2] // 4)
    assert model(x).shape == (5, 10)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden_size", [16, [16, 8], []])
@pytest.mark.parametrize("channels", [[4], [4, 6, 8]])
def test_parameter_count_matches_formula(channels: list[int], hidden_size: int | list[int], batch_norm: bool) -> None:
    model = cnn(channels, (3, 32, 32), hidden_size=hidden_size, batch_norm=batch_norm)
    widths = [hidden_size] if isinstance(hidden_size, int) else hidden_size
    flat = channels[-1] * (32 // 2 ** len(channels)) ** 2
    convolutions = sum((9 * a + 1) * b for a, b in pairwise([3, *channels]))
    dense = sum((a + 1) * b for a, b in pairwise([flat, *widths, 10]))
    scales = (sum(channels) + sum(widths)) * batch_norm
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + dense + scales


def test_layers_follow_settings() -> None:
    """Dropout applies to hidden layers only, batch norm also to convolutions."""
    layers = [type(layer).__name__ for layer in cnn([4], dropout=0.3).net.modules() if not list(layer.children())]
    convolution = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert layers == [*convolution, "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    plain = cnn([4], batch_norm=False)
    assert not [layer for layer in plain.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout))]


def test_all_image_regions_affect_outputs() -> None:
    """More than half of the pixels of an image have a gradient."""
    model = cnn([4, 4], (1, 8, 8)).eval()
    image = torch.zeros(1, 1, 8, 8, requires_grad=True)
    model(image + torch.rand(1, 1, 8, 8)).square().sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize(("size", "most"), [(28, 4), (32, 5), (4, 2)])
def test_too_many_blocks_are_refused(size: int, most: int) -> None:
    """More blocks than the size of the image allows are refused; the error names the largest number."""
    assert cnn([2] * most, (1, size, size))(torch.zeros(2, 1, size, size)).shape == (2, 10)
    message = rf"model\.channels has {most + 1} blocks.* {size}×{size} pixels allow at most {most}$"
    with pytest.raises(InputError, match=message):
        cnn([2] * (most + 1), (1, size, size))


# Weights that pass their inputs on


@pytest.mark.parametrize("outputs", [3, 2, 5])
def test_dirac_convolutions_start_as_identity(outputs: int) -> None:
    images, passed = torch.randn(2, 3, 8, 8), min(outputs, 3)
    assert torch.equal(make_dirac_convolution(3, outputs)(images)[:, :passed], images[:, :passed])


def test_dirac_keeps_extra_filters_random() -> None:
    """Filters beyond the number of input channels keep torch's random initialisation."""
    torch.manual_seed(7)
    drawn = cnn([5], (3, 8, 8)).net.state_dict()
    torch.manual_seed(7)
    begun = cnn([5], (3, 8, 8), init="dirac").net.state_dict()
    weight = drawn.pop("features.0.0.weight"), begun.pop("features.0.0.weight")
    assert torch.equal(weight[0][3:], weight[1][3:]) and not torch.equal(weight[0][:3], weight[1][:3])
    assert all(torch.equal(drawn[name], begun[name]) for name in drawn)


# Checkpoints


def test_old_checkpoint_restores_model(tmp_path: Path) -> None:
    """A checkpoint that was written before a setting existed gives the same model back."""
    model, x = cnn([4, 6]).eval(), torch.randn(3, 1, 28, 28)
    reload_model(model, tmp_path)
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    kept = ("channels", "hidden_size", "activation", "dropout", "batch_norm", "in_shape", "num_classes", "task")
    content["hyper_parameters"] = {name: content["hyper_parameters"][name] for name in kept}
    torch.save(content, tmp_path / "old.ckpt")
    assert torch.equal(CNN.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True).eval()(x), model(x))


def test_checkpoint_restores_model(tmp_path: Path) -> None:
    model, x = cnn([4, 6], dropout=0.2), torch.randn(16, 1, 28, 28)
    model(x)  # batch norm's running statistics move
    assert torch.equal(reload_model(model, tmp_path).eval()(x), model.eval()(x))


def test_hyperparameters_are_plain_values() -> None:
    settings = dict(cnn([4, 6]).hparams)
    assert is_plain(settings)
    assert settings["channels"] == [4, 6]
    assert settings["in_shape"] == [1, 28, 28]
