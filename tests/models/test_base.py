import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from src.core.errors import DivergedError, InputError
from src.data.base import EVAL_BATCH_SIZE
from src.data.loading.samples import Samples
from src.models.base import Settings
from src.models.cnn import CNN
from src.models.mlp import MLP
from tests.doubles import SGD, ZERO_RATE_SGD, InMemoryDataModule, LearningRates, make_samples, quiet_trainer

CLASSES = ("a", "b", "c")


def linear(task: str = "multiclass", optimizer: Settings | None = ZERO_RATE_SGD, **settings: Any) -> MLP:
    """A model of two inputs without a hidden layer; three classes, two if binary."""
    num_classes = {"multiclass": 3, "binary": 2, "regression": 0}[task]
    given = {"in_shape": [2], "num_classes": num_classes, "task": task, "optimizer": optimizer, **settings}
    return MLP(hidden_size=[], activation="relu", dropout=0.0, batch_norm=False, **given)


def data(train: int = 40, val: int = 0, test: int = 0, task: Any = "multiclass", **settings: Any) -> InMemoryDataModule:
    classes = {"multiclass": 3, "binary": 2, "regression": 0}[task]
    sets: Any = {
        name: make_samples(count, classes) for name, count in {"train": train, "val": val, "test": test}.items()
    }
    return InMemoryDataModule(**sets, task=task, class_names=CLASSES[:classes], **settings)


# The loss, against its formula


def log_softmax(outputs: np.ndarray) -> np.ndarray:
    return outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))


def loss_by_formula(outputs: Tensor, targets: Tensor, task: str, smoothing: float = 0.0) -> np.ndarray:
    """The loss of each sample, (N,)."""
    x, y = outputs.detach().double().numpy(), targets.numpy()
    if task == "multiclass":
        wanted = (1 - smoothing) * np.eye(3)[y] + smoothing / 3
        return -(wanted * log_softmax(x)).sum(axis=1)
    if task == "binary":
        probability, wanted = 1 / (1 + np.exp(-x[:, 0])), (1 - smoothing) * y + smoothing / 2
        return -(wanted * np.log(probability) + (1 - wanted) * np.log(1 - probability))
    return (x[:, 0] - y) ** 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_loss_matches_task_formula(task: str, smoothing: float) -> None:
    model = linear(task)
    samples = make_samples(50, {"multiclass": 3, "binary": 2, "regression": 0}[task])
    outputs = 3 * torch.randn(50, model.out_features)
    expected = loss_by_formula(outputs, samples.targets, task, smoothing).mean()
    assert model.loss(outputs, samples.targets, smoothing).item() == pytest.approx(expected, rel=1e-5)


def test_output_count_follows_task() -> None:
    """A model has one output per class, and a single output for binary classification and regression."""
    for task, width in (("multiclass", 3), ("binary", 1), ("regression", 1)):
        assert linear(task)(torch.zeros(5, 2)).shape == (5, width)


def test_predictions_follow_task() -> None:
    """Predictions are the class of the largest output, the sign of the logit, or the value itself."""
    assert linear().predict(torch.tensor([[1.0, 3, 2], [5, -1, 0]])).tolist() == [1, 0]
    assert linear("binary").predict(torch.tensor([[-0.1], [0.1]])).tolist() == [0, 1]
    assert linear("regression").predict(torch.tensor([[-0.5], [7.0]])).tolist() == [-0.5, 7.0]


# What is logged


