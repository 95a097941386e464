"""The files of image sets: those that cannot be read, or are missing and downloaded."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from src.core.errors import InputError
from src.data.cifar10 import CIFAR10
from src.data.images import PublishedImages
from src.data.mnist import MNIST
from tests.data.test_image_files import IMAGES, LABELS, SETS, get_error, make_data_module

# Files that cannot be read


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(("kind", "name"), [(MNIST, LABELS), (CIFAR10, "test_batch")])
def test_irregular_file_is_refused(kind: type[PublishedImages], name: str, verify: bool, published: Path) -> None:
    """A folder, a pipe or a link to a device in the place of a file is refused by name."""
    path = published / kind.folder / name
    path.unlink()
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        make()
        message = get_error(kind, published, verify=verify)
        assert message == f"{path} is not a regular file"
        os.rmdir(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_unreadable_file_is_named(error: OSError, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, most: int) -> bytes:
        raise error

    monkeypatch.setattr("src.data.published.files.read_bytes", fail)
    assert get_error(MNIST, published) == f"{published / MNIST.folder / IMAGES} cannot be read ({error.strerror})"


def test_oversized_file_is_not_read(published: Path) -> None:
    path = published / MNIST.folder / IMAGES
    os.truncate(path, 2**33)  # takes no room on the disk
    assert get_error(MNIST, published).startswith(f"{path} is damaged: it has 8,589,934,592 bytes")


def test_inaccessible_folder_is_named(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", fail)
    assert get_error(MNIST, published) == f"{published / MNIST.folder / IMAGES} cannot be read (Permission denied)"


def test_loading_names_missing_files(root: Path) -> None:
    (root / MNIST.folder / LABELS).unlink()
    with pytest.raises(InputError, match=f"MNIST/raw lacks {LABELS}$"):
        MNIST(root=str(root), batch_size=1, val_size=0).load()


# Downloading


def test_complete_folder_is_unchanged(published: Path) -> None:
    before = sorted(published.rglob("*"))
    make_data_module(MNIST, published)
    assert sorted(published.rglob("*")) == before


def refuse_download(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a download was begun")


def test_user_files_are_not_overwritten(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision would replace those that are there, too."""
    for kind, name in ((MNIST, LABELS), (CIFAR10, "data_batch_2")):
        monkeypatch.setattr(kind, "dataset", refuse_download)
        (root / kind.folder / name).unlink()
        message = get_error(kind, root, verify=False)
        assert message == f"{root / kind.folder} lacks {name}: with data.verify=false nothing is downloaded"
        assert f"is damaged or not {kind.__name__}'s" in get_error(kind, root)


def test_concurrent_starts_download_once(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, empty = 4, tmp_path / "empty"
    all_see_it_missing = threading.Barrier(count)
    first_look = threading.local()
    downloads: list[str] = []
    missing = MNIST.find_missing_files

    def missing_at_first(self: MNIST) -> list[str]:
        names = missing(self)
        if names and not hasattr(first_look, "done"):
            first_look.done = True
            all_see_it_missing.wait()
        return names

    def download(root: str, download: bool) -> None:
        downloads.append(root)
        shutil.copytree(published / "MNIST", empty / "MNIST")

    monkeypatch.setattr(MNIST, "find_missing_files", missing_at_first)
    monkeypatch.setattr(MNIST, "dataset", staticmethod(download))
    sets = [MNIST(root=str(empty), batch_size=1, val_size=0) for _ in range(count)]
    threads = [threading.Thread(target=each.prepare_data) for each in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [str(empty)]
    assert sets[0].load()[0].size == 200


def test_offline_error_names_files_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    for kind in SETS:
        message = get_error(kind, tmp_path)
        assert f"{kind.__name__} is not in {tmp_path} and cannot be downloaded (" in message
        assert f"put {', '.join(kind.sha256)} into {tmp_path / kind.folder}, " in message
        assert "DATA_DIR" in message


def test_unwritable_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"data folder {tmp_path / 'file/data'} cannot be written" in get_error(MNIST, tmp_path / "file/data")
