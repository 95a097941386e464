"""Images of one's own with several labels, values or masks: what is read, refused and told, and whole runs on them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.core.errors import InputError
from src.data.image_folder import ImageFolder
from src.data.own.masks import decode_mask
from src.data.tasks import TASKS, check_targets
from src.models.supervision.losses import cross_entropy
from src.models.unet import UNetNet
from src.storage.configs import select_identifying
from tests.command_line import evaluate, read_weights, run, train_bare

LABELS = ("data=image_folder", "data.root=shapes", "data.labels=labels.csv", "data.size=16", "data.batch_size=15")
MASKS = ("data=image_folder", "data.root=shapes", "data.masks=masks", "data.size=16", "data.batch_size=15")
UNET = ("model=unet", "model.widths=[4,8]", "optimizer.lr=0.01", "data.flip=true", "data.crop=2")


def write_shapes(root: Path, count: int = 60) -> None:
    """Write pictures of a red square, a green one, both or none: the labels, a value and a mask of each."""
    rng, rows = np.random.default_rng(0), []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        pixels, mask = rng.integers(60, 90, (32, 40, 3)).astype(np.uint8), np.zeros((32, 40), np.uint8)
        for number in range(2):
            if index >> number & 1:
                top, left = rng.integers(0, 20), rng.integers(4, 10) + 14 * number
                pixels[top : top + 12, left : left + 12, number] = 250
                mask[top : top + 12, left : left + 12] = number + 1
        Image.fromarray(pixels).save(root / f"images/{index:02}.png")
        Image.fromarray(mask).save(root / f"masks/{index:02}.png")
        rows.append((f"images/{index:02}.png", index & 1, index >> 1 & 1, float((mask > 0).mean())))
    named = [";".join(name for name, each in zip(("red", "green"), row[1:3], strict=True) if each) for row in rows]
    write_rows(root / "labels.csv", "file,labels", zip((row[0] for row in rows), named, strict=True))
    write_rows(root / "columns.csv", "file,green,red", ((row[0], row[2], row[1]) for row in rows))
    write_rows(root / "values.csv", "file,label", ((row[0], row[3]) for row in rows))


def write_rows(path: Path, header: str, rows: Any) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("shapes")
    write_shapes(cwd / "shapes")
    return cwd


def make_data(cwd: Path, **settings: Any) -> ImageFolder:
    given = {"cache": str(cwd / "cache"), "size": 16, "channels": 3, "batch_size": 10, "order_seed": 0}
    data = ImageFolder(str(cwd / "shapes"), **{**given, **settings})
    data.setup()
    return data


def read_predictions(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# Labels


def test_labels_are_learned_and_predicted(shapes: Path) -> None:
    """From a CSV file of labels to predictions for files and an export; a streamed run goes on as a straight one."""
    settings = (*LABELS, "model=cnn", "model.channels=[8,8]", "optimizer.lr=0.01")
    first = train_bare(*settings, "trainer.max_epochs=4", "name=labels", "data.stream=true", cwd=shapes)
    assert "43 images of 2 labels to train on, 8 to validate on, 9 to test on" in first.text
    assert run("src.train", f"resume={first.folder}", "trainer.max_epochs=8", cwd=shapes).code == 0
    straight = train_bare(*settings, "trainer.max_epochs=8", cwd=shapes)
    one, other = read_weights(first.folder), read_weights(straight.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight.metrics["test/acc"] > 0.7
    assert list(straight.metrics["test/acc_per_class"]) == ["green", "red"]
    assert (
        f"test/acc {straight.metrics['test/acc']:.2%}" in evaluate(f"run={first.folder}", "split=test", cwd=shapes).text
    )
    run("src.predict", f"run={first.folder}", "shapes/images", "out=labels.csv", cwd=shapes)
    rows = read_predictions(shapes / "labels.csv")
    assert list(rows[0]) == ["input", "prediction", "probability_green", "probability_red"]
    right = ["|".join(name for name, bit in (("green", 2), ("red", 1)) if index & bit) for index in range(60)]
    assert np.mean([row["prediction"] == wanted for row, wanted in zip(rows, right, strict=True)]) > 0.8
    exported = run("src.export", f"run={first.folder}", "format=torchscript", f"out={shapes}/labels.pt", cwd=shapes)
    assert "on 8 validation samples" in exported.text


def test_forms_of_labels_agree(shapes: Path) -> None:
    """Names with semicolons, columns of 0 and 1, and a line for each label say the same; splits keep combinations."""
    pairs = list(csv.reader((shapes / "shapes/labels.csv").read_text().splitlines()[1:]))
    lines = [(name, label) for name, labels in pairs for label in labels.split(";")]
    write_rows(shapes / "shapes/lines.csv", "file,label", lines)
    one = make_data(shapes, labels="labels.csv")
    for other in (make_data(shapes, labels="columns.csv"), make_data(shapes, labels="lines.csv", task="multilabel")):
        assert one.class_names == other.class_names == ("green", "red") and one.digest == other.digest
        assert torch.equal(one.train_set.targets, other.train_set.targets)
    kinds = [(2 * part.targets[:, 0] + part.targets[:, 1]).bincount().tolist() for part in (one.val_set, one.test_set)]
    assert all(count in (2, 3) for kind in kinds for count in kind)


@pytest.mark.parametrize(
    ("header", "row", "settings", "message"),
    [
        ("file,label", "a;b", {}, r"a;b is several labels with data\.task=multilabel, and one class with"),
        ("file,red,green", "1,2", {}, "line 2 must have a file and 0 or 1 for each label"),
        ("file,label", "big", {"task": "regression"}, "line 2 must have a file and a number as its label"),
        ("file,labels", "a;b", {"task": "regression"}, r"data\.task=regression needs a column label"),
        ("file,label", "a", {"task": "binary"}, r"data\.task=binary: .* has 1 classes, not 2"),
        ("file,labels", "a", {}, "has one class, a, and it takes two"),
        ("file,labels", "a;b", {"masks": "masks"}, r"data\.labels=wrong\.csv has no meaning with data\.masks"),
        ("file,label", "a", {"classes": ["a", "b"]}, r"data\.classes=\[a, b\] names the classes of data\.masks"),
        ("file,label", "a", {"labels": None, "task": "multilabel"}, r"data\.task=multilabel needs a CSV file"),
    ],
)
def test_wrong_labels_are_one_line(header: str, row: str, settings: dict[str, Any], message: str, shapes: Path) -> None:
    (shapes / "shapes/wrong.csv").write_text(f"{header}\nimages/01.png,{row}\n")
    with pytest.raises(InputError, match=message):
        make_data(shapes, **{"labels": "wrong.csv", **settings})


def test_values_are_predicted(shapes: Path) -> None:
    settings = [each.replace("labels.csv", "values.csv") for each in LABELS]
    outcome = train_bare(
        *settings, "data.task=regression", "model=cnn", "model.channels=[4]", "trainer.max_epochs=2", cwd=shapes
    )
    assert outcome.metrics["monitor"] == "val/loss" and outcome.metrics["test/loss"] < 1


def test_older_jobs_keep_their_identity() -> None:
    """Settings that were added later do not tell jobs of image folders apart; a task that is given does."""
    old = {"data._target_": "src.data.image_folder.ImageFolder", "data.root": "birds", "data.labels": None}
    new = {**old, "data.task": None, "data.masks": None, "data.classes": None}
    assert select_identifying(new) == select_identifying(old)
    assert select_identifying({**new, "data.task": "multilabel"}) != select_identifying(old)
    table = {"data._target_": "src.data.table.Table", "data.task": None}
    assert "data.task" in select_identifying(table)  # as always


# Masks


def test_masks_are_learned_and_predicted(shapes: Path) -> None:
    """From a folder of masks to masks of files, drawn, evaluated, exported; a resumed run equals a straight one."""
    named = "data.classes=[ground,red,green]"
    first = train_bare(*MASKS, *UNET, named, "trainer.max_epochs=2", "name=masks", cwd=shapes)
    assert run("src.train", f"resume={first.folder}", "trainer.max_epochs=10", cwd=shapes).code == 0
    settings = (*MASKS, *UNET, named, "trainer.max_epochs=10", "data.stream=true", "callbacks=default")
    straight = train_bare(*settings, cwd=shapes)
    one, other = read_weights(first.folder), read_weights(straight.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    drawn = {path.stem for path in (straight.folder / "figures").iterdir()}
    assert drawn == {"confusion_matrix", "curves", "misclassified", "samples"}
    assert straight.metrics["test/iou"] > 0.6 and list(straight.metrics["test/acc_per_class"]) == [
        "ground",
        "red",
        "green",
    ]
    predicted = run("src.predict", f"run={first.folder}", "split=test", "out=t.csv", "grid=t.png", cwd=shapes)
    assert f"test/acc {straight.metrics['test/acc']:.2%} of 9 samples" in predicted.text
    run("src.predict", f"run={first.folder}", "shapes/images", "shapes/images/03.png", "out=m.csv", cwd=shapes)
    rows = read_predictions(shapes / "m.csv")
    assert list(rows[0]) == ["input", "fraction_ground", "fraction_red", "fraction_green", "mask"]
    masks = [read_mask(shapes / row["mask"]) for row in rows]
    assert rows[-1]["mask"] == "m_masks/03_2.png" and np.array_equal(masks[-1], masks[3])
    assert float(rows[3]["fraction_red"]) == pytest.approx((masks[3] == 1).mean())
    true = decode_mask((shapes / "shapes/masks/03.png").read_bytes(), 16, None)[0]
    assert (masks[3] == true).mean() > 0.8
    exported = run("src.export", f"run={first.folder}", "format=torchscript", f"out={shapes}/masks.pt", cwd=shapes)
    assert "on 8 validation samples" in exported.text


def test_masks_move_with_images(shapes: Path) -> None:
    """Flips and shifts are those of the image; what a shift brings in has no class."""
    data = make_data(shapes, masks="masks", flip=True, crop=3, standardize=False)
    samples = data.train_set.take(slice(0, 20))
    images, masks = data.transform_batch(samples, augment=True)
    red = (images[:, 0] > 0.7) & (images[:, 0] < 1.01)
    for number, mask in enumerate(masks):
        if int((mask == 1).sum()):
            assert (red[number] == (mask == 1)).float().mean() > 0.9
    outside = masks == 255
    assert outside.any() and not images.movedim(1, -1)[outside].any()
    assert not torch.equal(masks, samples.targets.long())
    plain = data.transform_batch(samples)
    assert torch.equal(plain.targets, samples.targets.long())


def test_mask_is_scaled_to_nearest(tmp_path: Path) -> None:
    """A mask keeps its numbers, those of a palette too, and is cropped to the square in its centre."""
    values = np.zeros((8, 16), np.uint8)
    values[:, 4:12], values[:, 12:] = 7, 9
    image = Image.fromarray(values).convert("P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(tmp_path / "mask.png")
    mask = decode_mask((tmp_path / "mask.png").read_bytes(), 4, (16, 8))
    assert mask.shape == (1, 4, 4) and set(np.unique(mask)) == {7}


def test_ignored_pixels_do_not_count() -> None:
    """255 has no class: neither loss nor accuracy nor counts know of it."""
    task, outputs = TASKS["dense"], torch.randn(2, 3, 4, 4)
    targets = torch.randint(3, (2, 4, 4))
    half = targets.clone()
    half[:, :2] = 255
    torch.testing.assert_close(cross_entropy(outputs, half, 0.0), cross_entropy(outputs[:, :, 2:], targets[:, 2:], 0.0))
    predicted = task.predict(outputs)
    assert task.count_correct(predicted, half) == task.count_correct(predicted[:, 2:], targets[:, 2:])
    assert torch.equal(
        task.count_confusion(half, predicted, 3), task.count_confusion(targets[:, 2:], predicted[:, 2:], 3)
    )
    check_targets(half.byte(), "dense", 3, 1)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ("none", {"masks": "nowhere"}, r"data\.masks=nowhere: there is no folder nowhere"),
        ("none", {"masks": "masks", "classes": ["a", "b"]}, "the masks have the class 2, and this names 0 to 1"),
        ("none", {"masks": "masks", "cutout": 4}, r"data\.cutout=4 hides pixels"),
        ("none", {"masks": "masks", "task": "multiclass"}, r"data\.task=multiclass has no meaning with data\.masks"),
        ("colour", {"masks": "masks"}, r"no mask can be used: masks must have one number .* \(20\): masks/00\.png"),
        ("black", {"masks": "masks"}, r"data\.masks: there is one class"),
    ],
)
def test_wrong_masks_are_one_line(change: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", 20)
    for path in (tmp_path / "shapes/masks").iterdir() if change != "none" else ():
        Image.new("RGB" if change == "colour" else "L", (40, 32)).save(path)
    with pytest.raises(InputError, match=message):
        make_data(tmp_path, **settings)


def test_unusable_masks_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """White masks are class 1; those of another size, damaged or without a partner are left out and named."""
    root = tmp_path / "shapes"
    write_shapes(root, 20)
    for path in sorted((root / "masks").iterdir()):
        Image.fromarray(np.where(read_mask(path) > 0, 255, 0).astype(np.uint8)).save(path)
    (root / "masks/00.png").unlink()
    (root / "images/01.png").unlink()
    (root / "masks/02.png").write_bytes(b"none")
    Image.new("L", (20, 20)).save(root / "masks/03.png")
    data = make_data(tmp_path, masks="masks")
    assert data.class_names == ("0", "1") and data.train_set.targets.max() == 1
    sizes = [part.size for part in (data.train_set, data.val_set, data.test_set)]
    assert sum(sizes) == 16
    for line in (
        "images have no mask (1): images/00.png",
        "masks have no image (1): masks/01.png",
        "files are no images (1): masks/02.png",
        "masks have another size than their images (1): masks/03.png",
    ):
        assert f"{root}: {line}" in caplog.messages


def test_unet_sees_far_and_keeps_size() -> None:
    """A pixel's class depends on pixels far away, and sizes that cannot be halved are refused."""
    net = UNetNet((1, 32, 32), 2, (4, 4, 4, 4), 0.5).eval()
    image = torch.rand(1, 1, 32, 32, requires_grad=True)
    outputs = net(image)
    assert outputs.shape == (1, 2, 32, 32)
    outputs[0, 0, 16, 16].backward()
    assert image.grad is not None and (image.grad != 0).any(dim=3).sum() > 20
    with pytest.raises(
        InputError, match="30×32 pixels are no multiple of 8; choose another size of images, such as 32"
    ):
        UNetNet((1, 30, 32), 2, (4, 4, 4, 4), 0.0)