def compute_metrics(model: MLP, samples: Samples, task: str, smoothing: float = 0.0) -> tuple[float, float]:
    """Mean loss and accuracy over the samples, each counted once."""
    outputs = model(samples.inputs).detach()
    loss = loss_by_formula(outputs, samples.targets, task, smoothing).mean()
    return float(loss), float(np.mean(model.predict(outputs).numpy() == samples.targets.numpy()))


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_validation_metrics_average_over_samples(task: str, tmp_path: Path) -> None:
    """Validation metrics are means over all samples, also if the last batch is smaller."""
    model, given = linear(task), data(val=EVAL_BATCH_SIZE + 100, task=task)
    assert given.val_set is not None
    given.val_set.inputs[-100:] *= 5  # the last batch's mean loss is another
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, datamodule=given)

    loss, accuracy = compute_metrics(model, given.val_set, task)
    logged = trainer.callback_metrics
    assert logged["val/loss"].item() == pytest.approx(loss, rel=1e-5)
    if task != "regression":
        assert logged["val/acc"].item() == pytest.approx(accuracy, rel=1e-6)
    halves = [given.val_set.take(part) for part in (slice(EVAL_BATCH_SIZE), slice(EVAL_BATCH_SIZE, None))]
    mean_of_means = np.mean([compute_metrics(model, half, task)[0] for half in halves])
    assert abs(mean_of_means - loss) > 0.01


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_training_metrics_average_over_samples(task: str, tmp_path: Path) -> None:
    """Training metrics are means over all samples of the epoch."""
    smoothing = 0.0 if task == "regression" else 0.2
    model, given = linear(task, label_smoothing=smoothing), data(train=25, task=task)
    assert given.train_set is not None
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, datamodule=given)
    loss, accuracy = compute_metrics(model, given.train_set, task, smoothing)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(loss, rel=1e-5)
    if task != "regression":
        assert trainer.callback_metrics["train/acc"].item() == pytest.approx(accuracy, rel=1e-6)


