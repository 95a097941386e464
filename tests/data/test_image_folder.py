"""A folder of one's own images: what is read, how it is split, what is left out, and whole runs on it."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import InputError
from src.data.image_folder import ImageFolder
from src.data.own import image_cache
from src.data.own.decoding import decode_image
from tests.command_line import evaluate, read_history, read_json, run, train_bare
from tests.small_data import COLOURS, write_colour_folders, write_image


def make_data(root: Path, **settings: Any) -> ImageFolder:
    """A data module that has loaded its images."""
    given = {"cache": str(root.parent / "cache"), "size": 8, "channels": 3, "batch_size": 10, "order_seed": 0}
    data = ImageFolder(str(root), **{**given, **settings})
    data.setup()
    return data


def count_classes(data: ImageFolder) -> list[list[int]]:
    """The number of images of each class in the training, validation and test set."""
    parts = [part for part in (data.train_set, data.val_set, data.test_set) if part is not None]
    return [part.targets.bincount(minlength=data.num_classes).tolist() for part in parts]


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A folder of three classes with 20 images each."""
    write_colour_folders(tmp_path / "birds")
    return tmp_path / "birds"


# Runs


LITTLE = ("trainer.max_epochs=2", "callbacks=none", "logger=none")
SMALL = ("data=image_folder", "data.root=birds", "data.size=8", "data.batch_size=15", "model=cnn", "model.channels=[4]")


def test_run_learns_colours(birds: Path) -> None:
    """From the command line alone: training, test and evaluation, with the folders' names as classes."""
    outcome = train_bare(*SMALL, "trainer.max_epochs=15", "optimizer.lr=0.01", "seed=0", cwd=birds.parent)
    assert outcome.metrics["test/acc"] == 1.0
    assert "43 images of 3 classes to train on, 8 to validate on, 9 to test on" in outcome.text
    evaluated = evaluate(f"run={outcome.folder}", "split=test", cwd=birds.parent)
    assert "test/acc 100.00%" in evaluated.text


def test_resumed_run_equals_straight_one(birds: Path) -> None:
    settings = (*SMALL, "seed=0", "data.flip=true", "data.crop=2")
    straight = train_bare(*settings, "trainer.max_epochs=4", "name=straight", cwd=birds.parent)
    first = train_bare(*settings, "trainer.max_epochs=2", "name=first", cwd=birds.parent)
    assert run("src.train", f"resume={first.folder}", "trainer.max_epochs=4", cwd=birds.parent).code == 0
    pairs = zip(read_history(first.folder), read_history(straight.folder), strict=True)
    assert all(one["train/loss"] == other["train/loss"] for one, other in pairs)


def test_resumed_run_notices_changes(birds: Path) -> None:
    first = train_bare(*SMALL, "trainer.max_epochs=1", cwd=birds.parent)
    write_image(birds / "red" / "new.png", COLOURS["red"], seed=999)
    assert "have changed since the run started" in evaluate(f"run={first.folder}", cwd=birds.parent).text
    resumed = run("src.train", f"resume={first.folder}", "trainer.max_epochs=2", cwd=birds.parent)
    assert resumed.code == 0
    assert "have changed since the run started" in resumed.text
    (birds / "red").rename(birds / "pink")
    assert "the classes are others" in run("src.eval", f"run={first.folder}", cwd=birds.parent).error
    error = run("src.train", f"resume={first.folder}", "trainer.max_epochs=3", cwd=birds.parent).error
    assert "the classes are others than when the run started" in error


def test_moved_folder_is_given_again(birds: Path) -> None:
    first = train_bare(*SMALL, "trainer.max_epochs=1", cwd=birds.parent)
    birds.rename(birds.parent / "moved")
    error = run("src.eval", f"run={first.folder}", cwd=birds.parent).error
    assert "data.root=birds: there is no such folder; if the images have moved" in error
    evaluated = evaluate(f"run={first.folder}", "paths.data=moved", cwd=birds.parent)
    resumed = run("src.train", f"resume={first.folder}", "data.root=moved", "trainer.max_epochs=2", cwd=birds.parent)
    assert resumed.code == 0
    assert "have changed" not in evaluated.text + resumed.text


