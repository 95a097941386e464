from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.base import EVAL_BATCH_SIZE, TensorDataModule
from src.data.loading.batches import Batches
from src.data.loading.samples import Samples
from src.data.loading.splits import resolve_count, split_stratified
from tests.doubles import BatchCollector, InMemoryDataModule, quiet_trainer


def make_numbered_samples(count: int) -> Samples:
    """Samples whose targets are their numbers."""
    return Samples(torch.arange(count).float().unsqueeze(1), torch.arange(count))


def get_numbers(batches: Batches) -> list[list[int]]:
    return [batch.targets.tolist() for batch in batches]


def join_lists(lists: list[list[int]]) -> list[int]:
    return [number for numbers in lists for number in numbers]


# Batches


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(12, False, [4, 4, 4]), (13, False, [4, 4, 4, 1]), (13, True, [4, 4, 4]), (3, False, [3]), (3, True, [])],
)
def test_batches_have_requested_size(count: int, drop_last: bool, sizes: list[int]) -> None:
    """The last one may be smaller, or left out."""
    batches = Batches(make_numbered_samples(count), 4, drop_last=drop_last)
    assert [len(batch) for batch in get_numbers(batches)] == sizes
    assert len(batches) == len(sizes)
    assert join_lists(get_numbers(batches)) == list(range(sum(sizes)))


def test_inputs_stay_with_their_targets() -> None:
    for batch in Batches(make_numbered_samples(10), 3, order=lambda: torch.randperm(10)):
        assert batch.inputs.flatten().tolist() == batch.targets.tolist()


def test_order_is_renewed_on_each_iteration() -> None:
    orders = iter([torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])])
    batches = Batches(make_numbered_samples(3), 2, order=lambda: next(orders))
    assert [get_numbers(batches), get_numbers(batches)] == [[[2, 0], [1]], [[1, 2], [0]]]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [12, 13, 17])
def test_evaluation_counts_each_sample_once(count: int, world: int) -> None:
    """In evaluation, each sample counts once over all processes together."""
    shares = [
        get_numbers(Batches(make_numbered_samples(count), 6, rank=rank, world_size=world)) for rank in range(world)
    ]
    whole = get_numbers(Batches(make_numbered_samples(count), 6))
    for step, batch in enumerate(whole):
        assert sorted(join_lists([share[step] for share in shares])) == batch
    assert all(len(share) == len(whole) for share in shares)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [12, 13, 17])
def test_training_counts_each_sample_once(count: int, world: int) -> None:
    """No process is without a batch: one without samples of its own gets a sample that does not count."""

    def order() -> Tensor:
        return torch.arange(count).flip(0)

    loaders = [
        Batches(make_numbered_samples(count), 6, order, train=True, rank=rank, world_size=world)
        for rank in range(world)
    ]
    shares = [get_numbers(loader) for loader in loaders]
    for step, batch in enumerate(get_numbers(Batches(make_numbered_samples(count), 6, order))):
        counts = [loader.count_samples(step) for loader in loaders]
        assert all(whole == len(batch) for _, whole in counts)
        assert sum(own for own, _ in counts) == len(batch)
        counted = [share[step][:own] for share, (own, _) in zip(shares, counts, strict=True)]
        assert sorted(join_lists(counted)) == sorted(batch)
        assert all(share[step] == batch[:1] for share, (own, _) in zip(shares, counts, strict=True) if not own)


# Sizes


@pytest.mark.parametrize(("size", "count"), [(0, 0), (7, 7), (0.25, 50), (1.0, 200), (1, 1), (0.0, 0), (200, 200)])
def test_size_is_count_or_fraction(size: int | float, count: int) -> None:
    assert resolve_count(size, 200, "data.val_size") == count


def test_too_many_samples_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.val_size=201: there are only 200 samples"):
        resolve_count(201, 200, "data.val_size")


# The split


