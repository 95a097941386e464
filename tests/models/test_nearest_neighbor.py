import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from src.core.errors import InputError
from src.data.cifar10 import CIFAR10
from src.data.loading.samples import Samples
from src.models import nearest_neighbor
from src.models.mlp import MLP
from src.models.nearest_neighbor import DISTANCES, NearestNeighbor, compute_l1, compute_l2, to_float32, to_uint8
from src.storage.weights import load_weights
from tests.command_line import (
    evaluate,
    get_image_settings,
    get_small_image_settings,
    read_history,
    read_weights,
    run,
    train,
    train_bare,
)
from tests.doubles import InMemoryDataModule, is_plain, make_samples, quiet_trainer, reload_model

CLASSES = {"multiclass": 4, "binary": 2, "regression": 0}
NORM_ORDERS = {"l1": 1, "l2": 2}


def knn(task: str = "multiclass", features: int = 5, **settings: Any) -> NearestNeighbor:
    return NearestNeighbor([features], CLASSES[task], task, **settings)


def make_fitted_model(samples: Samples, task: str = "multiclass", **settings: Any) -> NearestNeighbor:
    """A model that has seen the samples in batches of 7."""
    model = knn(task, samples.inputs.shape[1], **settings)
    for start in range(0, samples.size, 7):
        model.training_step(samples.take(slice(start, start + 7)), 0)
    return model


def predict_from_definition(memory: Samples, x: Tensor, distance: str, k: int, task: str) -> list[float]:
    """One prediction after the other, in float64, from the definition."""
    inputs, targets, found = memory.inputs.double().numpy(), memory.targets.tolist(), []
    for row in x.double().numpy():
        away = np.linalg.norm(inputs - row, NORM_ORDERS[distance], axis=1)
        nearest = [targets[i] for i in np.argsort(away)[:k]]
        if task == "regression":
            found.append(sum(nearest) / k)
        else:
            most = max(nearest.count(label) for label in nearest)
            found.append(next(label for label in nearest if nearest.count(label) == most))
    return found


# Neighbours, against the definition


@pytest.mark.parametrize("block", [1, 7, 50, 64, 1000])
@pytest.mark.parametrize("k", [1, 3, 4, 10])
@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_predictions_match_definition(
    task: str, distance: str, k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest_neighbor, "BLOCK_SIZE", block)
    memory, x = make_samples(64, CLASSES[task], 5), torch.randn(40, 5)
    model = make_fitted_model(memory, task, distance=distance, k=k)
    expected = predict_from_definition(memory, x, distance, k, task)
    assert model.predict(model(x)).tolist() == pytest.approx(expected, abs=1e-6)
    assert model(x).shape == (40, model.out_features)


def test_l1_and_l2_choose_differently() -> None:
    """From the origin (3, 0) is nearer by the sum of differences, (2, 2) by the straight line."""
    memory = Samples(torch.tensor([[3.0, 0.0], [2.0, 2.0]]), torch.tensor([0, 1]))
    for distance, label in (("l1", 0), ("l2", 1)):
        model = make_fitted_model(memory, distance=distance)
        assert model.predict(model(torch.zeros(1, 2))).tolist() == [label]