def test_validation_ignores_label_smoothing(tmp_path: Path) -> None:
    model, given = linear(label_smoothing=0.3), data(val=30)
    assert given.val_set is not None
    (metrics,) = quiet_trainer(tmp_path).validate(model, datamodule=given, verbose=False)
    assert metrics["val/loss"] == pytest.approx(compute_metrics(model, given.val_set, "multiclass")[0], rel=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_metric_names_follow_task(task: str, tmp_path: Path) -> None:
    """Metrics are named STAGE/NAME, and regression has no accuracy."""
    trainer, model, given = quiet_trainer(tmp_path), linear(task), data(val=20, test=20, task=task)
    trainer.fit(model, datamodule=given)
    measures = ["loss"] if task == "regression" else ["acc", "loss"]
    fitted = {name for name in trainer.callback_metrics if "/" in name}
    assert fitted == {f"{stage}/{measure}" for stage in ("train", "val") for measure in measures}
    (tested,) = trainer.test(model, datamodule=given, verbose=False)
    assert set(tested) == {f"test/{measure}" for measure in measures}


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_confusion_matrix_counts_classes(task: str, tmp_path: Path) -> None:
    """The rows of the confusion matrix are the true classes, its columns the predicted ones."""
    model, given = linear(task), data(test=EVAL_BATCH_SIZE + 33, task=task)
    assert given.test_set is not None
    quiet_trainer(tmp_path).test(model, datamodule=given, verbose=False)
    predicted = model.predict(model(given.test_set.inputs))
    expected = np.zeros((model.num_classes, model.num_classes), dtype=int)
    np.add.at(expected, (given.test_set.targets.numpy(), predicted.numpy()), 1)
    assert model.confusion is not None
    assert model.confusion.tolist() == expected.tolist()
    assert len(set(expected.flatten())) > 2


def test_each_evaluation_resets_counts(tmp_path: Path) -> None:
    """The confusion matrix of a second evaluation does not include the first."""
    model, given = linear(), data(test=30)
    for _ in range(2):
        quiet_trainer(tmp_path).test(model, datamodule=given, verbose=False)
        assert model.confusion is not None
        assert model.confusion.sum() == 30


# Divergence


def make_diverging_data(step: int, value: float = float("nan"), **settings: Any) -> InMemoryDataModule:
    """Ten batches a epoch, of which number ``step`` (from 1) has an input that is not finite."""
    given = data(train=100, **settings)
    assert given.train_set is not None
    given.train_set.inputs[10 * step - 1, 0] = value
    return given


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("log_every", [1, 3, 10, 50])
@pytest.mark.parametrize("step", [1, 4, 10])
def test_non_finite_loss_stops_training(step: int, log_every: int, value: float, tmp_path: Path) -> None:
    """Training stops at a loss that is NaN or infinite, and the error names the step."""
    trainer = quiet_trainer(tmp_path, max_epochs=3, log_every_n_steps=log_every)
    with pytest.raises(DivergedError, match=rf"^the loss became nan at step {step} \(epoch 1\): lower optimizer\.lr"):
        trainer.fit(linear(optimizer=SGD), datamodule=make_diverging_data(step, value))
    looked = min(-(-step // log_every) * log_every, 10)
    assert trainer.global_step == looked - 1


class WeightPoisoner(Callback):
    """Makes a weight NaN before an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            next(pl_module.parameters()).data.fill_(float("nan"))


@pytest.mark.parametrize("log_every", [4, 50])
def test_reported_step_counts_all_epochs(log_every: int, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=3, log_every_n_steps=log_every, callbacks=[WeightPoisoner(epoch=1)])
    with pytest.raises(DivergedError, match=r"at step 11 \(epoch 2\)"):
        trainer.fit(linear(), datamodule=data(train=100))


@pytest.mark.parametrize(("batch", "step"), [(1, 1), (4, 2), (9, 3), (10, 4)])
@pytest.mark.parametrize("log_every", [2, 7, 50])
def test_reported_step_counts_accumulated_batches(batch: int, step: int, log_every: int, tmp_path: Path) -> None:
    """With gradient accumulation the step is counted in updates, not in batches."""
    trainer = quiet_trainer(tmp_path, accumulate_grad_batches=3, log_every_n_steps=log_every)
    with pytest.raises(DivergedError, match=rf"at step {step} \(epoch 1\)"):
        trainer.fit(linear(optimizer=SGD), datamodule=make_diverging_data(batch))


def test_max_steps_keeps_reported_step(tmp_path: Path) -> None:
    """A limit on the steps does not change the step that the error names."""
    with pytest.raises(DivergedError, match=r"at step 2 \(epoch 1\)"):
        quiet_trainer(tmp_path, max_steps=4).fit(linear(optimizer=SGD), datamodule=make_diverging_data(2))


def test_non_finite_validation_loss_stops_training(tmp_path: Path) -> None:
    given = data(train=100, val=20)
    assert given.val_set is not None
    given.val_set.inputs[7] = float("nan")
    with pytest.raises(DivergedError, match=r"the loss became nan at step 10 \(epoch 1\)"):
        quiet_trainer(tmp_path, max_epochs=3).fit(linear(), datamodule=given)


# Optimisers and schedulers


def record_learning_rates(scheduler: Settings | None, epochs: int, folder: Path, lr: float = 0.1) -> list[float]:
    """The learning rate of each step, ten an epoch, and at last the one that would come next."""
    noted = LearningRates()
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=[noted])
    trainer.fit(linear(optimizer={**SGD, "lr": lr}, scheduler=scheduler), datamodule=data(train=100))
    return [step[0] for step in noted.steps] + [trainer.optimizers[0].param_groups[0]["lr"]]


def test_one_cycle_peaks_at_learning_rate(tmp_path: Path) -> None:
    """One-cycle rises to the optimizer's learning rate and then falls to a small fraction of it."""
    settings = {"max_lr": "lr", "total_steps": "total_steps", "pct_start": 0.3, "div_factor": 25.0}
    scheduler = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "interval": "step", **settings}
    steps = record_learning_rates({**scheduler, "final_div_factor": 100.0}, 2, tmp_path)[:-1]
    assert len(steps) == 20
    assert steps[0] == pytest.approx(0.1 / 25)
    assert steps.index(max(steps)) == 5  # 0.3 · 20 steps, the sixth
    assert max(steps) == pytest.approx(0.1)
    assert steps[-1] == pytest.approx(0.1 / 25 / 100)


def test_cosine_spans_whole_run(tmp_path: Path) -> None:
    """The cosine schedule falls from the learning rate to its minimum over the whole run."""
    scheduler = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "interval": "step", "eta_min": 0.01}
    steps = record_learning_rates({**scheduler, "T_max": "total_steps"}, 2, tmp_path)
    expected = 0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(21) / 20)) / 2
    assert steps == pytest.approx(expected.tolist(), abs=1e-8)


