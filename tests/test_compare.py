"""A sweep's pictures: drawn as it ends, drawn again by ``python -m src.compare``, or why they cannot be."""

import logging
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.sweeps.drawing import DrawPictures
from tests.command_line import BARE, Outcome, read_json, run, train
from tests.sweeps import made_job

PICTURES = "hydra.callbacks.pictures.pictures"
SCORES = "{_target_:src.sweeps.pictures.Scores,metric:test/acc}"


def compare(folder: Path) -> Outcome:
    return run("src.compare", str(folder), cwd=folder.parent)


def shown(folder: Path) -> dict[str, tuple[int, int]]:
    """The pictures in a sweep's events of TensorBoard, each with the size of the one that was drawn last."""
    events = EventAccumulator(str(folder)).Reload()
    images = {tag: events.Images(tag)[-1] for tag in events.Tags()["images"]}
    return {tag: (image.width, image.height) for tag, image in images.items()}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a sweep preset of two short runs, without a name of its own, and what it told."""
    cwd = tmp_path_factory.mktemp("sweep")
    outcome = train("sweep=pulse", "recipe.max_epochs=1", *BARE, cwd=cwd)
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    return folder, outcome


@pytest.fixture
def sweep(ended: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of that sweep's folder somewhere else."""
    return shutil.copytree(ended[0], tmp_path / "moved here")


def with_pictures(folder: Path, pictures: object) -> Path:
    """A sweep's folder, of a sweep that was started with these pictures."""
    folder.mkdir(exist_ok=True)
    OmegaConf.save({"hydra": {"callbacks": {"pictures": {"pictures": pictures}}}}, folder / "multirun.yaml")
    return folder


# As a sweep ends


def test_a_sweep_preset_leaves_its_pictures_in_its_folder_and_in_tensorboard(ended: tuple[Path, Outcome]) -> None:
    folder, outcome = ended
    assert [path.name for path in (folder / "figures").iterdir()] == ["panels.png"]
    with Image.open(folder / "figures" / "panels.png") as picture:
        assert shown(folder) == {"figures/panels": picture.size}
    (told,) = [line for line in outcome.text.splitlines() if "picture: " in line]
    assert Path(told.split("picture: ")[1]).parts[-5:] == ("outputs", "sweeps", folder.name, "figures", "panels.png")


