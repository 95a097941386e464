"""Jobs trained together come to what each comes to alone."""

from pathlib import Path

import pytest
import torch

from src.data.loading.samples import Samples
from src.models.mlp import MLP
from src.vectorized.batches import StackedBatches
from src.vectorized.model import StackedModel
from src.vectorized.schedules import Schedules
from tests.command_line import NO_FIGURES, get_small_image_settings
from tests.doubles import InMemoryDataModule
from tests.vectorized.both_ways import assert_same_as_alone, make_job_settings

XOR = ["data=xor", "model.hidden_size=5", "trainer.max_epochs=6"]  # 60 steps
SGD, ADAM, ADAMW = (["optimizer=sgd", "optimizer.momentum=0"], ["optimizer=adam"], ["optimizer=adamw"])
MOMENTUM = ["optimizer=sgd"]
EARLY_STOPPING = ["callbacks=early_stopping", *NO_FIGURES]
JOB_CASES = {
    "plain gradient descent": (SGD, "optimizer.lr=0.3", "optimizer.lr=0.1 optimizer.weight_decay=0.01", "seed=3"),
    "momentum": (MOMENTUM, "optimizer.momentum=0.5", "optimizer.momentum=0.9 seed=1", "optimizer.weight_decay=0.1"),
    "nesterov": ([*MOMENTUM, "optimizer.nesterov=true"], "optimizer.momentum=0.5", "optimizer.lr=0.2 seed=1"),
    "adam": (
        ADAM,
        "optimizer.lr=0.1 +optimizer.eps=1e-3",
        "optimizer.weight_decay=0.1 +optimizer.eps=1e-2 seed=1",
        "optimizer.betas=[0.5,0.9]",
    ),
    "adamw": (ADAMW, "optimizer.lr=0.1", "optimizer.weight_decay=0.5 seed=1", "optimizer.betas=[0.5,0.9]"),
    "cosine": ([*SGD, "scheduler=cosine"], "optimizer.lr=0.3", "scheduler.eta_min=0.05 seed=1"),
    "warmup": ([*ADAM, "scheduler=warmup_cosine"], "scheduler.warmup=0.3", "scheduler.eta_min=0.001 optimizer.lr=0.1"),
    "exponential": ([*ADAM, "scheduler=exponential"], "scheduler.gamma=0.5", "scheduler.gamma=0.9 optimizer.lr=0.1"),
    "one cycle": (
        [*MOMENTUM, "scheduler=one_cycle"],
        "optimizer.lr=0.3 optimizer.momentum=0 scheduler.cycle_momentum=false",
        "scheduler.pct_start=0.6 seed=1",
    ),
    "one cycle of adam": ([*ADAMW, "scheduler=one_cycle"], "optimizer.lr=0.3", "scheduler.div_factor=3 seed=1"),
    "dropout": (["model.dropout=0.5"], "seed=0", "seed=1", "model.dropout=0.2"),
    "batch norm behind": (["model.batch_norm=after", "model.hidden_size=[4,3]"], "seed=0", "seed=1 optimizer.lr=0.1"),
    "batch norm and dropout": (["model.batch_norm=true", "model.dropout=0.3"], "seed=0", "seed=1 model.dropout=0.6"),
    "no hidden layer": (["model.hidden_size=[]", "model.output_bias=false"], "seed=0", "seed=1"),
    "label smoothing": ([], "model.label_smoothing=0.1", "model.label_smoothing=0.4", "seed=0"),
    "one label smoothing, no shuffling": (["model.label_smoothing=0.2", "data.shuffle=false"], "seed=0", "seed=1"),
    "penalties": (SGD, "model.l1=0.01", "model.l2=0.1", "seed=1"),
    "quadratic loss, one order": (
        ["model.loss=quadratic", "data.order_seed=7"],
        "seed=0",
        "seed=1 optimizer.lr=0.1",
    ),
    "perceptron loss, a smaller last batch": (
        ["model.loss=perceptron", "model.hidden_size=[]", "data.batch_size=8"],
        "seed=0",
        "optimizer.lr=0.5",
    ),
    "a sum of losses, no smaller last batch": (
        [*SGD, "model.reduction=sum", "data.batch_size=8", "data.drop_last=true"],
        "optimizer.lr=0.01",
        "optimizer.lr=0.03 seed=1",
    ),
    "initial weights, validation now and then, no seed of the order": (
        ["model.activation=tanh", "trainer.check_val_every_n_epoch=4", "data.order_seed=null"],
        "model.init=xavier",
        "model.init=normal model.init_std=0.7 seed=1",
    ),
    "early stopping on a schedule": (
        [*EARLY_STOPPING, "trainer.max_epochs=20", "scheduler=cosine"],
        "optimizer.lr=0.1 seed=2",
        "callbacks.early_stopping.patience=4",
        "callbacks.early_stopping.patience=12",
    ),
    "early stopping of those with momentum": (
        [*EARLY_STOPPING, "trainer.max_epochs=20", "optimizer=sgd", "callbacks.early_stopping.patience=3"],
        "optimizer.lr=0.5",
        "optimizer.lr=0.4 seed=1",
        "optimizer.lr=0.001 optimizer.momentum=0 callbacks.early_stopping.patience=100",
    ),
    "early stopping with batch norm and dropout": (
        [*EARLY_STOPPING, "trainer.max_epochs=20", "model.batch_norm=true", "model.dropout=0.4"],
        "optimizer.lr=0.1 seed=2",
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.patience=12 seed=7 model.dropout=0.1",
    ),
    "ten points, some held out": (
        ["data=ten_points", "data.held_out=3", *EARLY_STOPPING, "trainer.max_epochs=80"],
        "optimizer.lr=0.01",
        "seed=1 callbacks.early_stopping.patience=3",
    ),
    "regression": (["data=cubic", "model.hidden_size=6", "trainer.max_epochs=4"], "seed=0", "optimizer.lr=0.1"),
}

