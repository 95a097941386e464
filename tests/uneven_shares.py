"""Small trainings in which processes get uneven shares; ``python -m tests.uneven_shares FOLDER`` does all with two."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

from src.data.base import EVAL_BATCH_SIZE
from src.data.loading.samples import Samples
from src.models.base import SupervisedModule
from src.models.cnn import CNN
from src.models.mlp import MLP
from src.models.supervision.metrics import choose_metrics
from tests.doubles import SGD, InMemoryDataModule, make_samples, quiet_trainer

CLASSES = {"multiclass": ("a", "b", "c"), "binary": ("a", "b"), "regression": ()}
METRICS = {"multiclass": ("f1", "auroc", "top2"), "binary": ("f1", "auroc"), "regression": ("rmse", "mape")}
ADAM = {"_target_": "torch.optim.Adam", "lr": 0.01}
EVAL_BATCH_PLUS_ONE = EVAL_BATCH_SIZE + 1  # samples: one is left for a last batch of its own


class Case(NamedTuple):
    """A training: so many samples of a task to train, validate and test on, and settings of its parts."""

    samples: tuple[int, int, int] = (97, EVAL_BATCH_PLUS_ONE, 3)
    task: Any = "multiclass"
    images: bool = False
    model: Mapping[str, Any] = MappingProxyType({})
    data: Mapping[str, Any] = MappingProxyType({})
    trainer: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "97 samples": Case(),
    "two classes": Case(task="binary"),
    "regression": Case(task="regression"),
    "the sum of the losses": Case(model={"reduction": "sum", "optimizer": {**SGD, "lr": 0.01}}),
    "penalties and label smoothing": Case(model={"l1": 0.01, "l2": 0.1, "label_smoothing": 0.2}),
    "a sum with penalties": Case(model={"reduction": "sum", "l2": 0.1, "optimizer": {**SGD, "lr": 0.01}}),
    "class weights": Case((53, 5, 3), model={"class_weights": [0.5, 1.0, 4.0], "label_smoothing": 0.1}),
    "a sum with class weights": Case(
        (53, 5, 3),
        task="binary",
        model={"class_weights": "balanced", "reduction": "sum", "optimizer": {**SGD, "lr": 0.01}},
    ),
    "Adam": Case(model={"optimizer": ADAM}),
    "a last batch of one": Case(data={"batch_size": 32}, model={"l2": 0.1}),
    "less than a batch": Case((7, 1, 1)),
    "a single sample": Case((1, 2, 1), model={"l2": 0.1}),
    "the last batch dropped": Case(data={"drop_last": True}),
    "batches accumulated": Case(data={"batch_size": 6}, trainer={"accumulate_grad_batches": 4}),
    "gradients clipped": Case(trainer={"gradient_clip_val": 0.05}),
    "some batches": Case(trainer={"max_steps": 13}),
    "images": Case((9, 3, EVAL_BATCH_PLUS_ONE), images=True, data={"batch_size": 8}),
}


class LossRecorder(Callback):
    """Keeps the loss that each step shows."""

    def __init__(self) -> None:
        self.shown: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.shown.append(pl_module.last_logged_loss)


def make_case_model(case: Case) -> SupervisedModule:
    shape = [1, 6, 6] if case.images else [2]
    about = {"in_shape": shape, "num_classes": len(CLASSES[case.task]), "task": case.task, "optimizer": SGD}
    if case.images:
        return CNN([2], [], "tanh", 0.0, False, flip_test=True, **about, **case.model)
    return MLP([5], "tanh", 0.0, False, **{**about, **case.model})


def make_case_samples(case: Case, count: int) -> Samples:
    if case.images:
        return Samples(torch.randn(count, 1, 6, 6), torch.randint(3, (count,)))
    return make_samples(count, len(CLASSES[case.task]))


def train_case(case: Case, **processes: Any) -> dict[str, Any]:
    """Train in float64 for two epochs and test; return weights, metrics and the loss of each step."""
    torch.manual_seed(0)
    model, losses = make_case_model(case), LossRecorder()
    model.metrics = choose_metrics(METRICS[case.task], model.task, model.num_classes)
    train, val, test = [make_case_samples(case, count) for count in case.samples]
    shuffled = {"shuffle": True, "order_seed": 5, **case.data}
    data = InMemoryDataModule(train, val, test, task=case.task, class_names=CLASSES[case.task], **shuffled)
    settings = {"max_epochs": 2, "precision": "64-true", "log_every_n_steps": 1, **case.trainer, **processes}
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(Path(folder), callbacks=[losses], **settings)
        trainer.fit(model, datamodule=data)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        trainer.test(model, datamodule=data, verbose=False)
    metrics |= {name: value.item() for name, value in trainer.callback_metrics.items()}
    return {"weights": model.state_dict(), "metrics": metrics, "losses": losses.shown}


def run_rank(rank: int, folder: Path) -> None:
    """Do all cases as one of two processes, of which the first writes ``results.pt``."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    os.environ["LOCAL_RANK"] = str(rank)  # by which Lightning knows that the other one is there
    results = {name: train_case(case, strategy="ddp", devices=2) for name, case in CASES.items()}
    if rank == 0:
        torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    second = multiprocessing.get_context("fork").Process(target=run_rank, args=(1, Path(sys.argv[1])), daemon=True)
    second.start()
    run_rank(0, Path(sys.argv[1]))
    second.join()
    sys.exit(second.exitcode)