@pytest.mark.parametrize("task", ["multiclass", "binary"])
@pytest.mark.parametrize(
    ("labels", "k", "winner"),
    [
        ([1, 0, 0, 1], 1, 1),
        ([1, 0, 0, 1], 2, 1),  # one vote each: the nearest decides
        ([0, 1, 1, 0], 2, 0),
        ([1, 0, 0, 1], 3, 0),
        ([1, 0, 0, 1], 4, 1),  # two votes each
        ([0, 1, 1, 0], 4, 0),
    ],
)
def test_nearest_neighbour_breaks_ties(
    labels: list[int], k: int, winner: int, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among classes with equally many votes, the one with the nearest neighbour wins."""
    monkeypatch.setattr(nearest_neighbor, "BLOCK_SIZE", 3)
    memory = Samples(torch.arange(1.0, 5)[:, None], torch.tensor(labels))
    model = make_fitted_model(memory, task, k=k)
    assert model.predict(model(torch.zeros(1, 1))).tolist() == [winner]


def test_more_votes_beat_nearer_neighbour() -> None:
    """Of the votes 3, 0, 0, 1, 1, 2 classes 0 and 1 have two each, and 0 has the nearer of them."""
    memory = Samples(torch.arange(1.0, 7)[:, None], torch.tensor([3, 0, 0, 1, 1, 2]))
    model = make_fitted_model(memory, k=6)
    assert model.predict(model(torch.zeros(1, 1))).tolist() == [0]


@pytest.mark.parametrize("features", [1, 30, 3072, 600_000])
def test_l1_matches_definition(features: int) -> None:
    """L1 distances are sums of absolute differences, whatever the size of the tiles."""
    x, memory = torch.rand(33, features)[:3], torch.rand(5, features)
    expected = (x[:, None].double() - memory.double()).abs().sum(dim=-1)
    torch.testing.assert_close(compute_l1(x, memory).double(), expected, rtol=1e-5, atol=0.0)


def test_l1_fills_every_tile() -> None:
    x, memory = torch.rand(31, 3072), torch.rand(45, 3072)  # tiles of 13 × 13
    torch.testing.assert_close(compute_l1(x, memory), torch.cdist(x, memory, p=1.0), rtol=1e-5, atol=0.0)


def test_l2_is_precise_far_from_origin() -> None:
    memory = 1000 + torch.rand(50, 100)
    x = memory[:20] + 0.01 * torch.randn(20, 100)
    expected = (x[:, None].double() - memory.double()).norm(dim=-1)
    torch.testing.assert_close(compute_l2(x, memory).double(), expected, rtol=1e-4, atol=0.0)


def test_distances_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one block of inputs is compared with one block of stored samples at a time."""
    shapes: list[tuple[int, int]] = []

    def noted(x: Tensor, memory: Tensor) -> Tensor:
        shapes.append((len(x), len(memory)))
        return compute_l1(x, memory)

    monkeypatch.setitem(DISTANCES, "l1", noted)
    monkeypatch.setattr(nearest_neighbor, "BLOCK_SIZE", 20)
    make_fitted_model(make_samples(64, 4))(torch.randn(45, 2))
    assert shapes == [(rows, columns) for rows in (20, 20, 5) for columns in (20, 20, 20, 4)]


# Outputs


@pytest.mark.parametrize("k", [1, 3, 10])
def test_outputs_are_log_vote_fractions(k: int) -> None:
    """Outputs are the logarithms of the vote fractions, smoothed by the rule of succession."""
    memory, x = make_samples(30, 4, 5), torch.randn(20, 5)
    order = (x[:, None] - memory.inputs).abs().sum(dim=-1).argsort(dim=1)[:, :k]
    votes = torch.stack([(memory.targets[order] == label).sum(dim=1) for label in range(4)], dim=1)
    outputs = make_fitted_model(memory, k=k)(x)
    torch.testing.assert_close(outputs.exp(), (votes + 1) / (k + 4), rtol=2e-4, atol=0.0)
    torch.testing.assert_close(outputs.softmax(dim=1), (votes + 1) / (k + 4), rtol=2e-4, atol=0.0)


def test_binary_output_is_logit() -> None:
    """The output for two classes is the logit of the second class."""
    memory = Samples(torch.arange(1.0, 4)[:, None], torch.tensor([1, 0, 1]))
    output = make_fitted_model(memory, "binary", k=3)(torch.zeros(1, 1))
    assert output.item() == pytest.approx(math.log(3 / 2), abs=2e-4)  # (2 + 1) / (3 + 2) against (1 + 1) / (3 + 2)


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_outputs_without_memory_are_zero(task: str) -> None:
    model = knn(task)
    assert torch.equal(model(torch.randn(3, 5)), torch.zeros(3, model.out_features))


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_empty_batch_gives_empty_outputs(task: str) -> None:
    model = make_fitted_model(make_samples(9, CLASSES[task], 5), task, k=2)
    assert model(torch.zeros(0, 5)).shape == (0, model.out_features)


def test_too_many_neighbours_are_refused() -> None:
    """A `k` larger than the number of training samples is refused."""
    with pytest.raises(InputError, match=r"^model\.k=10: only 9 training samples are stored$"):
        make_fitted_model(make_samples(9, 4, 5), k=10)(torch.zeros(1, 5))


# Remembering


def test_pixels_are_stored_as_bytes() -> None:
    """Multiples of 1/255 are stored as bytes without loss."""
    values = torch.arange(256, dtype=torch.uint8)[None]
    inputs = values / torch.tensor(255.0)
    assert to_uint8(inputs).dtype == torch.uint8
    assert torch.equal(to_uint8(inputs), values) and torch.equal(to_float32(to_uint8(inputs)), inputs)


@pytest.mark.parametrize("value", [0.5, -1 / 255, 256 / 255, 0.33, float("nan"), float("inf")])
def test_other_inputs_stay_floats(value: float) -> None:
    """Inputs that are not multiples of 1/255 between 0 and 1 are stored unchanged."""
    inputs = torch.tensor([[0.0, 1.0, value]])
    assert to_uint8(inputs) is inputs and to_float32(inputs) is inputs


@pytest.mark.parametrize("other_first", [False, True])
def test_one_float_batch_makes_memory_float(other_first: bool) -> None:
    """One batch that does not hold pixels turns the whole memory into floats."""
    pixels, other = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.3]])
    model = knn(features=2)
    for inputs in (other, pixels) if other_first else (pixels, other):
        model.training_step((inputs, torch.tensor([1])), 0)
    state = model.get_extra_state()
    assert sorted(state["inputs"].tolist()) == sorted([pixels[0].tolist(), other[0].tolist()])


