from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.models.layers import ACTIVATIONS, PairwiseProducts
from src.models.mlp import MLP
from tests.doubles import SGD, is_plain, reload_model


def mlp(hidden_size: int | list[int], in_shape: tuple[int, ...] = (1, 4, 5), **settings: Any) -> MLP:
    """A classifier of three classes."""
    given = {"activation": "relu", "dropout": 0.0, "batch_norm": False, **settings}
    return MLP(hidden_size, **given, in_shape=list(in_shape), num_classes=3, task="multiclass", optimizer=SGD)


def list_layer_types(model: MLP) -> list[str]:
    """The names of the layers in order."""
    return [type(layer).__name__ for layer in model.net.modules() if not list(layer.children())]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("hidden_size", "widths"), [(7, [7]), ([7], [7]), ([8, 6], [8, 6]), ([], [])])
def test_hidden_layers_have_configured_widths(
    hidden_size: int | list[int], widths: list[int], batch_norm: bool
) -> None:
    model = mlp(hidden_size, batch_norm=batch_norm)
    sizes = [20, *widths, 3]
    linear = [layer for layer in model.net.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(sizes))
    # A weight for each pair, a bias for each unit; batch norm has a shift in its place, and a scale.
    expected = sum((a + 1) * b for a, b in pairwise(sizes)) + sum(widths) * batch_norm
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("in_shape", [(2,), (1, 28, 28), (3, 32, 32), (5, 4)])
def test_inputs_of_any_shape_are_flattened(in_shape: tuple[int, ...]) -> None:
    assert mlp(4, in_shape)(torch.randn(6, *in_shape)).shape == (6, 3)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, ["Linear", "ReLU", "Linear"]),
        ({"batch_norm": True}, ["Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ({"dropout": 0.5}, ["Linear", "ReLU", "Dropout", "Linear"]),
        ({"batch_norm": True, "dropout": 0.5}, ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]),
        ({"batch_norm": "before"}, ["Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ({"batch_norm": "after", "dropout": 0.5}, ["Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]),
    ],
)
def test_layer_order_follows_settings(settings: dict[str, Any], layers: list[str]) -> None:
    """Batch norm stands before or after the activation as configured, and dropout after both."""
    assert list_layer_types(mlp(4, **settings)) == layers
    assert list_layer_types(mlp([4, 4], **settings)) == layers[:-1] + layers


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("gelu", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        ("silu", lambda x: x / (1 + (-x).exp())),
        ("elu", lambda x: torch.where(x > 0, x, x.exp() - 1)),
        ("tanh", lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
        ("sigmoid", lambda x: 1 / (1 + (-x).exp())),
    ],
)
def test_outputs_match_formula(activation: str, formula: Any) -> None:
    model = mlp(6, activation=activation)
    first, _, second = (layer for layer in model.net.modules() if not list(layer.children()))
    x = torch.randn(5, 20)
    expected: Tensor = formula(x @ first.weight.T + first.bias) @ second.weight.T + second.bias  # type: ignore[operator]
    torch.testing.assert_close(model(x.view(5, 1, 4, 5)), expected)


def test_every_activation_is_tested_here() -> None:
    assert set(ACTIVATIONS) == {"relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid"}


def test_dropout_drops_in_training_only() -> None:
    model, x = mlp(64, dropout=0.5), torch.randn(8, 1, 4, 5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("hidden_size", [5, [5, 4], []])
def test_checkpoint_restores_model(hidden_size: int | list[int], tmp_path: Path) -> None:
    model, x = mlp(hidden_size, batch_norm=True, dropout=0.1).eval(), torch.randn(8, 1, 4, 5)
    assert torch.equal(reload_model(model, tmp_path).eval()(x), model(x))


def test_hyperparameters_are_plain_settings() -> None:
    """The hyperparameters hold all settings as plain values."""
    settings = dict(mlp([5, 4], label_smoothing=0.1).hparams)
    assert is_plain(settings)
    assert settings == {
        "hidden_size": [5, 4],
        "activation": "relu",
        "dropout": 0.0,
        "batch_norm": False,
        "output_bias": True,
        "products": False,
        "init": "default",
        "init_std": 0.1,
        "in_shape": [1, 4, 5],
        "num_classes": 3,
        "task": "multiclass",
        "optimizer": SGD,
        "label_smoothing": 0.1,
    }


def test_batch_norm_replaces_bias() -> None:
    """A layer directly before batch norm has no bias, which batch norm would remove again."""
    for batch_norm, bias in ((False, True), (True, False), ("before", False), ("after", True)):
        first = next(layer for layer in mlp(4, batch_norm=batch_norm).net.modules() if isinstance(layer, nn.Linear))
        assert (first.bias is not None) == bias


def test_output_bias_is_optional() -> None:
    with_bias, without = [list(mlp(4, output_bias=bias).net.modules())[-1] for bias in (True, False)]
    assert isinstance(with_bias, nn.Linear) and with_bias.bias is not None
    assert isinstance(without, nn.Linear) and without.bias is None


def test_products_extend_inputs() -> None:
    """With `products` the product of each pair of inputs is added to the features."""
    model = mlp([], in_shape=(3,), products=True)
    assert isinstance(model.net.products, PairwiseProducts)
    assert model.net.products(torch.tensor([[2.0, 3, 5]])).tolist() == [[2, 3, 5, 6, 10, 15]]
    assert model(torch.randn(4, 3)).shape == (4, 3)
    assert set(model.state_dict()) == {"net.layers.0.weight", "net.layers.0.bias"}


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("xavier", (2 / (400 + 300)) ** 0.5), ("he", (2 / 400) ** 0.5), ("normal", 0.25), ("zeros", 0.0)],
)
def test_initial_weights_have_configured_deviation(init: str, deviation: float) -> None:
    """Weights start with the standard deviation of the chosen initialisation, and biases at 0."""
    first = next(m for m in mlp(300, (400,), init=init, init_std=0.25).net.modules() if isinstance(m, nn.Linear))
    assert first.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert first.weight.mean().item() == pytest.approx(0, abs=deviation / 50)
    assert not first.bias.any()
