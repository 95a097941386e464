"""Each loss by hand, the rule that the perceptron's is made for, and what a step descends on."""

from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.loading.samples import Samples
from src.data.tasks import TASKS
from src.models.mlp import MLP
from src.models.supervision.losses import LOSSES, compute_penalty, encode_targets
from tests.command_line import BARE, run
from tests.doubles import InMemoryDataModule, make_samples, quiet_trainer

LN3 = log(3)  # its sigmoid is 3/4
SINGLE = ("multiclass", "binary", "regression")  # tasks with one target per sample


def loss(name: str, outputs: list[list[float]], targets: list[float], smoothing: float = 0.0) -> float:
    classes = torch.tensor(targets) if name == "squared_error" else torch.tensor(targets).long()
    return LOSSES[name](torch.tensor(outputs), classes, smoothing).item()


# By hand


@pytest.mark.parametrize(
    ("outputs", "target", "smoothing", "value"),
    [
        ([0.0, LN3], 1, 0.0, -log(3 / 4)),  # softmax: ¼, ¾
        ([0.0, LN3], 0, 0.0, -log(1 / 4)),
        ([0.0, 0.0, 0.0, 0.0], 2, 0.0, log(4)),
        ([0.0, LN3], 1, 0.5, -0.25 * log(1 / 4) - 0.75 * log(3 / 4)),  # half of the weight spread over both
        ([0.0], 1, 0.0, log(2)),  # one output: its sigmoid is class 1's share
        ([LN3], 1, 0.0, -log(3 / 4)),
        ([LN3], 0, 0.0, -log(1 / 4)),
        ([LN3], 1, 0.2, -0.9 * log(3 / 4) - 0.1 * log(1 / 4)),
    ],
)
def test_cross_entropy(outputs: list[float], target: int, smoothing: float, value: float) -> None:
    assert loss("cross_entropy", [outputs], [target], smoothing) == pytest.approx(value)


@pytest.mark.parametrize(
    ("outputs", "target", "smoothing", "value"),
    [
        ([0.0, LN3, -LN3], 1, 0.0, log(2) - 2 * log(3 / 4)),
        ([0.0, LN3, -LN3], 2, 0.0, log(2) - 2 * log(1 / 4)),
        ([0.0, LN3], 1, 0.2, log(2) - 0.9 * log(3 / 4) - 0.1 * log(1 / 4)),
    ],
)
def test_one_vs_rest_sums_over_outputs(outputs: list[float], target: int, smoothing: float, value: float) -> None:
    assert loss("one_vs_rest", [outputs], [target], smoothing) == pytest.approx(value)


@pytest.mark.parametrize(
    ("outputs", "target", "smoothing", "value"),
    [
        ([0.0, LN3], 1, 0.0, (0.5**2 + 0.25**2) / 2),
        ([0.0, LN3], 0, 0.0, (0.5**2 + 0.75**2) / 2),
        ([0.0, LN3], 1, 0.2, (0.4**2 + 0.15**2) / 2),
        ([LN3], 1, 0.0, 0.25**2 / 2),
        ([LN3], 0, 0.0, 0.75**2 / 2),
    ],
)
def test_quadratic_is_half_squared_error(outputs: list[float], target: int, smoothing: float, value: float) -> None:
    """The quadratic loss is half the sum of squared errors of the sigmoids."""
    assert loss("quadratic", [outputs], [target], smoothing) == pytest.approx(value)


@pytest.mark.parametrize(
    ("outputs", "target", "value"),
    [
        ([2.0, -1.0], 1, 2.0 + 1.0),  # one that should not fire does, one that should does not
        ([2.0, 5.0], 1, 2.0),
        ([-1.0, 5.0], 1, 0.0),
        ([-2.0], 1, 2.0),
        ([-2.0], 0, 0.0),
        ([3.0], 0, 3.0),
        ([0.0], 1, 0.0),  # does not fire, and is wrong; only the gradient tells
    ],
)
def test_perceptron_sums_wrong_outputs(outputs: list[float], target: int, value: float) -> None:
    """The perceptron loss is the sum of the absolute values of the wrong outputs."""
    assert loss("perceptron", [outputs], [target]) == pytest.approx(value)


def test_squared_error_has_no_factor() -> None:
    assert loss("squared_error", [[1.0]], [3.0]) == 4.0


@pytest.mark.parametrize("name", LOSSES)
def test_batch_loss_averages_over_samples(name: str) -> None:
    rows, targets = ([[1.5], [-2.0], [4.0]], [1.0, 0.0, 1.0])
    if name != "squared_error":
        rows = [[*row, 0.5] for row in rows]
    each = [loss(name, [row], [target]) for row, target in zip(rows, targets, strict=True)]
    assert loss(name, rows, targets) == pytest.approx(sum(each) / 3)
    assert sum(each) > 0


@pytest.mark.parametrize(
    ("targets", "width", "smoothing", "rows"),
    [
        ([2, 0], 3, 0.0, [[0, 0, 1], [1, 0, 0]]),
        ([2, 0], 3, 0.3, [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]),
        ([1, 0], 1, 0.0, [[1], [0]]),
        ([1, 0], 1, 0.2, [[0.9], [0.1]]),
    ],
)
def test_targets_are_encoded_with_smoothing(
    targets: list[int], width: int, smoothing: float, rows: list[list[float]]
) -> None:
    found = encode_targets(torch.zeros(len(targets), width), torch.tensor(targets), smoothing)
    assert torch.allclose(found, torch.tensor(rows, dtype=torch.float32))


# Rosenblatt's rule


