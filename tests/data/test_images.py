import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets

from src.core.errors import InputError
from src.data.cifar10 import CIFAR10
from src.data.fashion_mnist import FashionMNIST
from src.data.images import PublishedImages, compute_channel_statistics
from src.data.mnist import MNIST
from tests.doubles import BatchCollector, quiet_trainer

SETS: list[type[PublishedImages]] = [MNIST, FashionMNIST, CIFAR10]


def make_data_module(kind: type[PublishedImages], root: Path, val_size: int = 50, **settings: Any) -> PublishedImages:
    """A data module that has loaded its samples: 200 to train and validate on, 100 to test on."""
    data = kind(root=str(root), verify=False, batch_size=50, val_size=val_size, order_seed=0, **settings)
    data.prepare_data()
    data.setup()
    return data


def get_training_images(data: PublishedImages) -> torch.Tensor:
    assert data.train_set is not None
    return data.train_set.inputs


# What is read


@pytest.mark.parametrize("kind", SETS)
def test_images_are_stored_as_bytes(kind: type[PublishedImages], data_dir: Path) -> None:
    """Each of the three sets holds its images as bytes, with their classes."""
    data = make_data_module(kind, data_dir)
    for samples, count in ((data.train_set, 150), (data.val_set, 50), (data.test_set, 100)):
        assert samples is not None
        assert samples.inputs.shape == (count, *kind.in_shape)
        assert samples.inputs.dtype == torch.uint8
        assert samples.targets.dtype == torch.int64
        assert samples.targets.bincount().tolist() == [count // 10] * 10


def test_mnist_matches_files(data_dir: Path) -> None:
    _, test = MNIST(root=str(data_dir), verify=False, batch_size=1, val_size=0).load()
    raw = data_dir / "MNIST/raw"
    assert test.inputs.numpy().tobytes() == (raw / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert bytes(test.targets.tolist()) == (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]


def test_cifar10_matches_files(data_dir: Path) -> None:
    train, _ = CIFAR10(root=str(data_dir), verify=False, batch_size=1, val_size=0).load()
    folder = data_dir / "cifar-10-batches-py"
    batches = [pickle.loads((folder / f"data_batch_{number}").read_bytes()) for number in range(1, 6)]
    assert np.array_equal(train.inputs.flatten(1).numpy(), np.concatenate([batch["data"] for batch in batches]))
    assert train.targets.tolist() == np.concatenate([batch["labels"] for batch in batches]).tolist()


def test_fashion_mnist_has_its_own_folder(data_dir: Path) -> None:
    assert not torch.equal(
        get_training_images(make_data_module(FashionMNIST, data_dir)),
        get_training_images(make_data_module(MNIST, data_dir)),
    )


@pytest.mark.parametrize("kind", SETS)
def test_class_names_match_torchvision(kind: type[PublishedImages]) -> None:
    names = {
        MNIST: torchvision.datasets.MNIST.classes,
        FashionMNIST: torchvision.datasets.FashionMNIST.classes,
        CIFAR10: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    }[kind]
    assert [name.lower() for name in kind.class_names] == [name.split(" - ")[0].lower() for name in names]


# Normalising and augmenting


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_cover_all_pixels(channels: int) -> None:
    """The mean and the standard deviation of each channel are taken over all pixels."""
    images = (torch.rand(64, channels, 9, 7) ** 2 * 256).byte() // torch.arange(1, channels + 1).view(-1, 1, 1)
    mean, std = compute_channel_statistics(images)
    by_channel = images.double().transpose(0, 1).flatten(1)
    assert mean.shape == std.shape == (channels, 1, 1)
    torch.testing.assert_close(mean.flatten().double(), by_channel.mean(dim=1), rtol=0, atol=1e-4)
    torch.testing.assert_close(std.flatten().double(), by_channel.std(dim=1, correction=0), rtol=0, atol=1e-4)


def test_statistics_use_only_training_samples(data_dir: Path) -> None:
    data = make_data_module(CIFAR10, data_dir, val_size=100)
    assert data.val_set is not None
    everything = torch.cat([get_training_images(data), data.val_set.inputs])
    assert torch.equal(data.mean, compute_channel_statistics(get_training_images(data))[0])
    assert (data.mean - compute_channel_statistics(everything)[0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", SETS)
def test_training_images_are_standardised(kind: type[PublishedImages], data_dir: Path) -> None:
    """Each channel has mean 0 and standard deviation 1."""
    data = make_data_module(kind, data_dir)
    images = data.transform(get_training_images(data))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(len(data.mean)), rtol=0, atol=1e-4)
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(len(data.mean)), rtol=0, atol=1e-3)


def test_standardisation_does_not_change_input(data_dir: Path) -> None:
    """The original images are unchanged, whether they are bytes or floats."""
    data = make_data_module(CIFAR10, data_dir)
    images = get_training_images(data)
    for given in (images, images.float()):
        before = given.clone()
        assert torch.equal(data.transform(given), (images.float() - data.mean) / data.std)
        assert torch.equal(given, before)


def test_uniform_images_have_positive_deviation() -> None:
    """Images of one grey value stay finite when they are standardised."""
    mean, std = compute_channel_statistics(torch.full((2, 1, 4, 4), 7, dtype=torch.uint8))
    assert mean.item() == 7
    assert 0 < std.item() < 1e-3


def test_only_training_images_are_augmented(data_dir: Path, tmp_path: Path) -> None:
    data = make_data_module(CIFAR10, data_dir, flip=True, crop=4, cutout=8, shuffle=False)
    assert data.train_set and data.val_set
    recorder = BatchCollector()
    quiet_trainer(tmp_path, max_epochs=2).fit(recorder, datamodule=data)
    first, second = [torch.cat([batch.inputs for batch in epoch]) for epoch in recorder.epochs]
    plain = data.transform(data.train_set.inputs)
    assert ((first != plain).flatten(1).any(dim=1)).all()
    assert ((first != second).flatten(1).any(dim=1)).all()
    validated = torch.cat([batch.inputs for batch in recorder.validated])
    assert torch.equal(validated, data.transform(data.val_set.inputs).repeat(2, 1, 1, 1))


@pytest.mark.parametrize("setting", [{"flip": True}, {"crop": 2}, {"cutout": 5}])
def test_augmentations_work_separately(setting: dict[str, Any], data_dir: Path) -> None:
    data = make_data_module(MNIST, data_dir, **setting)
    images = get_training_images(data)
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


def test_reflected_crop_has_no_black(data_dir: Path) -> None:
    """A crop by more pixels than there are to reflect is refused."""
    for mode in ("zeros", "reflect"):
        data = make_data_module(CIFAR10, data_dir, crop=31, crop_padding=mode)
        white = torch.full((50, 3, 32, 32), 255, dtype=torch.uint8)
        assert len(data.transform(white, augment=True).unique()) == (6 if mode == "zeros" else 3)
    with pytest.raises(InputError, match=r"data\.crop=32: images of 32×32 pixels cannot be mirrored so far"):
        make_data_module(CIFAR10, data_dir, crop=32, crop_padding="reflect")
