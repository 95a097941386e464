"""A sweep added up: its pictures as it ends, and all of it again by ``python -m src.compare``."""

import csv
import logging
import shlex
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.storage.files import write_json
from src.sweeps.figures.callback import DrawFigures
from tests.command_line import BARE, Outcome, evaluate, read_json, run, train
from tests.sweeps import made_job

PICTURES = "hydra.callbacks.pictures.pictures"
BASIC = "hydra/launcher=basic"  # in this process
SCORES = "{_target_:src.sweeps.figures.base.Scores,metric:test/acc}"


def compare(folder: Path) -> Outcome:
    return run("src.compare", str(folder), cwd=folder.parent)


def read_image_sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """The pictures in a sweep's events of TensorBoard, each with the size of the one that was drawn last."""
    events = EventAccumulator(str(folder)).Reload()
    images = {tag: events.Images(tag)[-1] for tag in events.Tags()["images"]}
    return {tag: (image.width, image.height) for tag, image in images.items()}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a sweep preset of two short runs, without a name of its own, and what it told."""
    cwd = tmp_path_factory.mktemp("sweep")
    outcome = train("sweep=pulse", "recipe.max_epochs=1", BASIC, *BARE, cwd=cwd)
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    return folder, outcome


@pytest.fixture
def sweep(ended: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of that sweep's folder somewhere else."""
    return shutil.copytree(ended[0], tmp_path / "moved here")


def make_sweep_folder(folder: Path, pictures: object) -> Path:
    """A sweep's folder, of a sweep that was started with these pictures."""
    folder.mkdir(exist_ok=True)
    OmegaConf.save({"hydra": {"callbacks": {"pictures": {"pictures": pictures}}}}, folder / "multirun.yaml")
    return folder


# As a sweep ends


def test_preset_writes_figures_and_tensorboard_images(ended: tuple[Path, Outcome]) -> None:
    """A sweep preset leaves its figures in the sweep's folder and in TensorBoard."""
    folder, outcome = ended
    assert [path.name for path in (folder / "figures").iterdir()] == ["panels.png"]
    with Image.open(folder / "figures" / "panels.png") as picture:
        assert read_image_sizes(folder) == {"visuals/panels": picture.size}
    (told,) = [line for line in outcome.text.splitlines() if "figure: " in line]
    assert Path(told.split("figure: ")[1]).parts[-5:] == ("outputs", "sweeps", folder.name, "figures", "panels.png")


def test_figure_error_keeps_results_and_figures(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A figure that cannot be drawn affects neither the results nor the other figures."""
    missing = f"++{PICTURES}.panels={{_target_:src.sweeps.figures.base.ImageGrid,picture:nothing}}"
    scores = f"+{PICTURES}.scores={SCORES}"
    outcome = train("sweep=pulse", "recipe.max_epochs=1", BASIC, missing, scores, *BARE, cwd=tmp_path)
    folder = outcome.folders[0].parent
    jobs = sorted(folder.glob("*/status.json"))
    assert [read_json(job)["status"] for job in jobs] == ["finished", "finished"]
    assert [path.name for path in (folder / "figures").iterdir()] == ["scores.png"]
    (told,) = [line for line in outcome.text.splitlines() if "error: " in line]
    relative = folder.relative_to(tmp_path)
    assert told.endswith(
        f"error: {relative}/figures/panels.png cannot be drawn: none of the 2 runs has the figure figures/nothing.png "
        f"(try again: python -m src.compare {relative})"
    )
    assert not [warning for warning in recwarn if "Callback" in str(warning.message)]


def test_errors_at_sweep_end_are_single_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each error that occurs when a sweep ends is reported in one line."""
    made_job(tmp_path, "0", metrics={"test/acc": 1.0})
    pictures = {"a": {"_target_": "src.sweeps.nothing.Here"}, "b": {"_target_": "src.sweeps.figures.base.Scores"}}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with caplog.at_level(logging.INFO):
        DrawFigures(pictures).on_multirun_end(config)
        (tmp_path / "0" / "metrics.json").unlink()
        DrawFigures(pictures).on_multirun_end(config)
    first, second, third = caplog.messages
    told = "figure a: src.sweeps.nothing.Here cannot be created (ImportError: Error loading"
    assert first.startswith(f"error: {tmp_path}/figures/a.png cannot be drawn: {told}")
    assert second.startswith(f"error: {tmp_path}/figures/b.png cannot be drawn: none of the 1 runs has the metric")
    assert third == f"error: {tmp_path}: it contains no runs with metrics (try again: python -m src.compare {tmp_path})"
    assert not any("\n" in told for told in caplog.messages)


# Again


def list_written_files(outcome: Outcome) -> list[str]:
    """The files that ``python -m src.compare`` tells below its table."""
    return outcome.out.split("\n\n")[-1].splitlines()


def test_compare_reproduces_results_and_figures(sweep: Path) -> None:
    """The compare command summarises the results and redraws identical figures."""
    path = sweep / "figures" / "panels.png"
    before = path.read_bytes()
    shutil.rmtree(sweep / "figures")
    outcome = compare(sweep)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("\nmoved here: 2 jobs, 2 finished\n\nbest first by val/acc, higher is better\n")
    (best,) = [line for line in outcome.out.splitlines() if line.startswith("chosen: hidden size ")]
    assert "test/acc" in best and "(n = 1)" in best
    assert list_written_files(outcome) == [str(sweep / "results.csv"), str(path)]
    assert path.read_bytes() == before
    assert list(read_image_sizes(sweep)) == ["visuals/panels"]
    with (sweep / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["status"], row["model.hidden_size"], row["folder"]) for row in rows] == [
        ("0", "finished", "1", "0_hidden_size-1"),
        ("1", "finished", "2", "1_hidden_size-2"),
    ]
    for row in rows:
        metrics = read_json(sweep / row["folder"] / "metrics.json")
        assert [float(row[name]) for name in ("val/acc", "test/loss")] == [metrics["val/acc"], metrics["test/loss"]]