def make_unit(task: str = "binary", **settings: Any) -> MLP:
    """A model without a hidden layer: for two classes one unit."""
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.5, "momentum": 0.0, "fused": None}
    given = {"activation": "sigmoid", "dropout": 0.0, "batch_norm": False, "optimizer": optimizer, **settings}
    return MLP([], **given, in_shape=[2], num_classes=2 if task != "regression" else 0, task=task)


def get_only_layer(model: MLP) -> torch.nn.Linear:
    (layer,) = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return layer


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        ([3.0, -1.0], 0, -1),  # 1·3 − 2·(−1) + ¼ > 0: fires and should not
        ([1.0, 4.0], 1, 1),  # does not fire and should
        ([3.0, -1.0], 1, 0),
        ([1.0, 4.0], 0, 0),
        ([-0.25, 0.0], 1, 1),  # on the line: it does not fire
        ([-0.25, 0.0], 0, 0),
    ],
)
def test_perceptron_step_follows_rosenblatt_rule(x: list[float], y: int, error: int, tmp_path: Path) -> None:
    model = make_unit(loss="perceptron")
    layer = get_only_layer(model)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.fill_(0.25)
    data = InMemoryDataModule(
        Samples(torch.tensor([x]), torch.tensor([y])), task="binary", class_names=("0", "1"), batch_size=1
    )
    quiet_trainer(tmp_path, limit_val_batches=0).fit(model, datamodule=data)
    assert layer.weight.tolist() == [[1 + 0.5 * error * x[0], -2 + 0.5 * error * x[1]]]
    assert layer.bias.tolist() == [0.25 + 0.5 * error]


# What a step descends on


def compute_gradients(model: MLP, batch: Samples) -> list[Tensor]:
    model.zero_grad()
    model.compute_objective(model.loss(model(batch.inputs), batch.targets), batch.size).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in SINGLE for name in TASKS[task].losses])
def test_sum_gradient_scales_with_batch(task: str, name: str) -> None:
    """The gradient of the summed loss is that of the mean, times the batch size."""
    batch = make_samples(7, classes=0 if task == "regression" else 2)
    model = make_unit(task, loss=name)
    mean = compute_gradients(model, batch)
    model.reduction = "sum"
    for summed, averaged in zip(compute_gradients(model, batch), mean, strict=True):
        assert torch.allclose(summed, 7 * averaged, atol=1e-6)
        assert averaged.any()


def test_penalty_ignores_batch_size() -> None:
    """With the summed loss the penalty is not multiplied by the batch size."""
    model = make_unit(reduction="sum", l1=0.5, l2=0.25)
    layer = get_only_layer(model)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -3.0]]))
        layer.bias.fill_(9.0)
    assert model.compute_objective(torch.tensor(1.5), 4).item() == 4 * 1.5 + 0.5 * (2 + 3) + 0.25 * (4 + 9)


def test_penalty_excludes_batch_norm() -> None:
    model = MLP(3, "relu", 0.0, True, in_shape=[2], num_classes=2, task="binary", l2=1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.ndim > 1 else 7.0)
    assert model.compute_objective(torch.tensor(0.0), 1).item() == 2 * 3 + 3


def test_penalty_excludes_frozen_weights() -> None:
    model = MLP([3, 3], "relu", 0.0, False, in_shape=[2], num_classes=2, task="binary", l1=1.0, l2=1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
    next(model.parameters()).requires_grad_(False)  # 2·3 weights; the others are 3·3 and 3
    assert model.compute_objective(torch.tensor(0.0), 1).item() == (2 + 4) * (9 + 3)


def test_penalty_matches_known_values() -> None:
    weights = [torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0], [3.0]])]
    assert compute_penalty(weights, l1=0.1, l2=0.0).item() == pytest.approx(0.6)
    assert compute_penalty(weights, l1=0.0, l2=0.01).item() == pytest.approx(0.14)


# Which loss suits which task


def test_each_task_has_default_loss() -> None:
    assert {task: make_unit(task).loss_name for task in SINGLE} == {
        "multiclass": "cross_entropy",
        "binary": "cross_entropy",
        "regression": "squared_error",
    }


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task in SINGLE for name in LOSSES if name not in TASKS[task].losses]
)
def test_unsuitable_loss_is_refused(task: str, name: str) -> None:
    """A loss that does not suit the task is refused, and the error lists those that do."""
    with pytest.raises(InputError) as caught:
        make_unit(task, loss=name)
    assert (
        str(caught.value) == f"model.loss={name} does not suit {task} targets: choose {' or '.join(TASKS[task].losses)}"
    )


@pytest.mark.parametrize(
    ("task", "name"), [("binary", "perceptron"), ("multiclass", "perceptron"), ("regression", None)]
)
def test_meaningless_label_smoothing_is_refused(task: str, name: str | None) -> None:
    with pytest.raises(InputError) as caught:
        make_unit(task, loss=name, label_smoothing=0.1)
    chosen = name or "squared_error"
    assert str(caught.value) == f"model.label_smoothing=0.1 has no meaning for the loss {chosen}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data=cubic", "model.loss=perceptron"], "does not suit regression targets: choose squared_error"),
        (["data=xor", "model.loss=one_vs_rest"], "choose cross_entropy or quadratic or perceptron"),
        (["data=cubic", "model.label_smoothing=0.1"], "has no meaning for the loss squared_error"),
        (["model.loss=hinge"], "model.loss=hinge must be null, cross_entropy, one_vs_rest, quadratic,"),
    ],
)
def test_command_line_refuses_unsuitable_loss(arguments: list[str], told: str, tmp_path: Path) -> None:
    """On the command line an unsuitable loss ends in an error of one line."""
    assert told in run("src.train", *BARE, *arguments, cwd=tmp_path).error
