"""What holds for every run: the same seed gives the same result, and the test set is touched once."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from src.data.mnist import MNIST
from tests.command_line import (
    BatchRecorder,
    Outcome,
    drop_seconds,
    get_small_image_settings,
    is_identical,
    read_history,
    read_weights,
    train,
    train_bare,
)

STEPS = 10  # of an epoch on XOR: 100 points in batches of 10

# Randomness

NOISY = ("trainer.max_epochs=3", "model.dropout=0.3", "model.hidden_size=[8,8]", "optimizer=sgd")


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The same run four times: with the default seed, twice with seed 0, and with seed 1."""
    seeds = {"default": (), "zero": ("seed=0",), "zero again": ("seed=0",), "one": ("seed=1",)}
    cwd = tmp_path_factory.mktemp("seeds")
    return {name: train_bare(*NOISY, *setting, cwd=cwd) for name, setting in seeds.items()}


@pytest.mark.parametrize("other", ["default", "zero again"])
def test_same_seed_gives_identical_run(other: str, of_seeds: dict[str, Outcome]) -> None:
    """The same seed gives the same run bit for bit."""
    first, second = of_seeds["zero"], of_seeds[other]
    assert drop_seconds(first.metrics) == drop_seconds(second.metrics)
    for name in ("best", "last"):
        assert is_identical(read_weights(first.folder, name), read_weights(second.folder, name))
    assert read_history(first.folder) == read_history(second.folder)


def test_another_seed_gives_another_run(of_seeds: dict[str, Outcome]) -> None:
    zero, one = of_seeds["zero"], of_seeds["one"]
    assert not is_identical(read_weights(zero.folder), read_weights(one.folder))
    assert zero.metrics["train/loss"] != one.metrics["train/loss"]


def test_null_seed_differs_each_time(tmp_path: Path) -> None:
    """With seed=null each run draws a new seed."""
    first, second = [train_bare(*NOISY, "seed=null", cwd=tmp_path) for _ in range(2)]
    assert not is_identical(read_weights(first.folder), read_weights(second.folder))
    assert "seed: null" not in (first.folder / ".hydra" / "config.yaml").read_text()


def test_drawn_seed_is_kept(tmp_path: Path) -> None:
    """A run without a seed saves the one it drew, with which it can be repeated and resumed."""
    drawn = train_bare(*NOISY, "seed=null", cwd=tmp_path)
    seed = OmegaConf.load(drawn.folder / ".hydra" / "config.yaml").seed
    again = train_bare(*NOISY, f"seed={seed}", cwd=tmp_path)
    assert drop_seconds(drawn.metrics) == drop_seconds(again.metrics)
    longer = train_bare(*NOISY, f"seed={seed}", "trainer.max_epochs=5", cwd=tmp_path)
    train(f"resume={drawn.folder}", "trainer.max_epochs=5", cwd=tmp_path)
    assert read_history(drawn.folder) == read_history(longer.folder)


def test_validation_split_ignores_the_seed(data_dir: Path, tmp_path: Path) -> None:
    splits = {}
    for settings in (("seed=1",), ("seed=2",), ("seed=1", "data.split_seed=5")):
        train_bare(
            BatchRecorder.SETTING,
            *get_small_image_settings("mnist", data_dir),
            "debug=one_batch",
            *settings,
            cwd=tmp_path,
        )
        splits[settings] = (BatchRecorder.last.data.val_set, BatchRecorder.last.trained[0])
    one, two, other = splits.values()
    assert is_identical(one[0], two[0])
    assert not is_identical(one[1], two[1])  # the batches' order does depend on the seed
    assert not is_identical(one[0], other[0])


# The test set


def test_test_set_is_used_once(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test set is used once, after training."""
    calls: list[tuple[str, int]] = []
    original = MNIST.test_dataloader

    def test_dataloader(self: MNIST) -> object:
        calls.append((self.trainer.state.fn.value, self.trainer.current_epoch))
        return original(self)

    monkeypatch.setattr(MNIST, "test_dataloader", test_dataloader)
    train_bare(
        BatchRecorder.SETTING, *get_small_image_settings("mnist", data_dir), "trainer.max_epochs=2", cwd=tmp_path
    )
    assert calls == [("test", 2)]
    assert is_identical(
        torch.cat([batch.targets for batch in BatchRecorder.last.tested]), BatchRecorder.last.data.test_set.targets
    )


def test_skipped_test_has_no_metrics(tmp_path: Path) -> None:
    outcome = train_bare("trainer.limit_test_batches=0", "trainer.max_epochs=1", cwd=tmp_path)
    assert not [name for name in outcome.metrics if name.startswith("test/")]


def test_epoch_sees_each_training_point_once(tmp_path: Path) -> None:
    """Each epoch sees each training point once and no test point."""
    train_bare(BatchRecorder.SETTING, "trainer.max_epochs=2", cwd=tmp_path)
    seen, data = BatchRecorder.last, BatchRecorder.last.data
    for epoch in range(2):
        batches = seen.trained[STEPS * epoch : STEPS * (epoch + 1)]
        points = sorted(point for batch in batches for point in batch.inputs.tolist())
        assert points == sorted(data.train_set.inputs.tolist())
    tested = [tuple(point) for batch in seen.tested for point in batch.inputs.tolist()]
    assert tested == [tuple(point) for point in data.test_set.inputs.tolist()]
    others = {tuple(point) for part in (data.train_set, data.val_set) for point in part.inputs.tolist()}
    assert len(others) == 200
    assert not others & set(tested)
