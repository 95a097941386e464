from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.core.errors import InputError
from src.data.base import Samples
from src.models.cnn import CNN
from tests.training import SGD, Given, is_plain, quiet_trainer, reloaded


def cnn(channels: list[int], in_shape: tuple[int, ...] = (1, 28, 28), **settings: Any) -> CNN:
    """A classifier of ten classes."""
    given = {"hidden_size": 16, "activation": "relu", "dropout": 0.0, "batch_norm": True, **settings}
    base = {"in_shape": list(in_shape), "num_classes": 10, "task": "multiclass", "optimizer": SGD}
    return CNN(channels, **{**base, **given})


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
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
    message = rf"model\.channels has {most + 1} blocks.* {size}×{size} pixels allow at most {most}$"
    with pytest.raises(InputError, match=message):
        cnn([2] * (most + 1), (1, size, size))


# What is tuned for speed


def test_a_fast_networks_number_of_parameters_is_the_formulas() -> None:
    one_layer: dict[str, Any] = {"global_pool": True, "hidden_size": [], "output_bias": False}
    model = cnn([64, 256, 256], (3, 32, 32), whiten=2, convolutions=2, norm_scale=False, **one_layer)
    whitening = 24 * (3 * 2 * 2 + 1)  # both signs of twelve components, and biases
    blocks = sum(9 * a * b + 9 * b * b + 2 * 2 * b for a, b in [(24, 64), (64, 256), (256, 256)])
    parameters = list(model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == whitening + blocks + 256 * 10 == 1_972_792
    fixed = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    assert fixed == 24 * 12 + 2 * (64 + 256 + 256)  # the filters, and the batch norms' scales


@pytest.mark.parametrize(
    ("pool", "layers"),
    [
        ("last", "Conv2d BatchNorm2d ReLU Conv2d BatchNorm2d ReLU MaxPool2d"),
        ("first", "Conv2d MaxPool2d BatchNorm2d ReLU Conv2d BatchNorm2d ReLU"),
    ],
)
def test_a_blocks_pooling_stands_where_it_is_asked_for(pool: str, layers: str) -> None:
    model, sides = cnn([4, 6], (3, 20, 36), pool=pool, convolutions=2), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, output: sides.append(tuple(output.shape[1:])))
    assert [type(layer).__name__ for layer in model.net.features[1].children()] == layers.split()
    assert model.net.features(torch.randn(2, 3, 20, 36)).shape == (2, 6, 5, 9)
    second = {"last": [(4, 20, 36), (6, 10, 18)], "first": [(4, 10, 18), (6, 5, 9)]}[pool]
    assert sides == [(4, 20, 36), second[0], (6, 10, 18), second[1]]


@pytest.mark.parametrize("outputs", [3, 2, 5])
def test_dirac_convolutions_begin_by_passing_their_inputs_on(outputs: int) -> None:
    images, passed = torch.randn(2, 3, 8, 8), min(outputs, 3)
    assert torch.equal(convolution(3, outputs)(images)[:, :passed], images[:, :passed])


def test_dirac_leaves_the_filters_beyond_the_inputs_as_torch_draws_them() -> None:
    torch.manual_seed(7)
    drawn = cnn([5], (3, 8, 8)).net.state_dict()
    torch.manual_seed(7)
    begun = cnn([5], (3, 8, 8), init="dirac").net.state_dict()
    weight = drawn.pop("features.0.0.weight"), begun.pop("features.0.0.weight")
    assert torch.equal(weight[0][3:], weight[1][3:]) and not torch.equal(weight[0][:3], weight[1][:3])
    assert all(torch.equal(drawn[name], begun[name]) for name in drawn)


def test_the_batch_norms_shifts_have_a_learning_rate_of_their_own_and_less_decay() -> None:
    settings = {**SGD, "lr": 0.1, "weight_decay": 0.02}
    model = cnn([4, 6], hidden_size=[7], whiten=2, norm_bias_lr=64, optimizer=settings)
    others, shifts = model.configure_optimizers().param_groups
    assert (others["lr"], others["weight_decay"]) == (0.1, 0.02)
    assert (shifts["lr"], shifts["weight_decay"]) == (pytest.approx(6.4), pytest.approx(0.02 / 64))
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert [id(shift) for shift in shifts["params"]] == [id(norm.bias) for norm in norms]
    found = sorted(id(parameter) for parameter in [*others["params"], *shifts["params"]])
    assert found == sorted(id(parameter) for parameter in model.parameters())
    assert len(cnn([4], optimizer=settings).configure_optimizers().param_groups) == 1