def make_uneven_targets() -> Tensor:
    """1000 targets, of four classes with 520, 300, 150 and 30 samples, mixed."""
    targets = torch.repeat_interleave(torch.arange(4), torch.tensor([520, 300, 150, 30]))
    return targets[torch.randperm(1000)]


@pytest.mark.parametrize("count", [1, 10, 99, 500, 999])
def test_split_preserves_class_proportions(count: int) -> None:
    """Each part has its share of every class to within one sample."""
    targets = make_uneven_targets()
    for seed in range(20):
        drawn, _ = split_stratified(targets, count, torch.Generator().manual_seed(seed))
        counts = targets[drawn].bincount(minlength=4).numpy()
        assert np.abs(counts - np.array([520, 300, 150, 30]) * count / 1000).max() < 1


@pytest.mark.parametrize("count", [0, 1, 250, 1000])
def test_split_partitions_all_samples(count: int) -> None:
    drawn, left = split_stratified(make_uneven_targets(), count, torch.Generator().manual_seed(0))
    assert len(drawn) == count
    assert sorted(torch.cat([drawn, left]).tolist()) == list(range(1000))


def test_split_is_not_sorted_by_class() -> None:
    targets = make_uneven_targets()
    for part in split_stratified(targets, 500, torch.Generator().manual_seed(0)):
        assert (targets[part].diff() != 0).sum() > 100


class Numbers(TensorDataModule):
    """200 samples numbered from 0, of class number mod 4; 20 test samples."""

    task = "multiclass"
    in_shape = (1,)
    class_names = tuple("abcd")

    def load(self) -> tuple[Samples, Samples]:
        inputs = torch.arange(200.0).unsqueeze(1)
        return Samples(inputs, torch.arange(200) % 4), Samples(inputs[:20], torch.arange(20) % 4)


def split(
    val_size: int | float, train_size: int | float | None = None, split_seed: int = 0, seed: int = 0
) -> tuple[list[int], list[int]]:
    """The numbers of the training samples and of the validation samples."""
    data = Numbers(batch_size=10, val_size=val_size, train_size=train_size, split_seed=split_seed, order_seed=seed)
    data.setup()
    assert data.train_set and data.val_set
    return data.train_set.inputs.flatten().int().tolist(), data.val_set.inputs.flatten().int().tolist()


def test_training_and_validation_do_not_overlap() -> None:
    """Together they are all samples."""
    train, val = split(40)
    assert (len(train), len(val)) == (160, 40)
    assert sorted(train + val) == list(range(200))


@pytest.mark.parametrize(("val_size", "train_size", "sizes"), [(0.25, None, (150, 50)), (0.25, 0.5, (75, 50))])
def test_fractions_refer_to_available_samples(
    val_size: float, train_size: float | None, sizes: tuple[int, int]
) -> None:
    """val_size is a fraction of all samples, train_size one of those that remain."""
    train, val = split(val_size, train_size)
    assert (len(train), len(val)) == sizes


def test_training_subset_is_stratified() -> None:
    train, val = split(40, 20)
    assert np.bincount(np.array(train) % 4).tolist() == [5, 5, 5, 5]
    assert not set(train) & set(val)


def test_validation_samples_depend_on_split_only() -> None:
    """They depend neither on the seed nor on the size of the training set."""
    assert split(40, seed=0)[1] == split(40, seed=1)[1] == split(40, train_size=8)[1]


def test_split_seed_changes_validation_samples() -> None:
    assert set(split(40)[1]) != set(split(40, split_seed=1)[1])


def test_without_validation_all_samples_train() -> None:
    data = Numbers(batch_size=10, val_size=0)
    data.setup()
    assert data.train_set is not None
    assert data.train_set.size == 200
    assert data.val_dataloader() == []


