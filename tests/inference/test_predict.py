"""python -m src.predict: what a run predicts, for files and for its own samples."""

import csv
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from src.callbacks.figures.predictions import compute_class_probabilities
from src.data.preprocessing import Preprocessing
from src.data.toy import XOR
from src.models.cnn import CNN
from src.models.mlp import MLP
from tests.command_line import Outcome, get_small_image_settings, read_json, run, run_process, train_bare
from tests.small_data import write_mnist

RUN = "run=outputs/runs/digits"


def predict(*arguments: str, cwd: Path) -> Outcome:
    """``python -m src.predict ARGUMENTS``; fails unless it ends well."""
    outcome = run("src.predict", *arguments, cwd=cwd)
    assert outcome.code == 0, outcome.text
    return outcome


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: digits (images), corners (two numbers) and curve (regression); none is perfect."""
    cwd = tmp_path_factory.mktemp("predict")
    write_mnist(cwd / "data")
    images = [*get_small_image_settings("mnist", cwd / "data"), "optimizer.lr=3e-5"]
    train_bare("model=mlp", "name=digits", *images, "trainer.max_epochs=3", "seed=1", cwd=cwd)
    train_bare("model=cnn", "name=convolutions", "model.channels=[4,6]", *images, "trainer.max_epochs=1", cwd=cwd)
    train_bare("name=corners", "data.noise=0.4", "trainer.max_epochs=6", cwd=cwd)
    train_bare("name=curve", "data=cubic", "trainer.max_epochs=3", cwd=cwd)
    return cwd


@pytest.fixture
def digits(place: Path) -> np.ndarray:
    """The test images, uint8 (N, 28, 28)."""
    content = (place / "data/MNIST/raw/t10k-images-idx3-ubyte").read_bytes()
    return np.frombuffer(content[16:], np.uint8).reshape(-1, 28, 28)


@pytest.mark.parametrize("name", ["digits", "corners"])
def test_split_has_accuracy_of_test(name: str, place: Path, tmp_path: Path) -> None:
    """The predictions of the test set agree with its targets as often as the run's own test said."""
    outcome = predict(f"run=outputs/runs/{name}", "split=test", f"out={tmp_path}/all.csv", cwd=place)
    rows, measured = read_rows(tmp_path / "all.csv"), read_json(place / f"outputs/runs/{name}/metrics.json")["test/acc"]
    assert 0.1 < measured < 1
    right = sum(row["target"] == row["prediction"] for row in rows)
    assert np.float32(right / len(rows)) == measured  # as the test counts
    assert f"test/acc {measured:.2%} of {len(rows)} samples" in outcome.out
    assert [row["input"] for row in rows] == [f"test[{index}]" for index in range(len(rows))]


@pytest.mark.parametrize(("name", "kind"), [("digits", MLP), ("convolutions", CNN)])
def test_loaded_model_repeats_outputs(
    name: str, kind: type[MLP | CNN], place: Path, digits: np.ndarray, tmp_path: Path
) -> None:
    """A model from `load_from_checkpoint` is ready to predict: for raw pixels it gives the run's outputs exactly."""
    model = kind.load_from_checkpoint(place / f"outputs/runs/{name}/checkpoints/best.ckpt")
    assert not model.training and model.class_names == tuple("0123456789") and model.preprocessing is not None
    with torch.no_grad():
        outputs = model(model.preprocessing(torch.tensor(digits)[:, None]))
    predict(f"run=outputs/runs/{name}", "split=test", "top=10", f"out={tmp_path}/all.json", cwd=place)
    content: Any = read_json(tmp_path / "all.json")
    found = [[each["probability"] for each in sorted(row["top"], key=lambda top: top["class"])] for row in content]
    assert found == compute_class_probabilities(outputs).tolist()
    assert [row["prediction"] for row in content] == [str(number) for number in outputs.argmax(dim=1).tolist()]


def test_loaded_model_trains_in_training_mode(place: Path) -> None:
    modes = []

    class Watcher(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            modes.append(pl_module.net.training)

    model = MLP.load_from_checkpoint(place / "outputs/runs/corners/checkpoints/best.ckpt")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[Watcher()], **quiet)
    trainer.fit(model, datamodule=XOR(noise=0.1, train_size=20, val_size=10, test_size=10, batch_size=10))
    assert modes == [True, True]