@pytest.mark.parametrize("batch_norm", [False, True])
def test_scales_that_are_not_trained_stay_at_1(batch_norm: bool, tmp_path: Path) -> None:
    settings = {**SGD, "weight_decay": 0.1, "momentum": 0.9, "fused": True}
    model = cnn([4], (1, 8, 8), batch_norm=batch_norm, norm_scale=False, norm_bias_lr=2.0, optimizer=settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    quiet_trainer(tmp_path).fit(model, datamodule=Given(Samples(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)))
    stayed = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert stayed == {f"{norm}.weight" for norm in ("net.features.0.1", "net.classifier.0.1") if batch_norm}
    assert all((norm.weight == 1).all() for norm in model.get_batch_norms())


def test_the_statistics_of_evaluation_follow_the_batches_as_fast_as_asked() -> None:
    model, x = cnn([4], (1, 8, 8), norm_momentum=0.4), torch.randn(16, 1, 8, 8)
    values = model.net.get_submodule("features.0.0")(x)  # (16, 4, 8, 8)
    model(x)
    mean, variance = values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3))
    norm = model.get_batch_norms()[0]
    torch.testing.assert_close(norm.running_mean, 0.4 * mean)
    torch.testing.assert_close(norm.running_var, 0.6 + 0.4 * variance)


def test_the_outputs_are_multiplied() -> None:
    model, half, x = cnn([4]).eval(), cnn([4], output_scale=0.5).eval(), torch.randn(3, 1, 28, 28)
    half.load_state_dict(model.state_dict())
    assert torch.equal(half(x), model(x) / 2)


def test_after_the_blocks_only_the_largest_value_of_each_channel_is_kept() -> None:
    model, x = cnn([4, 6], global_pool=True, hidden_size=[]).eval(), torch.randn(3, 1, 28, 28)
    maps = model.net.features[:-1](x)
    assert maps.shape == (3, 6, 7, 7)
    largest = maps.amax(dim=(2, 3))  # (3, 6)
    assert torch.equal(model(x), model.net.classifier(largest))
    assert model.net.classifier[0].in_features == 6


def test_patches_that_do_not_fit_the_image_are_refused() -> None:
    assert cnn([2], (1, 6, 9), whiten=5)(torch.zeros(2, 1, 6, 9)).shape == (2, 10)
    with pytest.raises(InputError, match=r"^model\.whiten=7: patches of that side do not fit images of 6×9 pixels$"):
        cnn([2], (1, 6, 9), whiten=7)
    with pytest.raises(InputError, match=r"1×4 pixels that model\.whiten=6 leaves allow at most 0$"):
        cnn([2], (1, 6, 9), whiten=6)


# Checkpoints


def test_a_checkpoint_from_before_a_setting_was_there_gives_the_same_model_back(tmp_path: Path) -> None:
    model, x = cnn([4, 6]).eval(), torch.randn(3, 1, 28, 28)
    reloaded(model, tmp_path)
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    kept = ("channels", "hidden_size", "activation", "dropout", "batch_norm", "in_shape", "num_classes", "task")
    content["hyper_parameters"] = {name: content["hyper_parameters"][name] for name in kept}
    torch.save(content, tmp_path / "old.ckpt")
    assert torch.equal(CNN.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True).eval()(x), model(x))


def test_a_checkpoint_gives_the_same_model_back(tmp_path: Path) -> None:
    model, x = cnn([4, 6], dropout=0.2), torch.randn(16, 1, 28, 28)
    model(x)  # batch norm's running statistics move
    assert torch.equal(reloaded(model, tmp_path).eval()(x), model.eval()(x))


def test_hyperparameters_are_plain_values() -> None:
    settings = dict(cnn([4, 6]).hparams)
    assert is_plain(settings)
    assert settings["channels"] == [4, 6]
    assert settings["in_shape"] == [1, 28, 28]