@pytest.mark.parametrize(
    ("val_size", "train_size", "message"),
    [
        (201, None, r"data\.val_size=201: there are only 200"),
        (40, 161, r"data\.train_size=161: there are only 160"),
        (200, None, r"data\.val_size=200 leaves none of 200"),
        (1.0, None, r"data\.val_size=1\.0 leaves none of 200"),
    ],
)
def test_split_without_training_samples_is_refused(val_size: int | float, train_size: int | None, message: str) -> None:
    """A split that takes more samples than there are is refused, too."""
    with pytest.raises(InputError, match=message):
        split(val_size, train_size)


def test_regression_split_ignores_classes() -> None:
    data = Numbers(batch_size=10, val_size=50)
    data.task = "regression"
    train, val = data.split(Samples(torch.zeros(200, 1), torch.rand(200)))
    assert (train.size, val.size) == (150, 50)


# What Lightning gets


def record_order(data: TensorDataModule, folder: Path, epochs: int = 2, **settings: object) -> list[list[list[int]]]:
    """The numbers of the training samples, by epoch and batch."""
    recorder = BatchCollector()
    quiet_trainer(folder, max_epochs=epochs, **settings).fit(recorder, datamodule=data)
    return recorder.order


def test_each_epoch_shuffles_all_samples(tmp_path: Path) -> None:
    """Every epoch has an order of its own, with each sample once."""
    first, second = record_order(InMemoryDataModule(make_numbered_samples(20), shuffle=True, order_seed=0), tmp_path)
    assert sorted(join_lists(first)) == sorted(join_lists(second)) == list(range(20))
    assert first != second


def test_order_depends_only_on_seed(tmp_path: Path) -> None:
    orders: list[list[list[list[int]]]] = []
    for seed in (0, 0, 1):
        torch.rand(seed + len(orders))  # the global random numbers have no say
        orders.append(
            record_order(InMemoryDataModule(make_numbered_samples(20), shuffle=True, order_seed=seed), tmp_path)
        )
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_without_shuffling_order_is_unchanged(tmp_path: Path) -> None:
    assert (
        record_order(InMemoryDataModule(make_numbered_samples(15)), tmp_path)
        == [[list(range(10)), list(range(10, 15))]] * 2
    )


def test_incomplete_batch_can_be_dropped(tmp_path: Path) -> None:
    assert (
        record_order(InMemoryDataModule(make_numbered_samples(15), drop_last=True), tmp_path) == [[list(range(10))]] * 2
    )


def test_overfitting_repeats_the_same_batches(tmp_path: Path) -> None:
    epochs = record_order(
        InMemoryDataModule(make_numbered_samples(30), shuffle=True, order_seed=0), tmp_path, overfit_batches=2
    )
    assert epochs == [[list(range(10)), list(range(10, 20))]] * 2


def test_evaluation_uses_larger_batches() -> None:
    data = InMemoryDataModule(make_numbered_samples(1), test=make_numbered_samples(EVAL_BATCH_SIZE + 1), batch_size=10)
    assert [len(batch) for batch in get_numbers(data.test_dataloader())] == [EVAL_BATCH_SIZE, 1]
    data.batch_size = EVAL_BATCH_SIZE + 1
    assert [len(batch) for batch in get_numbers(data.test_dataloader())] == [EVAL_BATCH_SIZE + 1]


@pytest.mark.parametrize(("task", "monitor"), [("regression", ("val/loss", "min")), ("binary", ("val/acc", "max"))])
def test_task_determines_monitor(task: str, monitor: tuple[str, str]) -> None:
    data = InMemoryDataModule(make_numbered_samples(1))
    data.task = task
    assert data.monitor == monitor


def test_order_seed_defaults_to_global_seed() -> None:
    """Without a seed of its own, processes with the same global seed have the same order."""
    torch.manual_seed(5)
    seeds = [InMemoryDataModule(make_numbered_samples(1)).order_seed for _ in range(2)]
    assert seeds[0] == seeds[1]
    torch.manual_seed(6)
    assert InMemoryDataModule(make_numbered_samples(1)).order_seed != seeds[0]
