"""Class weights in the training loss: torch's weighted mean, balanced by the training set, refused without classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.models.mlp import MLP
from src.models.supervision.class_weights import compute_weighted_loss, make_class_weights
from src.models.supervision.losses import LOSSES
from tests.command_line import is_identical, read_history, read_weights, run, train, train_bare
from tests.doubles import SGD, InMemoryDataModule, make_samples, quiet_trainer

WEIGHTS = [0.5, 1.0, 4.0]
BINARY = ("model.hidden_size=8", "data.noise=0.4", "trainer.max_epochs=3")


def make_mlp(task: str = "multiclass", num_classes: int = 3, **settings: Any) -> MLP:
    return MLP([5], "tanh", 0.0, False, in_shape=[2], num_classes=num_classes, task=task, optimizer=SGD, **settings)


def train_by_hand(model: MLP, batches: list[tuple[Tensor, Tensor]], loss: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=SGD["lr"])
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_equals_weighted_torch_loop(smoothing: float, tmp_path: Path) -> None:
    """The weights are those of a loop with torch's weighted cross entropy, and validation has no weights."""
    samples, (plain, model) = make_samples(57, classes=3), [make_mlp() for _ in range(2)]
    model = make_mlp(class_weights=WEIGHTS, label_smoothing=smoothing)
    plain.load_state_dict(model.state_dict())
    data = InMemoryDataModule(samples, samples, samples, class_names=("a", "b", "c"))
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    batches = list(zip(*(part.split(10) for part in samples), strict=True))
    train_by_hand(plain, batches, nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=smoothing))
    for name, weight in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[name], weight, atol=1e-6)
    unweighted = nn.functional.cross_entropy(plain(samples.inputs), samples.targets)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(unweighted.item(), rel=1e-5)


def test_two_classes_weigh_as_two_outputs() -> None:
    """With one output for two classes the loss is that of two outputs with the same probabilities."""
    outputs, targets, weights = torch.randn(20, 1), torch.arange(20) % 2, torch.tensor([1.0, 5.0])
    both = torch.cat([torch.zeros(20, 1), outputs], dim=1)
    wanted = nn.functional.cross_entropy(both, targets, weights)
    assert torch.allclose(compute_weighted_loss(LOSSES["cross_entropy"], outputs, targets, 0.0, weights), wanted)


@pytest.mark.parametrize("name", ["cross_entropy", "one_vs_rest", "quadratic", "perceptron"])
def test_equal_weights_change_no_loss(name: str) -> None:
    outputs, targets = torch.randn(20, 3), torch.arange(20) % 3
    found = compute_weighted_loss(LOSSES[name], outputs, targets, 0.0, torch.full((3,), 2.0))
    assert torch.allclose(found, LOSSES[name](outputs, targets, 0.0))


def test_balanced_weights_count_training_samples() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    data = InMemoryDataModule(make_samples(10)._replace(targets=targets), class_names=("a", "b", "c"))
    trainer = type("Trainer", (), {"datamodule": data})
    assert torch.allclose(make_class_weights("balanced", trainer, 3), torch.tensor([10 / 18, 10 / 9, 10 / 3]))


def test_resumed_weighted_run_is_identical(tmp_path: Path) -> None:
    """In chunks, and also after a resume, the weights are those of steps one by one."""
    given = (*BINARY, "model.class_weights=[1,3]")
    whole = train_bare(*given, cwd=tmp_path).folder
    single = train_bare(*given, "trainer.log_every_n_steps=1", cwd=tmp_path).folder
    resumed = train_bare(*given, "trainer.max_epochs=1", cwd=tmp_path).folder
    train(f"resume={resumed}", "trainer.max_epochs=3", cwd=tmp_path)
    assert read_history(resumed) == read_history(whole)
    assert is_identical(read_weights(resumed), read_weights(whole))
    assert is_identical(read_weights(single), read_weights(whole))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("data=cubic", "model.class_weights=balanced"), "has no meaning for regression targets"),
        (("model.class_weights=[1,2,3]",), "model.class_weights=[1, 2, 3]: these are 3 weights, and the data have 2"),
        (("model.class_weights=[1,0]",), "a list of numbers above 0, one for each class"),
        (("model=nearest_neighbor", "+model.class_weights=[1,2]"), "model.class_weights"),
    ],
)
def test_unsuitable_weights_are_refused(given: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in run("src.train", *given, cwd=tmp_path).error


def test_balancing_needs_every_class(tmp_path: Path) -> None:
    data = InMemoryDataModule(make_samples(9, classes=2), class_names=("a", "b", "c"))
    with pytest.raises(Exception, match="no training sample has the class c"):
        quiet_trainer(tmp_path).fit(make_mlp(class_weights="balanced"), datamodule=data)
