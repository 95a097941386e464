"""Pictures that the runs of a sweep have left undrawn: the command of the report draws them, the sweep tells how."""

import os
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from lightning import Callback
from omegaconf import OmegaConf
from PIL import Image

from src.callbacks.figures.base import FigureCallback
from src.sweeps.report.reading import read_sweeps
from src.sweeps.report.undrawn import NON_DRAWING_CALLBACKS, find_runs_without_figures
from src.sweeps.report.write import load_sweeps, write_report
from tests.command_line import CONF, Outcome, run
from tests.sweeps.reports import Page, make_accuracy_job, read_report

SWEEP = ("-m", "data=xor", "model.hidden_size=2,3", "seed=0,1", "trainer.max_epochs=1", "name=x", "logger=none")
SWEEP_FOLDER = "outputs/sweeps/x"
HINT = "of the best runs have not been drawn yet. Draw them with: python -m src.report"


# Whose pictures there are to draw


def make_trained_job(sweep: Path, number: int, seed: int = 0, callback: str = "curves.Curves", **more: object) -> Path:
    """A job that has kept its weights and has that callback; the higher its number the better."""
    settings = {"callbacks.some._target_": f"src.callbacks.{callback}"}
    typed = (f"model.a={number}", f"seed={seed}")
    folder = make_accuracy_job(
        sweep, f"{number + 20 * seed}_{seed}", *typed, val=number / 100, settings=settings, **more
    )
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def add_figure(folder: Path) -> None:
    (folder / "figures").mkdir()
    Image.new("RGB", (30, 20)).save(folder / "figures" / "curves.png")


def list_runs_to_draw(sweep: Path) -> list[str]:
    return [run.folder.name for run in find_runs_without_figures(read_sweeps([sweep]))]


def test_best_runs_are_drawn(tmp_path: Path) -> None:
    """The figures of the best dozen rows are drawn, and those of all seeds of the best one."""
    for number in range(20):
        make_trained_job(tmp_path, number)
    for seed in (1, 2):
        make_trained_job(tmp_path, 19, seed)
    assert list_runs_to_draw(tmp_path) == [*(f"{number}_0" for number in range(19, 7, -1)), "39_1", "59_2"]


def test_runs_with_figures_are_not_redrawn(tmp_path: Path) -> None:
    """Runs that have figures count among the best and are not drawn again."""
    for number in range(20):
        folder = make_trained_job(tmp_path, number)
        if number % 2:
            add_figure(folder)
    assert list_runs_to_draw(tmp_path) == [f"{number}_0" for number in (18, 16, 14, 12, 10, 8)]


def test_undrawable_runs_give_way_to_others(tmp_path: Path) -> None:
    """Runs that cannot have figures leave their places to others."""
    for number in range(14):
        make_trained_job(tmp_path, number)
    for number, status in enumerate(("failed", "running", "interrupted"), start=14):
        make_trained_job(tmp_path, number, status=status)
    make_trained_job(tmp_path, 17, callback="progress.Progress")
    (make_trained_job(tmp_path, 18) / "checkpoints" / "last.ckpt").unlink()
    assert list_runs_to_draw(tmp_path) == [f"{number}_0" for number in range(13, 1, -1)]


def test_drawing_callbacks_are_known_by_name() -> None:
    targets = {
        settings._target_
        for path in (CONF / "callbacks").glob("*.yaml")
        for name, settings in OmegaConf.load(path).items()
        if name != "defaults"
    }
    for target in targets:
        module, name = target.rsplit(".", 1)
        draws = issubclass(getattr(import_module(module), name), FigureCallback)
        assert draws != target.startswith(NON_DRAWING_CALLBACKS), target


# The page and the command


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a sweep of four runs with their pictures lies."""
    cwd = tmp_path_factory.mktemp("swept")
    outcome = run("src.train", *SWEEP, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert HINT not in Page(cwd / SWEEP_FOLDER / "report.html").text
    return cwd


@pytest.fixture
def cwd(swept: Path, tmp_path: Path) -> Path:
    """The same, without the pictures."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    for folder in list_figure_folders(tmp_path):
        shutil.rmtree(folder)
    return tmp_path


def list_figure_folders(cwd: Path) -> list[Path]:
    """The runs' folders of pictures, in the order of the runs' numbers."""
    return sorted((cwd / SWEEP_FOLDER).glob("*/figures"))


