"""Where a data set lies while it is used; the meta device stands for a GPU: it takes copies and holds no numbers."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.data.loading import placement
from src.data.loading.batches import Batches, Chunk
from src.data.loading.placement import copy_ahead
from src.data.loading.samples import Samples
from src.data.toy import XOR
from tests.command_line import BARE, run

GPU, CPU = torch.device("meta"), torch.device("cpu")


class TransferCounter(TorchDispatchMode):
    """Count the copies from one device to another."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten._to_copy and result.device != args[0].device:
            self.count += 1
        return result


@pytest.fixture
def data() -> XOR:
    """Return a set of 100 samples to train on, in batches of 10, as if a GPU trained on it."""
    made = XOR(train_size=100, val_size=60, test_size=60, noise=0.01, batch_size=10, order_seed=0)
    strategy = SimpleNamespace(root_device=GPU)
    made.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, current_epoch=0, overfit_batches=0, strategy=strategy, is_global_zero=True
    )
    made.setup()
    return made


def count_transfers(data: XOR) -> list[int]:
    """Return how often something was copied to the device in each of two epochs with their validation."""
    found = []
    for _ in range(2):
        with TransferCounter() as transfers:
            for loader in (data.train_dataloader(), data.val_dataloader()):
                for batch in loader:
                    moved = data.transfer_batch_to_device(batch, GPU, 0)
                    first = moved.samples if isinstance(moved, Chunk) else moved
                    assert first.inputs.device == first.targets.device == GPU
        found.append(transfers.count)
    return found


@pytest.mark.parametrize("chunk", [1, 4])
def test_fitting_set_is_copied_once(data: XOR, chunk: int) -> None:
    """After that, each epoch only copies its order."""
    data.chunk_length = chunk
    assert count_transfers(data) == [2 + 2 + 1, 1]  # inputs and targets to train and to validate on, and the order


@pytest.mark.parametrize(("asked", "free"), [(False, 1e9), (None, 2 * 220 * (8 + 8) - 1)])
def test_large_set_is_copied_by_batch(
    data: XOR, asked: bool | None, free: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(placement, "_measure_free_memory", lambda device: free)
    data.placement.requested = asked
    assert count_transfers(data) == [2 * (10 + 1)] * 2
    assert "data: 0.00352 MB for meta, copied to it batch by batch" in caplog.text


def test_set_uses_at_most_half_memory(
    data: XOR, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless it is requested, a set takes at most half of the free memory."""
    caplog.set_level(logging.INFO)
    for asked, free in ((None, 2 * 3520), (True, 0)):
        monkeypatch.setattr(placement, "_measure_free_memory", lambda device, free=free: free)
        data.placement = placement.Placement()
        data.placement.requested = asked
        assert count_transfers(data) == [5, 1]
        assert "data: 0.00352 MB for meta, kept on it" in caplog.text
        caplog.clear()


def test_batches_do_not_depend_on_placement(data: XOR) -> None:
    data.trainer.strategy.root_device = CPU  # type: ignore[misc]
    loader = data.train_dataloader()
    assert isinstance(loader, Batches)
    ahead = Batches(loader.samples, 10, loader.order, train=True, device=CPU)
    pairs = list(zip(loader, ahead, strict=True))
    assert len(pairs) == 10
    assert all(torch.equal(one, other) for left, right in pairs for one, other in zip(left, right, strict=True))


def test_next_batch_is_copied_ahead() -> None:
    """Each batch is copied while the one before is computed with."""
    steps: list[str] = []

    class Noting(Samples):
        def to(self, device: torch.device, non_blocking: bool = False) -> Samples:
            steps.append(f"copy {int(self.targets)}, {'in the background' if non_blocking else 'waiting'}")
            return self

    def batches() -> Iterator[Samples]:
        for number in range(3):
            yield Noting(torch.zeros(1), torch.tensor(number))

    steps.extend(f"compute {int(batch.targets)}" for batch in copy_ahead(batches(), CPU))
    copies = [f"copy {number}, in the background" for number in range(3)]
    assert steps == [copies[0], copies[1], "compute 0", copies[2], "compute 1", "compute 2"]


def test_invalid_data_on_device_is_refused(tmp_path: Path) -> None:
    error = run("src.train", *BARE, "data_on_device=gpu", cwd=tmp_path).error
    assert error == "error: data_on_device=gpu must be null, true or false"
