"""Image folders that are read from disk batch by batch: the results are those of images in memory."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.core.errors import InputError
from src.data.image_folder import ImageFolder
from src.data.own import image_cache, streaming
from src.data.own.streaming import StreamedImages
from src.storage.weights import read_checkpoint
from tests.command_line import read_history, read_json, run, train_bare
from tests.small_data import write_colour_folders

BIRDS = ("data=image_folder", "data.root=birds", "data.size=8", "data.batch_size=15")
SMALL = (*BIRDS, "model=cnn", "model.channels=[4]", "seed=0", "data.flip=true", "data.crop=2")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A folder of three classes with 20 images each, one of them damaged."""
    write_colour_folders(tmp_path / "birds")
    (tmp_path / "birds/blue/00.png").write_bytes(b"none")
    return tmp_path / "birds"


def make_data(root: Path, **settings: Any) -> ImageFolder:
    given = {"cache": str(root.parent / "cache"), "size": 8, "channels": 3, "batch_size": 10, "order_seed": 0}
    data = ImageFolder(str(root), **{**given, **settings})
    data.setup()
    return data


def test_streamed_run_equals_run_in_memory(birds: Path) -> None:
    """Splits, statistics, augmentation, test and weights agree to the last bit, also when the run is continued."""
    whole = train_bare(*SMALL, "trainer.max_epochs=3", cwd=birds.parent)
    part = train_bare(*SMALL, "trainer.max_epochs=2", "data.stream=true", cwd=birds.parent)
    assert run("src.train", f"resume={part.folder}", "trainer.max_epochs=3", cwd=birds.parent).code == 0
    for ours, theirs in zip(read_history(part.folder), read_history(whole.folder), strict=True):
        assert ours["train/loss"] == theirs["train/loss"] and ours["val/loss"] == theirs["val/loss"]
    assert read_json(part.folder / "metrics.json")["test/loss"] == whole.metrics["test/loss"]
    ours, theirs = (read_checkpoint(one.folder / "checkpoints/last.ckpt")["state_dict"] for one in (part, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("chunk_length", [1, 2])
def test_streamed_batches_equal_those_in_memory(
    chunk_length: int, birds: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too large for memory, images stay on disk, which a line says; pages are given back after each batch."""
    caplog.set_level(logging.INFO)
    kept = make_data(birds)
    monkeypatch.setattr(image_cache, "_get_free_memory", lambda: 10_000)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1000)
    streamed = make_data(birds)
    assert [line for line in caplog.messages if "60 images take 11,520 bytes, and of memory 10,000 are free" in line]
    assert isinstance(streamed.train_set.inputs, StreamedImages) and isinstance(kept.train_set.inputs, torch.Tensor)
    assert torch.equal(streamed.mean, kept.mean) and torch.equal(streamed.std, kept.std)
    streamed.chunk_length = kept.chunk_length = chunk_length
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pairs = list(zip(getattr(streamed, loader)(), getattr(kept, loader)(), strict=True))
        for one, other in [(getattr(a, "samples", a), getattr(b, "samples", b)) for a, b in pairs]:
            assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def test_streamed_images_are_copied_to_devices(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_data(birds, stream=True).train_set.inputs
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(StreamedImages, "device", torch.device("meta"))  # as if the CPU were another device
    assert torch.equal(images.to(torch.device("cpu")), images[:])


def test_streamed_cache_notices_changes(birds: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_data(birds, stream=True)
    array = next(birds.parent.glob("cache/birds-8x8x3-*.npy"))
    array.write_bytes(array.read_bytes()[:1000])
    caplog.set_level(logging.INFO)
    make_data(birds, stream=True)
    assert any("decoded in" in line for line in caplog.messages)


def test_images_larger_than_disk_are_refused(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(InputError, match=r"60 images take 11,520 bytes decoded, of which .*cache has 10,000 free"):
        make_data(birds)
    assert not list(birds.parent.glob("cache/*.np*"))