MIXED_CASES = {
    "widths": (ADAM, "model.hidden_size=3", "model.hidden_size=7 seed=1", "model.hidden_size=5 optimizer.lr=0.1"),
    "widths of sigmoids": (
        [*MOMENTUM, "model.activation=sigmoid", "model.l1=0.001"],
        "model.hidden_size=2 optimizer.weight_decay=0.01",
        "model.hidden_size=6",
    ),
    "widths of two layers with dropout": (
        ["model.dropout=0.4", "model.activation=sigmoid"],
        "model.hidden_size=[6,3]",
        "model.hidden_size=[2,5] seed=1 model.dropout=0.2",
    ),
    "activations": (SGD, *(f"model.activation={each}" for each in ("sigmoid", "relu", "tanh", "elu", "leaky_relu"))),
    "activations with penalties": (
        ["model.l2=0.01"],
        *(f"model.activation={each}" for each in ("gelu", "silu", "relu")),
    ),
    "batch norm on, behind and off": (
        ADAMW,
        "model.batch_norm=true model.hidden_size=4",
        "model.batch_norm=false seed=1",
        "model.batch_norm=after optimizer.weight_decay=0.1",
    ),
    "dropout on and off": (ADAM, "model.dropout=0.3", "model.dropout=0", "model.dropout=0.5 model.hidden_size=3"),
    "batch norm behind, dropout, and both": (
        MOMENTUM,
        "model.batch_norm=after",
        "model.dropout=0.3 seed=1",
        "model.batch_norm=after model.dropout=0.2 seed=2",
    ),
    "numbers of layers": (
        ["optimizer=sgd"],
        "model.hidden_size=4",
        "model.hidden_size=[3,6] seed=1",
        "model.hidden_size=[5,2,4] seed=2",
    ),
    "all of it, with early stopping": (
        [*EARLY_STOPPING, "trainer.max_epochs=20", "callbacks.early_stopping.patience=5"],
        "model.hidden_size=[6,3] model.batch_norm=true model.dropout=0.2 optimizer.lr=0.3",
        "model.hidden_size=4 model.activation=sigmoid seed=1 callbacks.early_stopping.patience=9",
        "model.hidden_size=[2,7] model.dropout=0.5 model.activation=tanh seed=2 callbacks.early_stopping.patience=6",
        "model.hidden_size=[3,3,3] model.batch_norm=after seed=3",
    ),
    "output with and without bias": (MOMENTUM, "model.output_bias=true", "model.output_bias=false model.hidden_size=3"),
}
JOB_CASES |= MIXED_CASES


