"""The files of image sets: verified, or read soundly where they are someone's own."""

import hashlib
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from omegaconf import OmegaConf

from src.core.errors import InputError
from src.data.cifar10 import CIFAR10
from src.data.fashion_mnist import FashionMNIST
from src.data.images import PublishedImages
from src.data.mnist import MNIST
from tests.command_line import BARE, get_small_image_settings, run, train_bare
from tests.small_data import write_idx, write_mnist

SETS: list[type[PublishedImages]] = [MNIST, FashionMNIST, CIFAR10]
FILES = [(kind, name) for kind in SETS for name in kind.sha256]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def make_data_module(kind: type[PublishedImages], root: Path, **settings: Any) -> PublishedImages:
    data = kind(root=str(root), batch_size=50, val_size=50, order_seed=0, **settings)
    data.prepare_data()
    data.setup()
    return data


def get_error(kind: type[PublishedImages], root: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        make_data_module(kind, root, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Verified files


def test_every_torchvision_file_has_digest() -> None:
    for kind in (MNIST, FashionMNIST):
        assert list(kind.sha256) == [Path(name).stem for name, _ in kind.dataset.resources]
    cifar10 = torchvision.datasets.CIFAR10
    assert list(CIFAR10.sha256) == [name for name, _ in cifar10.train_list + cifar10.test_list]
    digests = [digest for kind in SETS for digest in kind.sha256.values()]
    assert len(set(digests)) == 14 and all(len(digest) == 64 and int(digest, 16) for digest in digests)


def test_published_files_need_no_note(published: Path, tmp_path: Path) -> None:
    verified = ["data=mnist", f"paths.data={published}", "data.val_size=40", "trainer.max_epochs=1"]
    folder = train_bare(*verified, cwd=tmp_path).folder
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").data.verify is True
    assert "verified" not in (folder / "train.log").read_text()
    assert (
        make_data_module(CIFAR10, published).train_set.size
        == make_data_module(FashionMNIST, published).train_set.size
        == 150
    )


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_single_bit_flip_is_refused(kind: type[PublishedImages], name: str, published: Path) -> None:
    path = published / kind.folder / name
    content = bytearray(path.read_bytes())
    content[random.Random(name).randrange(len(content))] ^= 4
    path.write_bytes(content)
    message, digest = get_error(kind, published), hashlib.sha256(content).hexdigest()
    assert message == (
        f"{path} is damaged or not {kind.__name__}'s (its SHA-256 is {digest[:12]}…, not {kind.sha256[name][:12]}…); "
        "delete it and run again to download it, or set data.verify=false to use files of your own"
    )


def test_files_of_other_set_are_refused(published: Path, tmp_path: Path) -> None:
    """Files with other labels or with fewer images are refused, too."""
    raw = published / MNIST.folder
    labels = (raw / LABELS).read_bytes()
    (raw / LABELS).write_bytes(labels[:8] + labels[:7:-1])
    assert f"{raw / LABELS} is damaged or not MNIST's" in get_error(MNIST, published)
    write_mnist(published, train=100)
    assert f"{raw / IMAGES} is damaged or not MNIST's" in get_error(MNIST, published)
    for name in MNIST.sha256:
        shutil.copy(published / FashionMNIST.folder / name, raw)
    outcome = run("src.train", *BARE, "data=mnist", f"paths.data={published}", "data.val_size=40", cwd=tmp_path)
    assert outcome.error.startswith(f"error: {raw / IMAGES} is damaged or not MNIST's")
    assert outcome.error.endswith(" data.verify=false to use files of your own")


# Files of one's own


def test_run_on_unverified_files_says_so(root: Path, tmp_path: Path) -> None:
    """The run's settings keep data.verify=false."""
    folder = train_bare(*get_small_image_settings("mnist", root), "trainer.max_epochs=1", cwd=tmp_path).folder
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").data.verify is False
    note = f"note: the files in {root / 'MNIST/raw'} were not verified to be MNIST (data.verify=false)"
    assert note in (folder / "train.log").read_text()
    again = ["trainer.max_epochs=2", "name=verified", f"paths.data={root}"]
    error = run("src.train", "data=mnist", "data.val_size=40", *again, cwd=tmp_path).error
    assert f"{root / 'MNIST/raw' / IMAGES} is damaged or not MNIST's" in error


def write_own_files(raw: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Replace MNIST's training files."""
    write_idx(raw / IMAGES, images)
    write_idx(raw / LABELS, labels)


def test_any_number_of_images_is_read(root: Path) -> None:
    write_own_files(root / MNIST.folder, np.arange(60 * 28 * 28).reshape(60, 28, 28) % 251, np.arange(60) % 3)
    train, test = MNIST(root=str(root), verify=False, batch_size=1, val_size=0).load()
    assert train.inputs.flatten().tolist() == [number % 251 for number in range(60 * 28 * 28)]
    assert train.targets.tolist() == [0, 1, 2] * 20 and test.size == 100


@pytest.mark.parametrize(
    ("images", "labels", "name", "reason"),
    [
        ((60, 28, 27), (60,), IMAGES, "28×27 pixels, not 28×28"),
        ((60, 28 * 28), (60,), IMAGES, "not a 3-dimensional IDX file of bytes"),
        ((60, 28, 28), (60, 1), LABELS, "not a 1-dimensional IDX file of bytes"),
        ((60, 28, 28), (59,), LABELS, "59 labels for 60 images"),
        ((60, 28, 28), (61,), LABELS, "61 labels for 60 images"),
        ((0, 28, 28), (0,), LABELS, "0 labels for 0 images"),
    ],
)
def test_mismatched_images_and_labels_are_refused(
    images: tuple[int, ...], labels: tuple[int, ...], name: str, reason: str, root: Path
) -> None:
    raw = root / MNIST.folder
    write_own_files(raw, np.zeros(images), np.zeros(labels))
    assert (
        get_error(MNIST, root, verify=False) == f"{raw / name}: {reason}; files of your own must be in MNIST's format"
    )


def test_label_out_of_range_is_refused(root: Path) -> None:
    write_own_files(root / MNIST.folder, np.zeros((60, 28, 28)), np.arange(60) % 11)
    assert "label 10 is none of the 10 classes" in get_error(MNIST, root, verify=False)


@pytest.mark.parametrize("name", MNIST.sha256)
@pytest.mark.parametrize("damage", ["truncated", "header only", "empty", "text", "wrong magic number"])
def test_invalid_idx_file_is_named(name: str, damage: str, root: Path, tmp_path: Path) -> None:
    path = root / MNIST.folder / name
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
    reason = f"{len(whole) - 1} bytes, its header says {len(whole)}" if damage == "truncated" else "not a "
    assert get_error(MNIST, root, verify=False).startswith(f"{path}: {reason}")


class Payload:
    """Calls something while its pickle is read."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


PIXELS, CLASSES = np.zeros((40, 3072), dtype=np.uint8), [number % 10 for number in range(40)]
NO_IMAGES = "its data are not an array of images (N, 3072)"
NO_LABELS = "its labels are not a list of integers"


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ({"data": PIXELS, "labels": CLASSES[1:]}, "39 labels for 40 images"),
        ({"data": PIXELS, "labels": [*CLASSES[1:], 10]}, "label 10 is none of the 10 classes"),
        ({"data": PIXELS, "labels": [*CLASSES[1:], -1]}, "label -1 is none of the 10 classes"),
        ({"data": PIXELS, "labels": [*CLASSES[1:], 2**70]}, f"label {2**70} is none of the 10 classes"),
        ({"data": PIXELS, "labels": [*CLASSES[1:], 1.5]}, NO_LABELS),
        ({"data": PIXELS, "labels": None}, NO_LABELS),
        ({"data": PIXELS[:, 1:], "labels": CLASSES}, NO_IMAGES),
        ({"data": PIXELS[0], "labels": CLASSES}, NO_IMAGES),
        ({"data": PIXELS.tolist(), "labels": CLASSES}, NO_IMAGES),
        ({"data": PIXELS / 255, "labels": CLASSES}, "an array whose items are not bytes"),
        ({"data": PIXELS[:0], "labels": []}, "0 labels for 0 images"),
        ({"labels": CLASSES}, NO_IMAGES),
        (PIXELS, NO_IMAGES),
        (Payload(os.mkdir, "made-by-a-pickle"), "not a pickle of arrays and plain values (it calls posix.mkdir)"),
        (Payload(np.frombuffer, b""), "not a pickle of arrays and plain values (it calls numpy.frombuffer)"),
    ],
)
def test_invalid_cifar10_batch_is_refused(batch: Any, reason: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is refused with the reason, and its code is not run."""
    path = root / CIFAR10.folder / "data_batch_4"
    path.write_bytes(pickle.dumps(batch))
    monkeypatch.chdir(root)
    message = get_error(CIFAR10, root, verify=False)
    assert message == f"{path}: {reason}; files of your own must be in CIFAR10's format"
    assert not (root / "made-by-a-pickle").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_invalid_pickle_is_named(damage: str, root: Path) -> None:
    path = root / CIFAR10.folder / "test_batch"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-1], "empty": b"", "text": b"<html>not found</html>"}[damage])
    assert get_error(CIFAR10, root, verify=False).startswith(f"{path}: not a pickle of arrays and plain values (")