def test_image_file_gives_predictions_of_sample(place: Path, digits: np.ndarray, tmp_path: Path) -> None:
    """A sample as a picture, in colour, or in an array is predicted as the sample itself."""
    folder = tmp_path / "pictures" / "inside"
    folder.mkdir(parents=True)
    for index in range(3):
        Image.fromarray(digits[index]).convert("RGB").save(folder / f"{index}.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    np.save(tmp_path / "some.npy", digits[:3])
    predict(RUN, str(tmp_path / "pictures"), f"{tmp_path}/some.npy", f"out={tmp_path}/files.csv", cwd=place)
    predict(RUN, "split=test", f"out={tmp_path}/all.csv", cwd=place)
    files, samples = read_rows(tmp_path / "files.csv"), read_rows(tmp_path / "all.csv")[:3]
    names = [f"{folder}/{index}.png" for index in range(3)] + [f"{tmp_path}/some.npy[{index}]" for index in range(3)]
    assert [row["input"] for row in files] == names
    for row, sample in zip(files, samples * 2, strict=True):
        assert "target" not in row
        assert row["prediction"] == sample["prediction"]
        for key in ("probability", "probability_2", "probability_3"):
            assert float(row[key]) == pytest.approx(float(sample[key]), rel=1e-6)


def test_any_picture_is_fitted(place: Path, digits: np.ndarray, tmp_path: Path) -> None:
    """A picture of twice the size is made smaller, and one with a border to either side loses it."""
    large = Image.fromarray(digits[0]).resize((56, 56), Image.Resampling.NEAREST)
    wide = Image.new("RGB", (96, 56), "red")
    wide.paste(large, (20, 0))
    large.save(tmp_path / "large.png")
    wide.save(tmp_path / "wide.PNG")
    predict(RUN, f"{tmp_path}/large.png", f"{tmp_path}/wide.PNG", f"out={tmp_path}/out.csv", cwd=place)
    plain, cut = read_rows(tmp_path / "out.csv")
    assert plain["prediction"] == cut["prediction"]
    assert float(plain["probability"]) == pytest.approx(float(cut["probability"]), rel=0.02)


def test_damaged_file_is_named(place: Path, digits: np.ndarray, tmp_path: Path) -> None:
    """Files that cannot be read are named at the end, the others are predicted, and the command fails."""
    Image.fromarray(digits[0]).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    (tmp_path / "c.jpg").write_text("no picture")
    np.save(tmp_path / "d.npy", digits[:2].astype(np.float32))
    np.save(tmp_path / "e.npy", np.zeros((2, 5, 28, 28), np.uint8))
    np.save(tmp_path / "f.npy", np.array([{}], dtype=object), allow_pickle=True)
    outcome = run("src.predict", RUN, str(tmp_path), "nowhere.png", f"out={tmp_path}/out.csv", cwd=place)
    assert outcome.code == 1 and "Traceback" not in outcome.text
    assert outcome.err.splitlines() == [
        f"error: {tmp_path}/a.png cannot be read (damaged)",
        f"error: {tmp_path}/c.jpg cannot be read (no images)",
        f"error: {tmp_path}/d.npy holds float32, and this network takes pixels as uint8, 0 to 255",
        f"error: {tmp_path}/e.npy has the shape 2×5×28×28, and this network takes images H×W×3, H×W or C×H×W, one or"
        " several",
        f"error: {tmp_path}/f.npy is damaged, or no array of numbers",
        "error: nowhere.png does not exist",
    ]
    assert [row["input"] for row in read_rows(tmp_path / "out.csv")] == [f"{tmp_path}/b.png"]


def test_grid_shows_images(place: Path, tmp_path: Path) -> None:
    outcome = predict(RUN, "split=val", f"grid={tmp_path}/grid.png", cwd=place)
    assert f"drawn: {tmp_path}/grid.png (40 of 40 images)" in outcome.out
    with Image.open(tmp_path / "grid.png") as image:
        width, height = image.size
    assert width > 900 and height > 1000


def test_prediction_prints_its_table_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("0,1\n1,1\n")
    outcome = run_process("src.predict", "run=outputs/runs/corners", f"{tmp_path}/points.csv", cwd=place)
    assert outcome.err == "" and len(outcome.out.splitlines()) == 4 and outcome.out.startswith("input ")


def test_rows_of_numbers(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read from a CSV file with or without a header and from standard input; bad lines are named."""
    (tmp_path / "points.csv").write_text("a,b\n0,1\n1,1\n1,x\n\n1,2,3\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("0,1\n1,1\n"))
    outcome = run("src.predict", "run=outputs/runs/corners", f"{tmp_path}/points.csv", "-", "out=rows.json", cwd=place)
    assert outcome.err.splitlines() == [
        f"error: {tmp_path}/points.csv, line 4: not all are numbers; this network takes 2 numbers",
        f"error: {tmp_path}/points.csv, line 6: 3 values; this network takes 2 numbers",
    ]
    content: Any = read_json(place / "rows.json")
    places = [f"{tmp_path}/points.csv:2", f"{tmp_path}/points.csv:3", "standard input:1", "standard input:2"]
    assert [row["input"] for row in content] == places
    assert content[0]["top"] == content[2]["top"] and content[1]["top"] == content[3]["top"]
    assert [len(row["top"]) for row in content] == [2] * 4
    assert sum(each["probability"] for each in content[0]["top"]) == pytest.approx(1)


def test_paths_from_standard_input(
    place: Path, digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(digits[0]).save(tmp_path / "a b.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{tmp_path}/a b.png\n"))
    assert f"{tmp_path}/a b.png" in predict(RUN, "-", cwd=place).out


def test_regression_predicts_values(place: Path, tmp_path: Path) -> None:
    """The mean squared error of the predictions is the loss of the run's validation."""
    predict("run=outputs/runs/curve", "split=val", f"out={tmp_path}/values.csv", cwd=place)
    rows = read_rows(tmp_path / "values.csv")
    assert list(rows[0]) == ["input", "target", "prediction"]
    error = np.mean([(float(row["target"]) - float(row["prediction"])) ** 2 for row in rows])
    assert error == pytest.approx(read_json(place / "outputs/runs/curve/metrics.json")["val/loss"], rel=1e-5)


def test_predictions_need_no_data_set(place: Path, digits: np.ndarray, tmp_path: Path) -> None:
    """The checkpoint carries all that files need: the data set may be gone."""
    shutil.copytree(place / "outputs/runs/digits", tmp_path / "run")
    config = tmp_path / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace(str(place / "data"), "gone"))
    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    assert "a.png" in predict("run=run", "a.png", cwd=tmp_path).out
    assert "lacks train-images" in run("src.predict", "run=run", "split=test", cwd=tmp_path).error


def test_changed_data_are_noticed(place: Path, tmp_path: Path) -> None:
    """If the data set is another than the one that the run was trained on, one line says so."""
    write_mnist(tmp_path, seed=3)
    assert "the data have changed since" in predict(RUN, "split=test", f"paths.data={tmp_path}", cwd=place).out
    assert "the data have changed since" not in predict(RUN, "split=test", cwd=place).out


def test_stacked_jobs_predict(tmp_path: Path) -> None:
    """A job that was trained in a stack predicts as one that was trained alone."""
    (tmp_path / "points.csv").write_text("0,1\n1,1\n")
    train_bare("-m", "hydra/launcher=vectorized", "name=s", "seed=0,1", "trainer.max_epochs=3", cwd=tmp_path)
    train_bare("name=alone", "seed=1", "trainer.max_epochs=3", cwd=tmp_path)
    for name, folder in (("stacked", "sweeps/s/1_seed-1"), ("alone", "runs/alone")):
        predict(f"run=outputs/{folder}", "points.csv", f"out={name}.csv", cwd=tmp_path)
    stacked, alone = (read_rows(tmp_path / f"{name}.csv") for name in ("stacked", "alone"))
    assert [row["prediction"] for row in stacked] == [row["prediction"] for row in alone]
    assert [float(row["probability"]) for row in stacked] == pytest.approx([float(r["probability"]) for r in alone])


NETWORK = """
import lightning, torch

class Network(lightning.LightningModule):
    def __init__(self, in_shape):
        super().__init__()
        self.layer = torch.nn.Linear(*in_shape, 1)

    def forward(self, inputs):
        return self.layer(inputs)

    def training_step(self, batch, index):
        inputs, targets = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(self(inputs)[:, 0], targets.float())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


def test_any_module_predicts(tmp_path: Path) -> None:
    """A module of another package predicts with the names and the preprocessing of its data, if it is trusted."""
    (tmp_path / "ownnetwork.py").write_text(NETWORK)
    (tmp_path / "points.csv").write_text("0,1\n1,1\n")
    train_bare("~model", "+model._target_=ownnetwork.Network", "name=own", "trainer.max_epochs=1", cwd=tmp_path)
    predict("run=outputs/runs/own", "points.csv", "out=all.csv", "trust=ownnetwork", cwd=tmp_path)
    assert {row["prediction"] for row in read_rows(tmp_path / "all.csv")} <= {"0", "1"}
    refused = run("src.predict", "run=outputs/runs/own", "points.csv", "trust=null", cwd=tmp_path).error
    assert "add trust=ownnetwork" in refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("run=outputs/runs/nowhere a.png", "no run there"),
        ("run=outputs/runs/digits", "there is nothing to predict"),
        ("run=outputs/runs/digits a.png split=test", "give only one"),
        ("run=outputs/runs/digits split=all", "split=all must be"),
        ("run=outputs/runs/digits split=test out=a.txt", "out=a.txt must be null or a path that ends in .csv or .json"),
        ("run=outputs/runs/digits split=test grid=a.jpg", "grid=a.jpg must be null or a path that ends in .png"),
        ("run=outputs/runs/corners split=test grid=a.png", "are no images"),
        ("run=outputs/runs/corners rows.csv out=rows.csv", "is one of the files to predict"),
        ("run=outputs/runs/corners robin.png", "robin.png: this network takes 2 numbers"),
        ("run=outputs/runs/digits split=test top=0", "top=0 must be a whole number from 1"),
        ("run=outputs/runs/digits a=b.png", "there is no setting a"),
        ("run=outputs/runs/digits split=test trainer.max_epochs=1", "trainer.max_epochs has no effect in a prediction"),
        ("run=outputs/runs/digits split=test trainer=ddp", "a prediction uses one device"),
        ("run=outputs/runs/digits a.png --out all.csv", "a setting is typed without dashes: out=…"),
        ("a.png", "run=… is missing: the folder of a run"),
        ("outputs/runs/digits split=test", "did you mean run=outputs/runs/digits?"),
    ],
)
def test_wrong_request_is_refused(given: str, words: str, place: Path) -> None:
    assert words in run("src.predict", *given.split(), cwd=place).error


def test_damaged_description_is_refused(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place / "outputs/runs/corners", tmp_path / "run"))
    path = folder / "checkpoints/best.ckpt"
    content = torch.load(path, weights_only=True)
    content["data_description"]["in_shape"] = [2**40]
    torch.save(content, path)
    assert "best.ckpt is damaged" in run("src.predict", f"run={folder}", "split=test", cwd=place).error


def test_link_out_of_run_is_refused(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place / "outputs/runs/corners", tmp_path / "run"))
    (folder / "note.txt").symlink_to(place / "data")
    assert "is a link that leads out of" in run("src.predict", f"run={folder}", "split=test", cwd=place).error


def test_own_folder_predicts_its_images(tmp_path: Path) -> None:
    """A run on a folder of images of unequal sizes says the same of a test image as of its file."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for label, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            (tmp_path / "own" / part / label).mkdir(parents=True)
            for index in range(count):
                noise = rng.integers(0, 55, (20 + 3 * index, 30, 3))
                image = Image.fromarray((noise + colour).astype(np.uint8))
                image.save(tmp_path / "own" / part / label / f"{index}.jpg", quality=95)
    settings = ("data=image_folder", "data.root=own", "data.size=16", "data.val_size=4", "data.batch_size=4")
    train_bare("model=cnn", "model.channels=[4]", *settings, "trainer.max_epochs=2", "name=own", cwd=tmp_path)
    predict("run=outputs/runs/own", "own/test", "out=files.csv", cwd=tmp_path)
    predict("run=outputs/runs/own", "split=test", "out=samples.csv", cwd=tmp_path)
    files, samples = read_rows(tmp_path / "files.csv"), read_rows(tmp_path / "samples.csv")
    assert [row["input"] for row in files] == [
        f"own/test/{label}/{n}.jpg" for label in ("blue", "red") for n in (0, 1, 2)
    ]
    assert [row["prediction"] for row in files] == [row["prediction"] for row in samples]
    expected = [float(row["probability"]) for row in samples]
    assert [float(row["probability"]) for row in files] == pytest.approx(expected, rel=1e-5)


def test_preprocessing_standardizes_features() -> None:
    rows = torch.tensor([[1.0, 20.0], [3.0, 10.0]], dtype=torch.float64)
    assert Preprocessing("values", (1.0, 10.0), (2.0, 5.0))(rows).tolist() == [[0.0, 2.0], [1.0, 0.0]]
