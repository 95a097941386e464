"""The project's MLP, its gradients and its steps, against the same in NumPy; all in double precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.data.loading.samples import Samples
from src.models.mlp import MLP
from tests.doubles import InMemoryDataModule, quiet_trainer
from tests.models.numpy_network import COSTS, Adam, Array, Arrays, Momentum, Network, one_vs_rest, sigmoid

INPUTS, HIDDEN, CLASSES, COUNT = 5, 7, 3, 12
TOLERANCE = 1e-10
SGD = {"_target_": "torch.optim.SGD", "lr": 0.5, "momentum": 0.0, "fused": None}
ADAM = {"_target_": "torch.optim.Adam", "lr": 0.02, "betas": [0.9, 0.999], "fused": None}


def mlp(**settings: Any) -> MLP:
    """A net of two layers in double precision; what torch begins batch norm with is made general."""
    given = {"activation": "sigmoid", "dropout": 0.0, "batch_norm": False, "optimizer": SGD, **settings}
    model = MLP(HIDDEN, **given, in_shape=[INPUTS], num_classes=CLASSES, task="multiclass").double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return model


def samples(count: int = COUNT) -> Samples:
    return Samples(torch.randn(count, INPUTS, dtype=torch.float64), torch.randint(CLASSES, (count,)))


def encode_one_hot(targets: Tensor) -> Array:
    return np.eye(CLASSES)[targets.numpy()]


def parameters(model: MLP) -> dict[str, Tensor]:
    """The model's parameters by the reference's names."""
    first, last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    named: dict[str, Tensor] = {"w1": first.weight, "b1": first.bias, "w2": last.weight, "b2": last.bias}
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            named |= {"gamma": norm.weight, "beta": norm.bias}
    return {name: parameter for name, parameter in named.items() if parameter is not None}


def copy_parameters(model: MLP) -> Arrays:
    return {name: parameter.detach().numpy().copy() for name, parameter in parameters(model).items()}


def objective(model: MLP, batch: Samples) -> Tensor:
    """What the model's training step descends on."""
    return model.compute_objective(model.loss(model(batch.inputs), batch.targets), batch.size)


def compute_by_autograd(model: MLP, batch: Samples) -> tuple[float, Arrays]:
    model.zero_grad()
    cost = objective(model, batch)
    cost.backward()
    return cost.item(), {name: parameter.grad.numpy() for name, parameter in parameters(model).items()}


def assert_arrays_close(ours: Arrays, reference: Arrays) -> None:
    assert set(ours) == set(reference)
    for name, value in reference.items():
        assert ours[name].shape == value.shape, name
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
        assert np.abs(value).max() > 1e-6, f"{name} tells nothing: it is 0"


# Back-propagation


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_autograd_matches_manual_backpropagation(activation: str, cost: str) -> None:
    """Autograd gives the cost and the gradients that back-propagation in NumPy gives."""
    model, batch = mlp(activation=activation, loss=cost), samples()
    expected, gradients = Network(copy_parameters(model), activation).gradients(
        batch.inputs.numpy(), encode_one_hot(batch.targets), COSTS[cost]
    )
    found, ours = compute_by_autograd(model, batch)
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert_arrays_close(ours, gradients)


@pytest.mark.parametrize("cost", COSTS)
def test_manual_gradients_match_finite_differences(cost: str) -> None:
    """The gradients of the NumPy network are the slopes of its cost."""
    p, batch, step = copy_parameters(mlp()), samples(), 1e-5
    x, y = batch.inputs.numpy(), encode_one_hot(batch.targets)
    gradients = Network(p, "sigmoid").gradients(x, y, COSTS[cost])[1]
    for name, place in (("w1", (2, 3)), ("b1", (4,)), ("w2", (1, 5)), ("b2", (0,))):
        costs = []
        for shift in (step, -step):
            moved = {**p, name: p[name].copy()}
            moved[name][place] += shift
            costs.append(COSTS[cost](Network(moved, "sigmoid").forward(x), y)[0])
        assert gradients[name][place] == pytest.approx((costs[0] - costs[1]) / (2 * step), abs=1e-8)