def test_suggested_command_evaluates_chosen_run(sweep: Path) -> None:
    """The command printed below the table evaluates the chosen run."""
    (line,) = [line for line in compare(sweep).out.splitlines() if "evaluate it:" in line]
    (argument,) = shlex.split(line.split("src.eval")[1])
    folder = Path(argument.removeprefix("run="))
    metrics = read_json((sweep.parent / folder) / "metrics.json")
    assert f"val/acc {metrics['val/acc']:.2%}" in evaluate(argument, cwd=sweep.parent).out


def test_compare_summarises_incomplete_sweep(sweep: Path) -> None:
    """The compare command summarises the available results of a sweep that stopped early."""
    (sweep / "1_hidden_size-2" / "metrics.json").unlink()
    write_json(sweep / "1_hidden_size-2" / "status.json", {"status": "failed", "reason": "killed", "message": None})
    make_sweep_folder(sweep, {"scores": {"_target_": "src.sweeps.figures.base.Scores", "metric": "test/acc"}})
    outcome = compare(sweep)
    assert (outcome.code, outcome.out.splitlines()[1]) == (0, "moved here: 2 jobs, 1 finished, 1 failed")
    assert list_written_files(outcome) == [str(sweep / "results.csv"), str(sweep / "figures" / "scores.png")]


def test_compare_draws_remaining_figures(tmp_path: Path) -> None:
    """If a figure cannot be drawn, the compare command reports it and draws the others."""
    scores = "src.sweeps.figures.base.Scores"
    pictures = {
        "none_has_it": {"_target_": scores, "metric": "test/f1"},
        "strange": {"_target_": scores, "metric": "test/acc", "colour": "red"},
        "good": {"_target_": scores, "metric": "test/acc"},
    }
    made_job(make_sweep_folder(tmp_path / "mine", pictures), "0", metrics={"test/acc": 1.0})
    outcome = compare(tmp_path / "mine")
    figures = tmp_path / "mine" / "figures"
    assert (outcome.code, list_written_files(outcome)[1:]) == (1, [f"{figures}/good.png"])
    assert [path.name for path in figures.iterdir()] == ["good.png"]
    assert outcome.err.splitlines() == [
        f"error: {figures}/none_has_it.png cannot be drawn: none of the 1 runs has the metric test/f1",
        f"error: {figures}/strange.png cannot be drawn: figure strange.colour: {scores} has no such setting",
    ]


@pytest.mark.parametrize("content", ["hydra: {}\n", "hydra:\n  callbacks:\n    pictures:\n      pictures: {}\n"])
def test_compare_handles_sweep_without_figures(tmp_path: Path, content: str) -> None:
    """A sweep without figures still gets its table and results.csv."""
    folder = made_job(tmp_path / "mine", "0", "seed=0", metrics={"val/acc": 0.5, "monitor": "val/acc"}).parent
    (folder / "multirun.yaml").write_text(content)
    outcome = compare(folder)
    assert (outcome.code, outcome.err, list_written_files(outcome)) == (0, "", [str(folder / "results.csv")])
    assert not (folder / "figures").exists()


def test_missing_checkpoint_is_reported(sweep: Path) -> None:
    shutil.rmtree(sweep / "0_hidden_size-1" / "checkpoints")
    assert compare(sweep).error == (
        f"error: {sweep}/figures/panels.png cannot be drawn: checkpoint {sweep}/0_hidden_size-1/checkpoints/best.ckpt "
        "does not exist: the run has not finished an epoch"
    )


def test_folder_without_sweep_is_reported(sweep: Path) -> None:
    """A folder that does not exist or is not a sweep's is reported."""
    for folder in (sweep / "nowhere", sweep / "0_hidden_size-1"):
        assert compare(folder).error == f"error: {folder} is not a sweep's folder ({folder}/multirun.yaml is missing)"


def test_missing_and_damaged_jobs_are_reported(sweep: Path, tmp_path: Path) -> None:
    """A sweep without jobs or with a damaged job is reported."""
    empty = make_sweep_folder(tmp_path / "empty", {})
    assert compare(empty).error == f"error: {empty}: it contains no jobs"
    (sweep / "0_hidden_size-1" / "job.json").write_text("{")
    assert compare(sweep).error.startswith(f"error: {sweep}/0_hidden_size-1/job.json is damaged: ")


def test_damaged_sweep_settings_are_reported(sweep: Path) -> None:
    """A damaged multirun.yaml is reported."""
    (sweep / "multirun.yaml").write_text("hydra: {\n")
    assert compare(sweep).error.startswith(f"error: {sweep}/multirun.yaml is damaged: ")


def test_missing_metrics_are_reported_below_table(sweep: Path) -> None:
    """If no run has metrics, the error about the figures follows the table."""
    for path in sweep.glob("*/metrics.json"):
        path.unlink()
    outcome = compare(sweep)
    *damaged, last = outcome.err.splitlines()
    assert damaged == [
        f"error: {path.parent}/metrics.json is missing, although the run has finished"
        for path in sorted(sweep.glob("*/job.json"))
    ]
    assert last == f"error: {sweep}: it contains no runs with metrics"
    assert outcome.out.startswith("\nmoved here: 2 jobs, 2 damaged\n")
    assert (sweep / "results.csv").is_file()
