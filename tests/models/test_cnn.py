from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.errors import InputError
from src.models.cnn import CNN
from tests.training import SGD, is_plain, reloaded


def cnn(channels: list[int], in_shape: tuple[int, ...] = (1, 28, 28), **settings: Any) -> CNN:
    """A classifier of ten classes."""
    given = {"hidden_size": 16, "activation": "relu", "dropout": 0.0, "batch_norm": True, **settings}
    return CNN(channels, **given, in_shape=list(in_shape), num_classes=10, task="multiclass", optimizer=SGD)


@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (3, 20, 36)])
def test_each_block_halves_the_image(in_shape: tuple[int, ...]) -> None:
    model, x = cnn([4, 6], in_shape), torch.randn(5, *in_shape)
    assert model.net.features(x).shape == (5, 6, in_shape[1] // 4, in_shape[2] // 4)  # type: ignore[operator]
    assert model(x).shape == (5, 10)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden_size", [16, [16, 8], []])
@pytest.mark.parametrize("channels", [[4], [4, 6, 8]])
def test_the_number_of_parameters_is_the_formulas(
    channels: list[int], hidden_size: int | list[int], batch_norm: bool
) -> None:
    model = cnn(channels, (3, 32, 32), hidden_size=hidden_size, batch_norm=batch_norm)
    widths = [hidden_size] if isinstance(hidden_size, int) else hidden_size
    flat = channels[-1] * (32 // 2 ** len(channels)) ** 2
    convolutions = sum((9 * a + 1) * b for a, b in pairwise([3, *channels]))
    dense = sum((a + 1) * b for a, b in pairwise([flat, *widths, 10]))
    scales = (sum(channels) + sum(widths)) * batch_norm
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + dense + scales


def test_dropout_is_for_hidden_units_and_batch_norm_for_convolutions_too() -> None:
    layers = [type(layer).__name__ for layer in cnn([4], dropout=0.3).net.modules() if not list(layer.children())]
    convolution = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert layers == [*convolution, "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    plain = cnn([4], batch_norm=False)
    assert not [layer for layer in plain.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout))]


def test_a_pixel_moves_the_outputs_wherever_it_is() -> None:
    model = cnn([4, 4], (1, 8, 8)).eval()
    image = torch.zeros(1, 1, 8, 8, requires_grad=True)
    model(image + torch.rand(1, 1, 8, 8)).square().sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize(("size", "most"), [(28, 4), (32, 5), (4, 2)])
def test_more_blocks_than_the_image_bears_are_refused(size: int, most: int) -> None:
    assert cnn([2] * most, (1, size, size))(torch.zeros(2, 1, size, size)).shape == (2, 10)
    message = rf"model\.channels has {most + 1} blocks.* {size}×{size} pixels bear at most {most}$"
    with pytest.raises(InputError, match=message):
        cnn([2] * (most + 1), (1, size, size))


def test_a_checkpoint_gives_the_same_model_back(tmp_path: Path) -> None:
    model, x = cnn([4, 6], dropout=0.2), torch.randn(16, 1, 28, 28)
    model(x)  # batch norm's running statistics move
    assert torch.equal(reloaded(model, tmp_path).eval()(x), model.eval()(x))


def test_hyperparameters_are_plain_values() -> None:
    settings = dict(cnn([4, 6]).hparams)
    assert is_plain(settings)
    assert settings["channels"] == [4, 6]
    assert settings["in_shape"] == [1, 28, 28]