def test_strange_config_writes_nothing_elsewhere(birds: Path) -> None:
    """A folder's config may be a stranger's: it does not choose where decoded images are written."""
    first = train_bare(*SMALL, "trainer.max_epochs=1", "data.cache=own", cwd=birds.parent)
    assert list((birds.parent / "own").glob("*.npy"))
    config = first.folder / ".hydra" / "config.yaml"
    strange = birds.parent / "strange"
    config.write_text(config.read_text().replace("cache: own", f"cache: {strange}"))
    evaluate(f"run={first.folder}", cwd=birds.parent)
    assert not strange.exists()
    assert list((birds.parent / "outputs/cache").glob("*.npy"))


def test_folders_are_swept_over(birds: Path) -> None:
    """Two folders are two jobs, also as stacks; they decode each image once and come to the results of single runs."""
    write_colour_folders(birds.parent / "cats", 10, first_seed=5000)
    sweep = ("-m", *SMALL, "data.root=birds,cats", "model.batch_norm=false", "seed=0,1", *LITTLE)
    arguments = [argument for argument in sweep if argument != "data.root=birds"]
    local = run("src.train", *arguments, "name=local", cwd=birds.parent)
    stack = ("hydra/launcher=vectorized", "name=stacked", "data.stream=true")
    stacked = run("src.train", *arguments, *stack, cwd=birds.parent)
    assert (local.code, stacked.code, len(local.folders)) == (0, 0, 4), stacked.text
    stacked_folders = [folder for folder in stacked.folders if folder.name[0].isdigit()]
    for one, other in zip(local.folders, stacked_folders, strict=True):
        assert one.name == other.name
        expected = read_json(one / "metrics.json")
        assert read_json(other / "metrics.json")["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-3)


# Layouts


def test_folders_are_classes_in_order(birds: Path) -> None:
    data = make_data(birds)
    assert data.class_names == ("blue", "green", "red")
    assert count_classes(data) == [[14, 15, 14], [3, 2, 3], [3, 3, 3]]
    assert data.train_set is not None
    assert data.train_set.inputs.dtype == torch.uint8
    brightest = data.train_set.inputs.float().mean(dim=(2, 3)).argmax(dim=1)  # channels are red, green, blue
    assert torch.equal(brightest, 2 - data.train_set.targets)


def test_number_names_are_sorted_as_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        for index in range(3):
            write_image(tmp_path / "digits" / str(number) / f"{index}.png", (0, 0, 20 * number), 10 * number + index)
    assert make_data(tmp_path / "digits", val_size=0, test_size=1).class_names == ("1", "2", "10")


def test_split_folders_are_the_splits(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    for number, (split, count) in enumerate({"train": 8, "val": 3, "test": 5}.items()):
        write_colour_folders(root / split, count, first_seed=1000 * number)
    assert count_classes(make_data(root)) == [[8] * 3, [3] * 3, [5] * 3]
    with pytest.raises(InputError, match=r"data\.val_size=0\.2: .* leave the setting out"):
        make_data(root, val_size=0.2)


def test_csv_gives_labels_and_splits(birds: Path) -> None:
    names = sorted(path.relative_to(birds).as_posix() for path in birds.rglob("*.*"))
    rows = [f"{name},{'warm' if name.startswith('red') else 'cold'}" for name in names]
    (birds / "labels.csv").write_text("\n".join(["file,label", *rows, "gone.png,warm"]))
    data = make_data(birds, labels="labels.csv", val_size=0.1, test_size=0.1)
    assert data.class_names == ("cold", "warm")
    assert [sum(part) for part in count_classes(data)] == [49, 5, 6]
    splits = [("val", "test", "train")[min(index % 5, 2)] for index in range(len(rows))]
    lines = [f"{row},{split}" for row, split in zip(rows, splits, strict=True)]
    (birds / "labels.csv").write_text("\n".join(["file,label,split", *lines]))
    assert [sum(part) for part in count_classes(make_data(birds, labels="labels.csv"))] == [36, 12, 12]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "must begin with a line of columns"),
        ("", "it has none"),
        ("file,label\nblue/00.png,\n", "line 2 must have a file and a label"),
        ("file,label,split\nblue/00.png,x,dev\n", "one of train, val and test"),
        ("file,label\n../secret.png,x\n", "files in the table"),
    ],
)
def test_wrong_csv_is_one_line(text: str, message: str, birds: Path) -> None:
    (birds / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        make_data(birds, labels="labels.csv")


def test_missing_csv_is_one_line(birds: Path) -> None:
    with pytest.raises(InputError, match=r"data\.labels: .*none\.csv cannot be read"):
        make_data(birds, labels="none.csv")


# What is left out


def test_unusable_files_are_told(birds: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is named with its reason, and the rest is trained on."""
    red = birds / "red"
    (red / "empty.png").touch()
    (red / "text.jpg").write_text("no image")
    (red / "cut.png").write_bytes((red / "00.png").read_bytes()[:500])
    (red / "notes.txt").write_text("no image")
    (red / ".hidden.png").touch()
    (red / "copy.png").write_bytes((red / "00.png").read_bytes())
    (red / "green.png").write_bytes((birds / "green/00.png").read_bytes())
    (birds.parent / "outside.png").write_bytes((red / "04.png").read_bytes())
    (red / "link.png").symlink_to(birds.parent / "outside.png")
    write_image(birds / "loose.png", (0, 0, 0), 500)
    write_image(red / "more" / "nested.png", COLOURS["red"], 501)
    (birds / "pink").mkdir()
    data = make_data(birds)
    assert [sum(part) for part in zip(*count_classes(data), strict=True)] == [20, 19, 21]
    for line in (
        "empty files (1): red/empty.png",
        "files are no images (1): red/text.jpg",
        "images are damaged (1): red/cut.png",
        "files are no images by their names (1): red/notes.txt",
        "hidden files or folders are left out (1): red/.hidden.png",
        "images are copies of another (1): red/copy.png = red/00.png",
        "images have several labels and are left out with all copies (1): green/00.png = red/green.png",
        "links are not followed, for they lead to folders or out of data.root (1): red/link.png",
        "images lie outside the class folders (1): loose.png",
        "class folders have no images (1): pink",
    ):
        assert f"{birds}: {line}" in caplog.messages


def test_copies_in_test_are_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "birds"
    write_colour_folders(root / "train", 8)
    write_colour_folders(root / "test", 4)  # the first four again
    data = make_data(root, val_size=0)
    assert count_classes(data) == [[4] * 3, [0] * 3, [4] * 3]
    assert any(
        "images are copies of one in another split (12): train/blue/00.png = " in line for line in caplog.messages
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no images"),
        (["red/a.png", "red/b.png"], "has one class, red, and it takes two"),
        (["train/red/a.png", "train/blue/b.png", "test/green/c.png"], "there are no images to train on for green"),
        (["a.png"], "images lie outside the class folders (1): a.png"),
        (["red/a.png", "blue/b.png"], "no image is left to train on"),
    ],
)
def test_unusable_folders_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    for seed, name in enumerate(names):
        write_image(tmp_path / "birds" / name, (seed, 0, 0), seed)
    with pytest.raises(InputError, match=re.escape(message)):
        make_data(tmp_path / "birds", test_size=1, **({} if "train/red/a.png" in names else {"val_size": 0}))


def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    error = run("src.train", "data=image_folder", "data.root=~/no-birds", cwd=tmp_path).error
    assert f"{Path.home()}/no-birds: there is no such folder" in error


def test_too_many_bytes_are_refused(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "_get_free_memory", lambda: 10_000)
    with pytest.raises(InputError, match=r"data\.size=8: 60 images take 11,520 bytes .* 10,000 are free"):
        make_data(birds, stream=False)


# The cache


def test_cache_is_used_and_notices_changes(birds: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def decodes(**settings: Any) -> bool:
        caplog.clear()
        make_data(birds, **settings)
        return any("decoded in" in line for line in caplog.messages)

    assert decodes()
    assert not decodes()
    assert not decodes(val_size=0.3, flip=True)
    assert decodes(size=9)
    assert not decodes()  # both sizes are kept
    write_image(birds / "red/00.png", COLOURS["red"], 700)
    assert decodes()
    write_image(birds / "red/added.png", COLOURS["red"], 701)
    assert decodes()
    (birds / "red/added.png").unlink()
    assert decodes()
    array = next(birds.parent.glob("cache/birds-8x8x3-*.npy"))
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    assert decodes()
    assert not decodes()
    os.truncate(array, 1000)
    assert decodes()


# Decoding


def encode(image: Image.Image, path: Path, **options: Any) -> bytes:
    image.save(path, **options)
    return path.read_bytes()


def test_modes_become_colours_or_grey(tmp_path: Path) -> None:
    grey16 = Image.fromarray(np.full((6, 6), 200 * 256, np.uint16))
    pixels = {
        "grey": (encode(Image.new("L", (6, 6), 200), tmp_path / "a.png"), (200, 200, 200)),
        "16 bits": (encode(grey16, tmp_path / "b.png"), (200, 200, 200)),
        "palette": (encode(Image.new("RGB", (6, 6), (255, 0, 0)).quantize(4), tmp_path / "c.gif"), (255, 0, 0)),
        "transparent": (encode(Image.new("RGBA", (6, 6), (9, 9, 9, 0)), tmp_path / "d.png"), (255, 255, 255)),
        "half": (encode(Image.new("LA", (6, 6), (0, 128)), tmp_path / "e.png"), (127, 127, 127)),
        "print": (encode(Image.new("CMYK", (6, 6), (0, 255, 255, 0)), tmp_path / "f.tiff"), (255, 0, 0)),
        "1 bit": (encode(Image.new("1", (6, 6), 1), tmp_path / "g.png"), (255, 255, 255)),
    }
    for name, (content, colour) in pixels.items():
        decoded = decode_image(content, 4, 3)
        assert decoded.shape == (3, 4, 4)
        assert np.abs(decoded[:, 2, 2].astype(int) - colour).max() <= 1, name
        assert decode_image(content, 4, 1).shape == (1, 4, 4)


def test_camera_orientation_is_honoured(tmp_path: Path) -> None:
    """EXIF orientation 6: the stored image is to be turned clockwise, its left side comes to the top."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encode(Image.fromarray(pixels), tmp_path / "a.jpg", exif=exif, quality=95), 8, 3)
    assert decoded[:, :3].min() > 240
    assert decoded[:, 5:].max() < 15


def test_centre_is_kept_in_proportion(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255  # the middle third is the square in the centre
    assert decode_image(encode(Image.fromarray(pixels), tmp_path / "a.png"), 5, 3)[:, :, 1:4].min() == 255


def test_huge_images_are_not_decoded(tmp_path: Path) -> None:
    content = encode(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="more than 100,000,000 pixels"):
        decode_image(content, 8, 3)


# Normalising


def test_stated_statistics_are_used(birds: Path) -> None:
    data = make_data(birds, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.5])
    outputs = data.transform(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    assert outputs[0, :, 0, 0].tolist() == [2.0, 2.0, 1.0]
    with pytest.raises(InputError, match="need each other"):
        make_data(birds, mean=[0.5, 0.5, 0.5])