def test_a_picture_that_cannot_be_drawn_costs_neither_the_results_nor_the_other_pictures(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    missing = f"++{PICTURES}.panels={{_target_:src.sweeps.pictures.Gallery,picture:nothing}}"
    outcome = train("sweep=pulse", "recipe.max_epochs=1", missing, f"+{PICTURES}.scores={SCORES}", *BARE, cwd=tmp_path)
    folder = outcome.folders[0].parent
    jobs = sorted(folder.glob("*/status.json"))
    assert [read_json(job)["status"] for job in jobs] == ["finished", "finished"]
    assert [path.name for path in (folder / "figures").iterdir()] == ["scores.png"]
    (told,) = [line for line in outcome.text.splitlines() if "error: " in line]
    relative = folder.relative_to(tmp_path)
    assert told.endswith(
        f"error: {relative}/figures/panels.png cannot be drawn: none of the 2 runs has a picture figures/nothing.png "
        f"(try again: python -m src.compare {relative})"
    )
    assert not [warning for warning in recwarn if "Callback" in str(warning.message)]


def test_whatever_goes_wrong_as_a_sweep_ends_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made_job(tmp_path, "0", metrics={"test/acc": 1.0})
    pictures = {"a": {"_target_": "src.sweeps.nothing.Here"}, "b": {"_target_": "src.sweeps.pictures.Scores"}}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with caplog.at_level(logging.INFO):
        DrawPictures(pictures).on_multirun_end(config)
        (tmp_path / "0" / "metrics.json").unlink()
        DrawPictures(pictures).on_multirun_end(config)
    first, second, third = caplog.messages
    assert first.startswith(f"error: {tmp_path}/figures/a.png cannot be drawn: InstantiationException: Error locating")
    assert second.startswith(f"error: {tmp_path}/figures/b.png cannot be drawn: InstantiationException: Error in call")
    assert (
        third
        == f"error: {tmp_path}: there are no runs with metrics in it (try again: python -m src.compare {tmp_path})"
    )
    assert not any("\n" in told for told in caplog.messages)


# Again


def test_compare_draws_the_same_pictures_again(sweep: Path) -> None:
    path = sweep / "figures" / "panels.png"
    before = path.read_bytes()
    shutil.rmtree(sweep / "figures")
    outcome = compare(sweep)
    assert (outcome.code, outcome.out) == (0, f"{path}\n")
    assert path.read_bytes() == before
    assert list(shown(sweep)) == ["figures/panels"]


def test_compare_draws_what_is_there_of_a_sweep_that_stopped(sweep: Path) -> None:
    shutil.rmtree(sweep / "1_hidden_size-2")
    with_pictures(sweep, {"scores": {"_target_": "src.sweeps.pictures.Scores", "metric": "test/acc"}})
    assert compare(sweep).out == f"{sweep / 'figures' / 'scores.png'}\n"


def test_compare_draws_the_other_pictures_where_one_cannot_be(tmp_path: Path) -> None:
    scores = "src.sweeps.pictures.Scores"
    pictures = {
        "none_has_it": {"_target_": scores, "metric": "test/f1"},
        "strange": {"_target_": scores, "metric": "test/acc", "colour": "red"},
        "good": {"_target_": scores, "metric": "test/acc"},
    }
    made_job(with_pictures(tmp_path / "mine", pictures), "0", metrics={"test/acc": 1.0})
    outcome = compare(tmp_path / "mine")
    figures = tmp_path / "mine" / "figures"
    assert (outcome.code, outcome.out) == (1, f"{figures}/good.png\n")
    assert [path.name for path in figures.iterdir()] == ["good.png"]
    assert outcome.err.splitlines() == [
        f"error: {figures}/none_has_it.png cannot be drawn: none of the 1 runs has the metric test/f1",
        f"error: {figures}/strange.png cannot be drawn: picture strange.colour: {scores} takes no such setting",
    ]


def test_a_lost_checkpoint_is_told(sweep: Path) -> None:
    shutil.rmtree(sweep / "0_hidden_size-1" / "checkpoints")
    assert compare(sweep).error == (
        f"error: {sweep}/figures/panels.png cannot be drawn: checkpoint {sweep}/0_hidden_size-1/checkpoints/best.ckpt "
        "does not exist: the run has not finished an epoch"
    )


def test_a_folder_that_is_not_there_or_not_of_a_sweep_is_told(sweep: Path) -> None:
    for folder in (sweep / "nowhere", sweep / "0_hidden_size-1"):
        assert compare(folder).error == f"error: {folder}: no sweep there ({folder}/multirun.yaml is missing)"


def test_a_sweep_without_pictures_is_told(tmp_path: Path) -> None:
    told = "was swept without pictures: those of conf/sweep have them"
    assert compare(with_pictures(tmp_path / "empty", {})).error == f"error: {tmp_path}/empty {told}"
    (tmp_path / "empty" / "multirun.yaml").write_text("hydra: {}\n")
    assert compare(tmp_path / "empty").error == f"error: {tmp_path}/empty {told}"


def test_a_sweep_whose_settings_are_damaged_is_told(sweep: Path) -> None:
    (sweep / "multirun.yaml").write_text("hydra: {\n")
    assert compare(sweep).error.startswith(f"error: {sweep}/multirun.yaml is damaged: ")


def test_a_sweep_without_metrics_is_told(sweep: Path) -> None:
    for path in sweep.glob("*/metrics.json"):
        path.unlink()
    assert compare(sweep).error == f"error: {sweep}: there are no runs with metrics in it"