def run_report(cwd: Path, *arguments: str, code: int = 0) -> tuple[Outcome, Page]:
    outcome = run("src.report", SWEEP_FOLDER, *arguments, cwd=cwd)
    assert outcome.code == code, outcome.text
    assert outcome.out == f"{SWEEP_FOLDER}/report.html\n"
    return outcome, Page(cwd / SWEEP_FOLDER / "report.html")


def test_report_command_draws_figures_once(swept: Path, cwd: Path) -> None:
    """The report's command draws missing figures once and shows them."""
    outcome, page = run_report(cwd)
    assert outcome.err.splitlines() == [f"drawing the figures of 4 runs: {done}/4" for done in (0, 4)]
    assert HINT not in page.text and "Could not be" not in page.text
    for before, after in zip(list_figure_folders(swept), list_figure_folders(cwd), strict=True):
        assert sorted(path.name for path in before.glob("*.png")) == sorted(os.listdir(after)) != []
        for path in after.iterdir():
            np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(before / path.name)))
    curves = [each["alt"] for each in page.all("img") if each["alt"].startswith("curves")]
    assert len(curves) == 4
    times = {path: path.stat().st_mtime_ns for folder in list_figure_folders(cwd) for path in folder.iterdir()}
    assert run_report(cwd)[0].err == ""
    assert times == {path: path.stat().st_mtime_ns for folder in list_figure_folders(cwd) for path in folder.iterdir()}


def test_sweep_prints_command_instead_of_drawing(cwd: Path) -> None:
    """The sweep itself draws no figures; its report gives the command that does."""
    outcome = run("src.train", *SWEEP, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert not list_figure_folders(cwd)
    page = Page(cwd / SWEEP_FOLDER / "report.html")
    assert f"The figures of 4 {HINT} {SWEEP_FOLDER} Copy" in page.sections["pictures"]
    assert HINT not in read_report(cwd / SWEEP_FOLDER).sections["leaderboard"]


def test_undrawable_runs_are_listed(cwd: Path) -> None:
    """A run that cannot be drawn is a line in the report, and the others are drawn."""
    first, second, third, _ = sorted((cwd / SWEEP_FOLDER).glob("[0-9]_*"))
    config = OmegaConf.load(third / ".hydra" / "config.yaml")
    config.callbacks.curves = {"_target_": "os._exit", "status": 3}
    OmegaConf.save(config, third / ".hydra" / "config.yaml")
    (first / "checkpoints" / "best.ckpt").write_bytes(b"none")
    (second / ".hydra" / "config.yaml").unlink()
    outcome, page = run_report(cwd, code=1)
    notes = page.text.partition("Could not be read or drawn:")[2]
    assert f"{SWEEP_FOLDER}/{first.name}: its figures cannot be drawn: checkpoint " in notes
    assert "best.ckpt is truncated or not a checkpoint (" in notes
    assert f"{SWEEP_FOLDER}/{second.name}: its figures cannot be drawn: run=" in notes
    assert f"{SWEEP_FOLDER}/{third.name}: its figures cannot be drawn: " in notes
    assert "callbacks.curves._target_=os._exit is not trusted" in notes
    assert {line.partition(": its figures")[0] for line in outcome.err.splitlines()[-3:]} == {
        f"error: {SWEEP_FOLDER}/{folder.name}" for folder in (first, second, third)
    }
    assert len(list_figure_folders(cwd)) == 1
    assert HINT not in page.text


class Exit(Callback):
    """Ends the process that makes it."""

    def __init__(self) -> None:
        os._exit(3)


def test_crash_while_drawing_is_reported(cwd: Path) -> None:
    first, *others = sorted((cwd / SWEEP_FOLDER).glob("[0-9]_*"))
    for folder in others:
        add_figure(folder)
    config = OmegaConf.load(first / ".hydra" / "config.yaml")
    config.callbacks.curves = {"_target_": "tests.sweeps.test_undrawn.Exit"}
    OmegaConf.save(config, first / ".hydra" / "config.yaml")
    _, page = run_report(cwd, "trust=tests", code=1)
    assert f"{first.name}: its figures cannot be drawn: A process in the process pool was terminated" in page.text


def test_command_names_all_sweeps(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of several sweeps gives one command that draws the figures of all of them."""
    monkeypatch.chdir(cwd)
    shutil.copytree(SWEEP_FOLDER, "a b")
    page = Page(write_report(load_sweeps([Path(SWEEP_FOLDER), Path("a b")])))
    assert f"The figures of 8 {HINT} {SWEEP_FOLDER} 'a b' Copy" in page.sections["pictures"]