def test_exponential_decays_each_epoch(tmp_path: Path) -> None:
    scheduler = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "interval": "epoch", "gamma": 0.5}
    assert record_learning_rates(scheduler, 3, tmp_path) == pytest.approx(
        [0.1] * 10 + [0.05] * 10 + [0.025] * 10 + [0.0125]
    )


@pytest.mark.parametrize("scheduler", [None, {}])
def test_learning_rate_is_constant_without_scheduler(scheduler: Settings | None, tmp_path: Path) -> None:
    assert set(record_learning_rates(scheduler, 2, tmp_path)) == {0.1}


def test_optimizer_gets_all_settings(tmp_path: Path) -> None:
    settings = {"_target_": "torch.optim.AdamW", "lr": 0.02, "betas": [0.8, 0.9], "weight_decay": 0.3, "fused": None}
    trainer = quiet_trainer(tmp_path)
    trainer.fit(linear(optimizer=settings), datamodule=data())
    (optimizer,) = trainer.optimizers
    assert type(optimizer) is torch.optim.AdamW
    given = {name: optimizer.defaults[name] for name in ("lr", "betas", "weight_decay")}
    assert given == {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.3}
    assert optimizer.defaults["fused"]  # null stands for: where the device has it
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_gradient_descent_step_matches_formula(tmp_path: Path) -> None:
    model, given = linear("regression", SGD), data(train=10, task="regression")
    assert given.train_set is not None
    before = [parameter.detach().clone() for parameter in model.parameters()]
    x, y = (part.double().numpy() for part in given.train_set)
    error = x @ before[0][0].double().numpy() + before[1].item() - y
    quiet_trainer(tmp_path).fit(model, datamodule=given)
    weight, bias = (parameter.detach() for parameter in model.parameters())
    assert weight[0].tolist() == pytest.approx(before[0][0].numpy() - 0.1 * 2 * error @ x / 10, abs=1e-6)
    assert bias.item() == pytest.approx(before[1].item() - 0.1 * 2 * error.mean(), abs=1e-6)


def test_training_without_optimizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MLP was made without an optimizer"):
        quiet_trainer(tmp_path).fit(linear(optimizer=None), datamodule=data())


def test_image_model_refuses_other_inputs() -> None:
    with pytest.raises(InputError, match=r"CNN takes images of shape \(C, H, W\), these data have shape \(2,\)"):
        CNN([8], 16, "relu", 0.0, True, in_shape=[2], num_classes=2, task="binary")


def test_logged_step_loss_is_averaged(tmp_path: Path) -> None:
    """The logged step loss is the mean over the steps since the last logged value."""
    given = data(train=50)
    assert given.train_set is not None
    model, logger = linear(), CSVLogger(tmp_path, name="", version="")
    quiet_trainer(tmp_path, logger=logger, log_every_n_steps=2).fit(model, datamodule=given)
    with (tmp_path / "metrics.csv").open() as file:
        logged = [float(row["train/loss_step"]) for row in csv.DictReader(file) if row["train/loss_step"]]
    batches = [
        compute_metrics(model, given.train_set.take(slice(i, i + 10)), "multiclass")[0] for i in range(0, 50, 10)
    ]
    assert logged == pytest.approx([np.mean(batches[:2]), np.mean(batches[2:4]), batches[4]], rel=1e-5)