def test_penalties_apply_to_weights_only() -> None:
    """L1 and L2 penalties add to the gradients of the weights, but not to those of the biases."""
    model, batch = mlp(l1=0.03, l2=0.2), samples()
    p = copy_parameters(model)
    cost, gradients = Network(p, "sigmoid").gradients(
        batch.inputs.numpy(), encode_one_hot(batch.targets), COSTS["cross_entropy"]
    )
    for name in ("w1", "w2"):
        cost += 0.03 * np.abs(p[name]).sum() + 0.2 * (p[name] ** 2).sum()
        gradients[name] = gradients[name] + 0.03 * np.sign(p[name]) + 2 * 0.2 * p[name]
    found, ours = compute_by_autograd(model, batch)
    assert found == pytest.approx(cost, abs=TOLERANCE)
    assert_arrays_close(ours, gradients)


# Optimisers


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({**SGD, "momentum": 0.0}, lambda: Momentum(0.5, 0.0)),
        ({**SGD, "momentum": 0.9}, lambda: Momentum(0.5, 0.9)),
        (ADAM, lambda: Adam(0.02, (0.9, 0.999))),
        ({**ADAM, "betas": [0.5, 0.6]}, lambda: Adam(0.02, (0.5, 0.6))),
    ],
    ids=["plain", "momentum", "adam", "adam, quick means"],
)
def test_optimizer_steps_match_reference(settings: dict[str, Any], reference: Callable[[], Momentum | Adam]) -> None:
    """Four steps of SGD and Adam change the parameters as the NumPy reference does."""
    model, by_hand = mlp(optimizer=settings), reference()
    optimizer, p = model.configure_optimizers(), copy_parameters(model)
    for _ in range(4):
        batch = samples()
        gradients = Network(p, "sigmoid").gradients(
            batch.inputs.numpy(), encode_one_hot(batch.targets), COSTS["cross_entropy"]
        )[1]
        p = by_hand.step(p, gradients)
        compute_by_autograd(model, batch)
        optimizer.step()
        assert_arrays_close(copy_parameters(model), p)


def test_adam_first_step_equals_learning_rate() -> None:
    """The first step of Adam is as long as the learning rate, however large the gradient is."""
    model = mlp(optimizer=ADAM)
    before = copy_parameters(model)
    gradients = compute_by_autograd(model, samples())[1]
    model.configure_optimizers().step()
    for name, value in copy_parameters(model).items():
        gradient = gradients[name]
        np.testing.assert_allclose(before[name] - value, 0.02 * gradient / (np.abs(gradient) + 1e-8), rtol=1e-9)


# Dropout


def sample_dropout_factors(model: MLP, batch: Samples) -> tuple[Array, tuple[float, Arrays]]:
    """What dropout multiplied each hidden unit by, (N, H), and the cost and gradients of that pass."""
    drawn: list[Array] = []
    (layer,) = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    hook = layer.register_forward_hook(lambda _, inputs, outputs: drawn.append((outputs / inputs[0]).detach().numpy()))
    result = compute_by_autograd(model, batch)
    hook.remove()
    return drawn[0], result


@pytest.mark.parametrize("p", [0.2, 0.75])
def test_dropout_keeps_and_scales_units(p: float) -> None:
    """Dropout keeps a fraction 1 − p of the units and multiplies them by 1 / (1 − p)."""
    model = mlp(dropout=p).train()
    factors, _ = sample_dropout_factors(model, samples(2000))
    kept = factors > 0
    np.testing.assert_allclose(factors[kept], 1 / (1 - p), rtol=1e-12)
    assert kept.mean() == pytest.approx(1 - p, abs=0.02)
    assert factors.mean() == pytest.approx(1, abs=0.05)


def test_dropout_gradients_match_reference() -> None:
    """With the units that dropout kept, the gradients are those of the NumPy network."""
    model, batch = mlp(dropout=0.4).train(), samples()
    factors, (found, ours) = sample_dropout_factors(model, batch)
    assert 0 < (factors == 0).sum() < factors.size
    cost, gradients = Network(copy_parameters(model), "sigmoid", factors=factors).gradients(
        batch.inputs.numpy(), encode_one_hot(batch.targets), COSTS["cross_entropy"]
    )
    assert found == pytest.approx(cost, abs=TOLERANCE)
    assert_arrays_close(ours, gradients)


def test_dropout_is_off_in_evaluation() -> None:
    model, batch = mlp(dropout=0.4).eval(), samples()
    factors, (_, ours) = sample_dropout_factors(model, batch)
    assert (factors == 1).all()
    assert_arrays_close(
        ours,
        Network(copy_parameters(model), "sigmoid").gradients(
            batch.inputs.numpy(), encode_one_hot(batch.targets), COSTS["cross_entropy"]
        )[1],
    )


