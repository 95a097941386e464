import pickle
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets

from src.data.base import Samples
from src.data.cifar10 import CIFAR10
from src.data.fashion_mnist import FashionMNIST
from src.data.images import ImageDataModule, channel_statistics
from src.data.mnist import MNIST
from src.errors import InputError
from tests.small_data import trust_cifar10, write_idx, write_mnist
from tests.training import Recorder, quiet_trainer

SETS: list[type[ImageDataModule]] = [MNIST, FashionMNIST, CIFAR10]


def ready(kind: type[ImageDataModule], root: Path, val_size: int = 50, **settings: Any) -> ImageDataModule:
    """A data module that has loaded its samples: 200 to train and validate on, 100 to test on."""
    data = kind(root=str(root), batch_size=50, val_size=val_size, order_seed=0, **settings)
    data.prepare_data()
    data.setup()
    return data


def training_images(data: ImageDataModule) -> torch.Tensor:
    assert data.train_set is not None
    return data.train_set.inputs


# What is read


@pytest.mark.parametrize("kind", SETS)
def test_images_are_kept_as_bytes_with_their_classes(kind: type[ImageDataModule], data_dir: Path) -> None:
    data = ready(kind, data_dir)
    for samples, count in ((data.train_set, 150), (data.val_set, 50), (data.test_set, 100)):
        assert samples is not None
        assert samples.inputs.shape == (count, *kind.in_shape)
        assert samples.inputs.dtype == torch.uint8
        assert samples.targets.dtype == torch.int64
        assert samples.targets.bincount().tolist() == [count // 10] * 10


def test_mnist_pixels_and_labels_are_those_of_the_files(data_dir: Path) -> None:
    _, test = MNIST(root=str(data_dir), batch_size=1, val_size=0).load()
    raw = data_dir / "MNIST/raw"
    assert test.inputs.numpy().tobytes() == (raw / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert bytes(test.targets.tolist()) == (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]


def test_cifar10_pixels_and_labels_are_those_of_the_files(data_dir: Path) -> None:
    train, _ = CIFAR10(root=str(data_dir), batch_size=1, val_size=0).load()
    folder = data_dir / "cifar-10-batches-py"
    batches = [pickle.loads((folder / f"data_batch_{number}").read_bytes()) for number in range(1, 6)]
    assert np.array_equal(train.inputs.flatten(1).numpy(), np.concatenate([batch["data"] for batch in batches]))
    assert train.targets.tolist() == np.concatenate([batch["labels"] for batch in batches]).tolist()


def test_fashion_mnist_is_read_from_its_own_folder(data_dir: Path) -> None:
    assert not torch.equal(training_images(ready(FashionMNIST, data_dir)), training_images(ready(MNIST, data_dir)))


@pytest.mark.parametrize("kind", SETS)
def test_class_names_are_torchvisions_in_its_order(kind: type[ImageDataModule]) -> None:
    names = {
        MNIST: torchvision.datasets.MNIST.classes,
        FashionMNIST: torchvision.datasets.FashionMNIST.classes,
        CIFAR10: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    }[kind]
    assert [name.lower() for name in kind.class_names] == [name.split(" - ")[0].lower() for name in names]


# Normalising and augmenting


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_mean_and_standard_deviation_over_all_pixels(channels: int) -> None:
    images = (torch.rand(64, channels, 9, 7) ** 2 * 256).byte() // torch.arange(1, channels + 1).view(-1, 1, 1)
    mean, std = channel_statistics(images)
    by_channel = images.double().transpose(0, 1).flatten(1)
    assert mean.shape == std.shape == (channels, 1, 1)
    torch.testing.assert_close(mean.flatten().double(), by_channel.mean(dim=1), rtol=0, atol=1e-4)
    torch.testing.assert_close(std.flatten().double(), by_channel.std(dim=1, correction=0), rtol=0, atol=1e-4)


def test_the_statistics_come_from_the_training_samples_alone(data_dir: Path) -> None:
    data = ready(CIFAR10, data_dir, val_size=100)
    assert data.val_set is not None
    everything = torch.cat([training_images(data), data.val_set.inputs])
    assert torch.equal(data.mean, channel_statistics(training_images(data))[0])
    assert (data.mean - channel_statistics(everything)[0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", SETS)
def test_standardised_training_images_have_mean_0_and_standard_deviation_1(
    kind: type[ImageDataModule], data_dir: Path
) -> None:
    data = ready(kind, data_dir)
    images = data.transform(training_images(data))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(len(data.mean)), rtol=0, atol=1e-4)
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(len(data.mean)), rtol=0, atol=1e-3)


def test_standardising_leaves_the_images_given_as_they_are_also_floats(data_dir: Path) -> None:
    data = ready(CIFAR10, data_dir)
    images = training_images(data)
    for given in (images, images.float()):
        before = given.clone()
        assert torch.equal(data.transform(given), (images.float() - data.mean) / data.std)
        assert torch.equal(given, before)


def test_an_image_of_one_grey_stays_finite() -> None:
    mean, std = channel_statistics(torch.full((2, 1, 4, 4), 7, dtype=torch.uint8))
    assert mean.item() == 7
    assert 0 < std.item() < 1e-3


def test_training_images_are_augmented_and_validation_images_are_not(data_dir: Path, tmp_path: Path) -> None:
    data = ready(CIFAR10, data_dir, flip=True, crop=4, cutout=8, shuffle=False)
    assert data.train_set and data.val_set
    recorder = Recorder()
    quiet_trainer(tmp_path, max_epochs=2).fit(recorder, datamodule=data)
    first, second = [torch.cat([batch.inputs for batch in epoch]) for epoch in recorder.epochs]
    plain = data.transform(data.train_set.inputs)
    assert ((first != plain).flatten(1).any(dim=1)).all()
    assert ((first != second).flatten(1).any(dim=1)).all()
    validated = torch.cat([batch.inputs for batch in recorder.validated])
    assert torch.equal(validated, data.transform(data.val_set.inputs).repeat(2, 1, 1, 1))


@pytest.mark.parametrize("setting", [{"flip": True}, {"crop": 2}, {"cutout": 5}])
def test_each_augmentation_can_be_had_alone(setting: dict[str, Any], data_dir: Path) -> None:
    data = ready(MNIST, data_dir, **setting)
    images = training_images(data)
    black = (0 - data.mean) / data.std
    augmented = data.transform(images, augment=True)
    changed = augmented != data.transform(images)
    assert changed.flatten(1).any(dim=1).float().mean() > 0.4
    assert torch.equal(data.transform(images, augment=False), data.transform(images))
    if "cutout" in setting:
        assert (augmented[changed] == black).all()
        assert changed.flatten(1).sum(dim=1).max() <= 25
    if "flip" in setting:
        assert torch.equal(augmented.sort(dim=-1).values, data.transform(images).sort(dim=-1).values)


def test_a_crop_that_mirrors_shifts_in_no_black_and_no_more_than_there_is(data_dir: Path) -> None:
    for mode in ("zeros", "reflect"):
        data = ready(CIFAR10, data_dir, crop=31, crop_padding=mode)
        white = torch.full((50, 3, 32, 32), 255, dtype=torch.uint8)
        assert len(data.transform(white, augment=True).unique()) == (6 if mode == "zeros" else 3)
    with pytest.raises(InputError, match=r"data\.crop=32: images of 32×32 pixels cannot be mirrored so far"):
        ready(CIFAR10, data_dir, crop=32, crop_padding="reflect")


# Missing and damaged files


def copy_of(data_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


def complaint(kind: type[ImageDataModule], root: Path) -> str:
    with pytest.raises(InputError) as caught:
        ready(kind, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


MNIST_FILES = MNIST(root="", batch_size=1, val_size=0).files()
CIFAR10_FILES = CIFAR10(root="", batch_size=1, val_size=0).files()


def test_torchvision_reads_four_files_of_mnist_and_seven_of_cifar10() -> None:
    assert sorted(MNIST_FILES) == [f"{p}-{k}-ubyte" for p in ("t10k", "train") for k in ("images-idx3", "labels-idx1")]
    assert sorted(CIFAR10_FILES) == ["batches.meta", *[f"data_batch_{n}" for n in range(1, 6)], "test_batch"]


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("damage", ["truncated", "header only", "empty", "text", "wrong magic number"])
def test_a_damaged_file_of_mnist_is_named(
    kind: type[ImageDataModule], name: str, damage: str, data_dir: Path, tmp_path: Path
) -> None:
    root = copy_of(data_dir, tmp_path)
    path = root / kind.folder / name
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[:-1],
            "header only": whole[:6],
            "empty": b"",
            "text": b"<html>not found</html>",
            "wrong magic number": b"\x00\x00\x0d" + whole[3:],
        }[damage]
    )
    message = complaint(kind, root)
    assert message.startswith(f"{path}: ")
    assert message.endswith("; delete it and start again to download it anew")
    if damage == "truncated":
        assert f"{len(whole) - 1} bytes, its header says {len(whole)}" in message


@pytest.mark.parametrize("name", CIFAR10_FILES)
@pytest.mark.parametrize("damage", ["truncated", "one byte changed"])
def test_a_damaged_file_of_cifar10_is_named(name: str, damage: str, data_dir: Path, tmp_path: Path) -> None:
    root = copy_of(data_dir, tmp_path)
    path = root / CIFAR10.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if damage == "truncated" else whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert complaint(CIFAR10, root).startswith(f"{path}: truncated or corrupted, its MD5 is not ")


def test_a_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", np.arange(100) % 11)
    assert f"{tmp_path / 'MNIST/raw'}: labels do not fit the images" in complaint(MNIST, tmp_path)


def test_fewer_labels_than_images_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST/raw/train-labels-idx1-ubyte", np.arange(199) % 10)
    assert "labels do not fit the images" in complaint(MNIST, tmp_path)


def test_loading_names_what_is_missing(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"MNIST/raw lacks t10k-labels-idx1-ubyte$"):
        MNIST(root=str(tmp_path), batch_size=1, val_size=0).load()


# Downloading


def test_where_all_files_are_there_the_folder_is_left_alone(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    ready(MNIST, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_of_several_that_start_at_once_one_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 4
    all_see_it_missing = threading.Barrier(count)
    first_look = threading.local()
    downloads: list[bool] = []
    missing, read = MNIST.missing, MNIST.read

    def missing_at_first(self: MNIST) -> list[str]:
        names = missing(self)
        if not hasattr(first_look, "done"):
            first_look.done = True
            all_see_it_missing.wait()
        return names

    def downloading(self: MNIST, train: bool, download: bool = False) -> Samples:
        if download:
            downloads.append(train)
            write_mnist(tmp_path)
        return read(self, train)

    monkeypatch.setattr(MNIST, "missing", missing_at_first)
    monkeypatch.setattr(MNIST, "read", downloading)
    threads = [
        threading.Thread(target=MNIST(root=str(tmp_path), batch_size=1, val_size=0).prepare_data) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [True, False]


def test_without_a_network_the_files_and_where_they_belong_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    for kind, files in ((MNIST, MNIST_FILES), (CIFAR10, CIFAR10_FILES)):
        message = complaint(kind, tmp_path)
        assert f"{kind.__name__} is not in {tmp_path} and cannot be downloaded (" in message
        assert f"put {', '.join(files)} into {tmp_path / kind.folder}, " in message
        assert "DATA_DIR" in message


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"data folder {tmp_path / 'file/data'} cannot be written" in complaint(MNIST, tmp_path / "file/data")


def test_the_small_cifar10_is_accepted_only_while_its_sums_are_trusted(data_dir: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train_list", "test_list", "meta"):
            patch.setattr(torchvision.datasets.CIFAR10, name, getattr(torchvision.datasets.CIFAR10, name))
        trust_cifar10(dict.fromkeys(CIFAR10_FILES, "0" * 32))
        assert "MD5 is not 00000" in complaint(CIFAR10, data_dir)
    assert training_images(ready(CIFAR10, data_dir)).shape == (150, 3, 32, 32)
