"""Steps that are recorded and repeated; the CPU stands for a GPU, and what repeats a step takes it again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from src.models import graphs
from tests.command_line import load_checkpoint, train_bare

Result = tuple[dict[str, Any], dict[str, Any], str]
SETTINGS = ("data.batch_size=4", "data.train_size=98", "trainer.max_epochs=3", "model.dropout=0.2")
SHAPES = {"adam": (), "sgd with batch norm": ("optimizer=sgd", "model.batch_norm=true"), "adamw": ("optimizer=adamw",)}


class NewMomentum(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.optimizers[0].param_groups[0]["momentum"] = 0.5


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Record on the CPU; returns the steps that are recorded."""
    found: list[Callable[[], None]] = []

    def record(function: Callable[[], None]) -> Callable[[], None]:
        found.append(function)
        return function

    monkeypatch.setattr(graphs, "GRAPH_DEVICES", ("cpu",))
    monkeypatch.setattr(graphs, "_record_graph", record)
    return found


def run(tmp_path: Path, *settings: str) -> Result:
    """Return what a run came to: its metrics, its weights, its log."""
    outcome = train_bare(*SETTINGS, *settings, cwd=tmp_path)
    metrics = {name: value for name, value in outcome.metrics.items() if "/" in name}
    weights = load_checkpoint(outcome.folder / "checkpoints" / "last.ckpt")["state_dict"]
    return metrics, weights, (outcome.folder / "train.log").read_text()


def assert_same(left: Result, right: Result) -> None:
    assert left[0] == right[0]
    assert left[1].keys() == right[1].keys()
    assert all(torch.equal(left[1][name], right[1][name]) for name in left[1])


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES.keys())
def test_recorded_step_gives_same_result(settings: tuple[str, ...], recorded: list[Any], tmp_path: Path) -> None:
    """Recorded steps lead to the same run, also if the last batch is smaller."""
    repeated = run(tmp_path, *settings)
    assert len(recorded) == 1
    assert_same(repeated, run(tmp_path, *settings, "cuda_graph=false"))
    assert len(recorded) == 1


@pytest.mark.parametrize("schedule", ["exponential", "one_cycle"])
def test_learning_rates_need_no_new_record(schedule: str, recorded: list[Any], tmp_path: Path) -> None:
    """A recorded step follows a schedule of its learning rates, by epoch or by step."""
    settings = (f"scheduler={schedule}", *(["scheduler.cycle_momentum=false"] if schedule == "one_cycle" else []))
    repeated = run(tmp_path, *settings)
    assert len(recorded) == 1
    assert_same(repeated, run(tmp_path, *settings, "cuda_graph=false"))


def test_new_momentum_records_step_again(recorded: list[Any], tmp_path: Path) -> None:
    """A setting that is a constant of the recorded step makes a new record once it stays."""
    momentum = "+callbacks.momentum._target_=tests.models.test_graphs.NewMomentum"
    repeated = run(tmp_path, "optimizer=sgd", momentum)
    assert len(recorded) == 2
    assert_same(repeated, run(tmp_path, "optimizer=sgd", momentum, "cuda_graph=false"))


def test_unrecordable_step_warns_once(recorded: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step that cannot be recorded is taken without a graph, and the log says so once."""

    def refuse(function: Callable[[], None]) -> Callable[[], None]:
        recorded.append(function)
        function()  # a recording leaves what it has noted
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    still = ("optimizer=sgd", "optimizer.lr=1e-30", "model.dropout=0")  # so that the step taken in vain changes nothing
    plain = run(tmp_path, "cuda_graph=false", *still)
    monkeypatch.setattr(graphs, "_record_graph", refuse)
    repeated = run(tmp_path, *still)
    assert_same(repeated, plain)
    assert repeated[2].count("cannot be recorded as a CUDA graph (operation not permitted") == len(recorded) == 1


@pytest.mark.parametrize("settings", ["optimizer=rmsprop", "+optimizer.foreach=true optimizer.fused=false"])
def test_synchronizing_optimizers_are_not_recorded(settings: str, recorded: list[Any], tmp_path: Path) -> None:
    """Optimizers that read values from the device during a step are not recorded."""
    run(tmp_path, *settings.split(), "model.dropout=0")
    assert not recorded
