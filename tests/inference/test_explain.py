"""What explains a finished run: python -m src.predict … explain=true, and python -m src.eval … callbacks=explain."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.core import extras
from tests.command_line import evaluate, get_small_image_settings, run, train_bare
from tests.small_data import write_image, write_mnist

RUN = "run=outputs/runs/digits"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a convolutional network, and one of a network whose outputs have no gradient."""
    cwd = tmp_path_factory.mktemp("explain")
    write_mnist(cwd / "data")
    settings = [*get_small_image_settings("mnist", cwd / "data"), "trainer.max_epochs=1"]
    train_bare("model=cnn", "name=digits", "model.channels=[4,6]", *settings, cwd=cwd)
    train_bare("model=nearest_neighbor", "name=neighbors", *settings, cwd=cwd)
    return cwd


@pytest.mark.parametrize(("given", "name"), [("", "explained.png"), (" grid=own.png", "own.png")])
def test_prediction_is_explained_beside_image(given: str, name: str, place: Path) -> None:
    """In colours, beside the image, which is grey here."""
    write_image(place / "photo.png", (200, 20, 20), seed=0)
    outcome = run("src.predict", *f"{RUN} photo.png explain=true{given}".split(), cwd=place)
    assert outcome.code == 0, outcome.text
    assert f"drawn: {name} (1 of 1 images; next to each what its prediction rests on: Grad-CAM)" in outcome.out
    with Image.open(place / name) as drawn:
        assert drawn.width > 1.5 * drawn.height
        colourful = np.ptp(np.asarray(drawn.convert("RGB")).astype(int), axis=2).max(axis=0) > 50  # by column
    assert not colourful[: drawn.width // 2].any() and colourful[drawn.width // 2 :].any()


def test_evaluation_draws_explanations(place: Path) -> None:
    """A finished run gets the figures that it was not trained with."""
    folder = place / "outputs/runs/digits"
    assert not (folder / "figures").exists()
    outcome = evaluate(RUN, "split=test", "callbacks=explain", "callbacks.embedding.count=50", cwd=place)
    assert "drawn: outputs/runs/digits/figures" in outcome.out
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert {"reliability", "saliency", "embedding", "confusion_matrix"} <= drawn
    assert np.loadtxt(folder / "projector/tensors.tsv").shape[0] == 50
    assert "projector/sprite.png" in (folder / "projector_config.pbtxt").read_text()
    assert str(place) not in (folder / "projector_config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "src.predict run=outputs/runs/neighbors split=test explain=true",
            "have no gradient, so nothing explains them",
        ),
        (f"src.predict {RUN} split=test explain=yes.png", "explain=yes.png must be true or false"),
        (f"src.predict {RUN} explained.png explain=true", "explained.png is one of the files to predict"),
        (f"src.eval {RUN} callbacks=explain", "callbacks=… draws figures of the test set: add split=test"),
        (f"src.eval {RUN} split=test callbacks=explained", "there is no such"),
        (
            f"src.eval {RUN} split=test callbacks=explain callbacks.embedding.count=1",
            "callbacks.embedding.count=1 must",
        ),
    ],
)
def test_wrong_explanation_is_refused(given: str, words: str, place: Path) -> None:
    module, *arguments = given.split()
    assert words in run(module, *arguments, cwd=place).error


def test_missing_captum_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for request in ("src.predict explain=true", "src.eval callbacks=explain"):
        module, setting = request.split()
        error = run(module, RUN, "split=test", setting, cwd=place).error
        assert "needs the package captum, which is not installed: " in error and ".[explain]" in error