@pytest.mark.parametrize("what", JOB_CASES)
def test_stack_equals_single_runs(what: str, tmp_path: Path) -> None:
    """Jobs trained together end as each does when trained alone."""
    shared, *own = JOB_CASES[what]
    assert_same_as_alone(tmp_path, make_job_settings([*XOR, *shared], *own))


CNN = ["model=cnn", "model.channels=[3,4]", "model.hidden_size=6", "trainer.max_epochs=5"]  # 10 steps each


@pytest.mark.parametrize(
    ("data", "shared"),
    [
        ("mnist", ["model.dropout=0.3"]),
        ("mnist", ["model.batch_norm=false", "model.dropout=0.0", "data.order_seed=1"]),
        ("mnist", ["model._target_=tests.vectorized.networks.TwoGroups", "optimizer=sgd"]),
        ("cifar10", ["model.dropout=0.3", "data.flip=true", "data.crop=2", "data.cutout=4"]),
        ("cifar10", ["model._target_=tests.vectorized.networks.Pooled"]),
    ],
)
def test_convolutional_stack_equals_single_runs(data: str, shared: list[str], data_dir: Path, tmp_path: Path) -> None:
    jobs = make_job_settings(
        [*CNN, *get_small_image_settings(data, data_dir), *shared], "seed=0", "seed=1 optimizer.lr=0.003"
    )
    assert_same_as_alone(tmp_path, jobs)


@pytest.mark.parametrize(
    ("data", "shared", "own"),
    [
        ("mnist", ["model.activation=sigmoid"], ["model.channels=[3,4]", "model.channels=[5,2] model.hidden_size=9"]),
        (
            "cifar10",
            ["data.flip=true", "data.crop=2"],
            [
                "model.batch_norm=true model.dropout=0.3",
                "model.batch_norm=after model.channels=[2,6]",
                "model.batch_norm=false model.activation=tanh model.hidden_size=[4,5]",
            ],
        ),
    ],
    ids=["widths", "all of it"],
)
def test_convolutions_of_other_widths_equal_single_runs(
    data: str, shared: list[str], own: list[str], data_dir: Path, tmp_path: Path
) -> None:
    """Networks of other channels, hidden layers, batch norm, dropout and activations."""
    given = [*CNN, "model.dropout=0", "model.batch_norm=false", *get_small_image_settings(data, data_dir), *shared]
    assert_same_as_alone(tmp_path, make_job_settings(given, *own))


def test_step_losses_equal_plain_loop() -> None:
    """The loss of each step is that of a plain training loop."""
    samples = Samples(torch.randn(90, 4, dtype=torch.float64), torch.arange(90) % 3)
    data, models = InMemoryDataModule(samples, class_names=("a", "b", "c"), shuffle=True), []
    for seed, lr in enumerate((0.3, 0.1, 0.03)):
        torch.manual_seed(seed)
        optimizer = {"_target_": "torch.optim.SGD", "lr": lr, "momentum": 0.9}
        parts = {"in_shape": [4], "num_classes": 3, "task": "multiclass", "optimizer": optimizer}
        models.append(MLP(hidden_size=[8, 6], activation="tanh", dropout=0.0, batch_norm=True, **parts).double())
    feed = StackedBatches(data, [10, 11, 12], torch.device("cpu"), torch.float64)
    stack = StackedModel(models, [0, 1, 2], feed, Schedules(models, 60, 1), log_interval=1, eval_batch=500)
    epochs = [stack.train_epoch().logged_losses for _ in range(7)]
    losses = [[loss for looks in epochs for _, loss in looks[job]] for job in range(3)]
    found = torch.tensor(losses, dtype=torch.float64).T  # (63, 3)
    for job, model in enumerate(models):
        torch.testing.assert_close(found[:, job], train_plain_loop(model, data, 10 + job), rtol=0, atol=1e-9)


def train_plain_loop(model: MLP, data: InMemoryDataModule, seed: int) -> torch.Tensor:
    """The losses of seven epochs, step by step."""
    optimizer, losses = model.configure_optimizers(), []
    assert data.train_set is not None
    for epoch in range(7):
        for index in data.draw_order(seed, epoch).split(10):
            loss = torch.nn.functional.cross_entropy(model(data.train_set.inputs[index]), data.train_set.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses)