# Batch norm


def copy_running_statistics(model: MLP) -> tuple[Array, Array]:
    (norm,) = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    return norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_batch_norm_gradients_match_reference(activation: str, place: str, training: bool) -> None:
    model, batch = mlp(activation=activation, batch_norm=place).train(training), samples()
    network = Network(
        copy_parameters(model), activation, norm=place, running=None if training else copy_running_statistics(model)
    )
    cost, gradients = network.gradients(batch.inputs.numpy(), encode_one_hot(batch.targets), COSTS["cross_entropy"])
    if training and place == "before":
        assert "b1" not in gradients  # the norm would take a bias away again
    found, ours = compute_by_autograd(model, batch)
    assert found == pytest.approx(cost, abs=TOLERANCE)
    if training and place == "after":  # this bias has a gradient only through the activation's bend
        assert np.abs(gradients["b1"]).max() > 1e-6
    assert_arrays_close(ours, gradients)


@pytest.mark.parametrize("place", ["before", "after"])
def test_running_statistics_move_by_tenth(place: str) -> None:
    """Running statistics move a tenth of the way to the batch's mean and unbiased variance."""
    model = mlp(batch_norm=place).train()
    p, (mean, variance) = copy_parameters(model), copy_running_statistics(model)
    for _ in range(3):
        batch = samples()
        into = batch.inputs.numpy() @ p["w1"].T + p.get("b1", 0.0)
        into = into if place == "before" else sigmoid(into)
        mean = 0.9 * mean + 0.1 * into.mean(axis=0)
        variance = 0.9 * variance + 0.1 * into.var(axis=0, ddof=1)
        model(batch.inputs)
    assert_arrays_close(dict(zip("mv", copy_running_statistics(model), strict=True)), {"m": mean, "v": variance})


def test_evaluation_keeps_running_statistics() -> None:
    model = mlp(batch_norm=True).eval()
    before = copy_running_statistics(model)
    model(samples().inputs)
    assert np.array_equal(before, copy_running_statistics(model))


# The course's network in NumPy


def compute_listing_step(p: Arrays, x: Array, y: Array, lr: float, l2: float) -> Arrays:
    """One step as the listing takes it: costs summed over outputs and samples, l2·w added to the weights' gradients."""
    hidden = sigmoid(x @ p["w1"].T + p["b1"])
    delta = sigmoid(hidden @ p["w2"].T + p["b2"]) - y
    delta_hidden = (delta @ p["w2"]) * hidden * (1 - hidden)
    return {
        "w1": p["w1"] - lr * (delta_hidden.T @ x + l2 * p["w1"]),
        "b1": p["b1"] - lr * delta_hidden.sum(axis=0),
        "w2": p["w2"] - lr * (delta.T @ hidden + l2 * p["w2"]),
        "b2": p["b2"] - lr * delta.sum(axis=0),
    }


def test_trainer_matches_course_network(tmp_path: Path) -> None:
    """The trainer takes the same steps as the course's NumPy network."""
    lr, l2, size = 0.05, 0.1, 4
    model = mlp(
        loss="one_vs_rest", reduction="sum", l2=l2 / 2, init="normal", init_std=0.1, optimizer={**SGD, "lr": lr}
    )
    p, train = copy_parameters(model), samples()
    assert not p["b1"].any() and not p["b2"].any()
    data = InMemoryDataModule(train, class_names=("a", "b", "c"), batch_size=size)
    quiet_trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(model, datamodule=data)
    for _ in range(3):
        for start in range(0, COUNT, size):
            batch = train.take(slice(start, start + size))
            p = compute_listing_step(p, batch.inputs.numpy(), encode_one_hot(batch.targets), lr, l2)
    assert_arrays_close(copy_parameters(model), p)


def test_listing_step_matches_summed_cost() -> None:
    """A step of the course's listing descends the summed one-vs-rest cost with an L2 penalty."""
    p, batch, lr, l2 = copy_parameters(mlp()), samples(), 0.05, 0.1
    x, y = batch.inputs.numpy(), encode_one_hot(batch.targets)
    gradients = Network(p, "sigmoid").gradients(x, y, one_vs_rest)[1]
    expected = {name: p[name] - lr * (COUNT * gradients[name] + l2 * p[name] * (p[name].ndim > 1)) for name in p}
    assert_arrays_close(compute_listing_step(p, x, y, lr, l2), expected)