@pytest.mark.parametrize("epochs", [1, 3])
def test_each_sample_is_stored_once(epochs: int, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Each training sample is stored once, however many epochs there are."""
    given = InMemoryDataModule(make_samples(45, 3), make_samples(20, 3), class_names=("a", "b", "c"), shuffle=True)
    assert given.train_set is not None
    model = NearestNeighbor([2], 3, "multiclass")
    trainer = quiet_trainer(tmp_path, max_epochs=epochs, gradient_clip_val=1.0, accumulate_grad_batches=2)
    trainer.fit(model, datamodule=given)
    state = model.get_extra_state()
    pairs = zip(state["inputs"].tolist(), state["targets"].tolist(), strict=True)
    assert sorted(pairs) == sorted(zip(given.train_set.inputs.tolist(), given.train_set.targets.tolist(), strict=True))
    assert trainer.global_step == 0
    assert not [str(told.message) for told in recwarn if "optimi" in str(told.message)]  # Lightning misses none


class MemorySizes(Callback):
    """Notes after each validation how many samples are remembered."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(len(pl_module.targets))


def test_mid_epoch_validation_uses_current_memory(tmp_path: Path) -> None:
    """A validation within the first epoch uses the samples that are stored so far."""
    given = InMemoryDataModule(make_samples(40, 3), make_samples(20, 3), class_names=("a", "b", "c"))
    assert given.train_set is not None and given.val_set is not None
    model = NearestNeighbor([2], 3, "multiclass")
    sizes = MemorySizes()
    trainer = quiet_trainer(tmp_path, val_check_interval=0.5, callbacks=[sizes])
    trainer.fit(model, datamodule=given)
    assert sizes.seen == [20, 40]
    expected = predict_from_definition(given.train_set, given.val_set.inputs, "l1", 1, "multiclass")
    correct = np.mean(np.array(expected) == given.val_set.targets.numpy())
    assert trainer.callback_metrics["val/acc"].item() == pytest.approx(correct)


def test_training_in_several_processes_is_refused() -> None:
    model, stub = knn(), SimpleNamespace(world_size=2)
    model.trainer = stub  # type: ignore[assignment]
    with pytest.raises(InputError, match="trains in one process only: use trainer=auto"):
        model.setup("fit")
    model.setup("test")  # each process may well predict its share


# Checkpoints


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_checkpoint_restores_memory(dtype: torch.dtype, tmp_path: Path) -> None:
    pixels = torch.randint(256, (30, 5)).float()
    inputs = pixels / 255 if dtype == torch.uint8 else pixels / 100 - 1
    memory, x = Samples(inputs, torch.randint(4, (30,))), torch.rand(10, 5)
    model = make_fitted_model(memory, k=3)
    again = reload_model(model, tmp_path)
    assert again.inputs.dtype == dtype
    assert torch.equal(to_float32(again.inputs), inputs) and torch.equal(again.targets, memory.targets)
    assert torch.equal(again(x), model(x))


def test_loading_replaces_memory(tmp_path: Path) -> None:
    """Loading a checkpoint replaces the samples that the model has stored."""
    first, other = make_fitted_model(make_samples(30, 4, 5)), make_fitted_model(make_samples(12, 4, 5))
    torch.save({"state_dict": first.state_dict()}, tmp_path / "a.ckpt")
    other.training_step(make_samples(3, 4, 5), 0)
    load_weights(other, tmp_path / "a.ckpt")
    assert torch.equal(other.get_extra_state()["inputs"], first.get_extra_state()["inputs"])
    assert torch.equal(other.get_extra_state()["targets"], first.get_extra_state()["targets"])


def test_memory_of_other_size_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": make_fitted_model(make_samples(30, 4, 6)).state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"has samples of 6 values, these data have 5$"):
        load_weights(knn(), tmp_path / "a.ckpt")


def test_checkpoint_of_other_model_is_refused(tmp_path: Path) -> None:
    settings: Any = {"in_shape": [5], "num_classes": 4, "task": "multiclass"}
    mlp = MLP(hidden_size=[], activation="relu", dropout=0.0, batch_norm=False, **settings)
    torch.save({"state_dict": mlp.state_dict()}, tmp_path / "mlp.ckpt")
    torch.save({"state_dict": knn().state_dict()}, tmp_path / "knn.ckpt")
    with pytest.raises(InputError, match=r"_extra_state \(the checkpoint lacks it\)"):
        load_weights(knn(), tmp_path / "mlp.ckpt")
    with pytest.raises(InputError, match=r"\(the checkpoint lacks it\)"):
        load_weights(mlp, tmp_path / "knn.ckpt")


def test_hyperparameters_are_plain_settings() -> None:
    """The hyperparameters hold all settings as plain values."""
    settings = dict(knn(distance="l2", k=3).hparams)
    assert is_plain(settings)
    assert {name: settings[name] for name in ("distance", "k")} == {"distance": "l2", "k": 3}


# Through the command line

NEAREST = "model=nearest_neighbor"
UNCHANGED = ("data.flip=false", "data.crop=0")  # the images as they are


def test_run_stores_bytes_and_matches_definition(data_dir: Path, tmp_path: Path) -> None:
    """A run stores images as bytes, and its test accuracy is the one that follows from the definition."""
    settings = (*get_small_image_settings("cifar10", data_dir), *UNCHANGED, "data.standardize=false", "model.k=3")
    outcome = train_bare(NEAREST, *settings, cwd=tmp_path)
    data = CIFAR10(str(data_dir), verify=False, batch_size=16, val_size=40, standardize=False)
    data.setup()
    assert data.train_set is not None and data.test_set is not None
    memory, x = Samples(data.train_set.inputs.flatten(1), data.train_set.targets), data.test_set.inputs.flatten(1)
    correct = np.array(predict_from_definition(memory, x, "l1", 3, "multiclass")) == data.test_set.targets.numpy()
    assert outcome.metrics["test/acc"] == pytest.approx(correct.mean())
    for name in ("best", "last"):
        state: Any = read_weights(outcome.folder, name)
        assert list(state) == ["_extra_state"]
        kept = state["_extra_state"]["inputs"]
        assert kept.dtype == torch.uint8
        assert sorted(kept.tolist()) == sorted(memory.inputs.tolist())


def test_evaluation_reproduces_run_results(data_dir: Path, tmp_path: Path) -> None:
    outcome = train_bare(NEAREST, *get_small_image_settings("mnist", data_dir), "model.distance=l2", cwd=tmp_path)
    for split in ("val", "test"):
        evaluate(f"run={outcome.folder}", f"split={split}", cwd=tmp_path)
        told = (outcome.folder / f"eval_{split}.json").read_text()
        for measure in ("loss", "acc"):
            assert f'"{split}/{measure}": {outcome.metrics[f"{split}/{measure}"]}' in told


def test_run_takes_one_epoch(tmp_path: Path) -> None:
    """A run takes one epoch, has no training metrics and draws its decision regions."""
    outcome = train(NEAREST, "data=xor", cwd=tmp_path)
    assert read_history(outcome.folder) == [
        {"epoch": 1, "val/acc": 1.0, "val/loss": pytest.approx(math.log(1.5), abs=1e-4)}
    ]
    assert outcome.metrics["test/acc"] == 1.0 and outcome.metrics["parameters"] == 0
    assert (outcome.folder / "figures" / "decision_regions.png").is_file()


def test_run_without_validation_keeps_last_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    outcome = train_bare(NEAREST, "data=mnist", *get_image_settings(data_dir), "data.val_size=0", cwd=tmp_path)
    assert [path.name for path in (outcome.folder / "checkpoints").iterdir()] == ["last.ckpt"]
    state: Any = read_weights(outcome.folder)["_extra_state"]
    assert state["inputs"].shape == (200, 784)


def test_resumed_run_keeps_memory(tmp_path: Path) -> None:
    """A finished run can be resumed with more epochs and stores no sample twice."""
    outcome = train_bare(NEAREST, "data=xor", cwd=tmp_path)
    before: Any = read_weights(outcome.folder)["_extra_state"]
    train(f"resume={outcome.folder}", "trainer.max_epochs=2", cwd=tmp_path)
    after: Any = read_weights(outcome.folder)["_extra_state"]
    assert len(read_history(outcome.folder)) == 2
    assert sorted(after["inputs"].tolist()) == sorted(before["inputs"].tolist())


def test_run_refuses_too_many_neighbours(tmp_path: Path) -> None:
    """A run with too many neighbours ends in an error of one line."""
    outcome = run("src.train", NEAREST, "data=xor", "callbacks=none", "logger=none", "model.k=101", cwd=tmp_path)
    assert outcome.error == "error: model.k=101: only 100 training samples are stored"


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision_does_not_change_neighbours(precision: str, tmp_path: Path) -> None:
    plain = train_bare(NEAREST, "data=xor", "data.noise=0.5", cwd=tmp_path)
    other = train_bare(NEAREST, "data=xor", "data.noise=0.5", f"trainer.precision={precision}", cwd=tmp_path)
    assert 0.5 < plain.metrics["test/acc"] < 1.0
    assert other.metrics["test/acc"] == plain.metrics["test/acc"]


def test_settings_without_effect_are_noted(tmp_path: Path) -> None:
    """Settings for learned weights are noted as without effect; weight averaging is refused."""
    settings = ("model=nearest_neighbor", "trainer.max_epochs=1")
    out = train_bare(*settings, "optimizer.lr=0.5", "scheduler=cosine", cwd=tmp_path).out
    told = (
        "note: NearestNeighbor has no weights to learn, so these settings have no effect: "
        "optimizer.lr=0.5 scheduler=cosine"
    )
    assert told in out
    assert "no effect" not in train_bare(*settings, "seed=1", cwd=tmp_path).out
    average = "+callbacks.average._target_=lightning.pytorch.callbacks.WeightAveraging"
    error = run("src.train", *settings, average, cwd=tmp_path).error
    assert "averages weights, and NearestNeighbor has no trainable weights" in error
