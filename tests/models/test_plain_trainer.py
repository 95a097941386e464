"""Our models and data with a plain Trainer of Lightning's, as in a notebook."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.data.toy import XOR
from src.models.mlp import MLP
from tests.command_line import train, train_bare

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}


def make_model() -> LightningModule:
    adam = {"_target_": "torch.optim.Adam", "lr": 0.05}
    return MLP(8, "tanh", 0.0, False, in_shape=[2], num_classes=2, task="binary", optimizer=adam)


def test_plain_trainer_runs_all_stages(tmp_path: Path) -> None:
    """A plain Trainer fits, validates, tests and predicts."""
    torch.manual_seed(0)
    model, data = make_model(), XOR(train_size=100, val_size=20, test_size=30, noise=0.1, batch_size=10)
    trainer = Trainer(max_epochs=10, default_root_dir=tmp_path, **QUIET)  # with its summary, logger and checkpoints
    trainer.fit(model, data)
    (validated,) = trainer.validate(model, data, verbose=False)
    assert validated["val/acc"] == 1.0
    (tested,) = trainer.test(model, data, verbose=False)
    predicted = trainer.predict(model, data)
    assert predicted is not None and data.test_set is not None
    (classes,) = predicted
    assert isinstance(classes, torch.Tensor)
    assert (classes == data.test_set.targets).float().mean().item() == pytest.approx(tested["test/acc"])


def test_model_accepts_ordinary_data_loaders(tmp_path: Path) -> None:
    model, inputs = make_model(), torch.randn(20, 2)
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, **QUIET)
    loader = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), 5)
    trainer.fit(model, loader, loader)
    assert 0 < trainer.callback_metrics["val/loss"] < 2
    predicted = trainer.predict(model, DataLoader(inputs, 5))
    assert predicted is not None
    assert torch.equal(torch.cat(predicted), (model(inputs)[:, 0] > 0).long())


class Columns(TensorDataModule):
    """Points whose targets are a column (N, 1) or a row of numbers (N,)."""

    in_shape = (2,)

    def __init__(self, task: str, as_column: bool) -> None:
        super().__init__(batch_size=8, val_size=16)
        self.task, self.as_column = task, as_column
        self.class_names = () if task == "regression" else ("left", "right")

    def load(self) -> tuple[Samples, Samples]:
        inputs = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
        targets = inputs[:, 0] if self.task == "regression" else (inputs[:, 0] > 0).long()
        samples = Samples(inputs, targets.unsqueeze(1) if self.as_column else targets)
        return samples.take(slice(0, 64)), samples.take(slice(64, 80))


@pytest.mark.parametrize("with_loaders", [False, True])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_columns_of_targets_are_targets(task: str, with_loaders: bool, tmp_path: Path) -> None:
    """Targets (N, 1) lead to the results of targets (N,), from a data set and from a loader."""
    results = []
    for as_column in (False, True):
        torch.manual_seed(0)
        sgd = {"_target_": "torch.optim.SGD", "lr": 0.1}
        classes = 0 if task == "regression" else 2
        data = Columns(task, as_column)
        model = MLP(8, "tanh", 0.0, False, in_shape=[2], num_classes=classes, task=task, optimizer=sgd)
        given: dict[str, Any] = {"datamodule": data}
        tested = dict(given)
        if with_loaders:
            train, val = [DataLoader(TensorDataset(*part), 8) for part in data.load()]
            given, tested = {"train_dataloaders": train, "val_dataloaders": val}, {"dataloaders": val}
        trainer = Trainer(max_epochs=2, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, **QUIET)
        trainer.fit(model, **given)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        results.append((metrics, trainer.test(model, verbose=False, **tested)))
    assert results[0] == results[1] and {"val/loss", "train/loss"} <= results[0][0].keys()


@pytest.mark.parametrize(
    "setting",
    [
        "+callbacks.summary._target_=lightning.pytorch.callbacks.RichModelSummary",
        "+callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary",
    ],
)
def test_lightning_summaries_use_example_inputs(setting: str, tmp_path: Path) -> None:
    """Lightning's model summaries accept a model's example inputs."""
    assert train_bare(setting, "trainer.max_epochs=1", cwd=tmp_path).metrics["epochs"] == 1


def test_tensorboard_gets_the_graph(tmp_path: Path) -> None:
    settings = ("+logger.tensorboard.log_graph=true", "callbacks=none", "trainer.max_epochs=1", "logger=tensorboard")
    folder = train(*settings, cwd=tmp_path).folder
    assert any(b"graph" in path.read_bytes() or b"aten" in path.read_bytes() for path in folder.glob("events.*"))
