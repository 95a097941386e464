"""The report of a sweep at any time and anywhere: half done, damaged, moved, several together, a thousand jobs."""

import io
import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from src.core.errors import InputError
from src.sweeps.report.write import load_sweeps, write_report
from tests.sweeps import made_job
from tests.sweeps.reports import Page, epochs, make_accuracy_job, read_report

# At any time, anywhere


def test_links_survive_moving_the_sweep(grid: Path, tmp_path: Path) -> None:
    """The links are relative and lead to the runs even after the sweep was moved."""
    Image.new("RGB", (30, 20)).save(picture(grid / "4_x", "curves"))
    write_report(load_sweeps([grid]))
    moved = Path(shutil.move(grid, tmp_path / "else where" / "mo#ved?"))
    page = Page(moved / "report.html")
    assert {"0_x/", "7_x/", "4_x/figures/curves.png"} <= set(page.links)
    assert all((moved / unquote(link)).exists() for link in page.links)
    assert str(tmp_path) not in page.source
    assert read_report(moved).text.startswith("mo#ved?")


def picture(folder: Path, name: str) -> Path:
    (folder / "figures").mkdir(exist_ok=True)
    return folder / "figures" / f"{name}.png"


def test_page_loads_nothing_external(grid: Path) -> None:
    Image.new("RGB", (30, 20)).save(picture(grid / "4_x", "curves"))
    page = read_report(grid)
    assert not page.all("link")
    assert all("src" not in each for each in page.all("script"))
    assert all(each["src"].startswith("data:image/webp;base64,") for each in page.all("img"))
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none';")
    assert page.source.count("plotly.js v") == 1
    assert 'showSendToCloud: false, plotlyServerURL: ""' in page.scripts[1]  # plotly's button that uploads a plot


def test_unfinished_sweep_has_interim_report(tmp_path: Path) -> None:
    """A sweep that is running or was killed has a report of its results so far."""
    make_accuracy_job(tmp_path, "0", "seed=0", "model.a=1", val=0.5, history=epochs(1, 0.5))
    make_accuracy_job(tmp_path, "1", "seed=1", "model.a=1", status="running", history=epochs(1))
    make_accuracy_job(tmp_path, "2", "seed=0", "model.a=2")
    make_accuracy_job(tmp_path, "3", "seed=1", "model.a=2", status="interrupted", reason="killed")
    page = read_report(tmp_path)
    assert "4 jobs 1 finished 1 interrupted 1 running 1 waiting" in page.text
    assert "before the sweep ended" in page.text
    assert "Best so far a 1 val/acc 50.00% test/acc 50.00% n = 1" in page.text
    assert "killed 3: seed 1, a 2" in page.sections["failures"]
    assert [len(run["lines"]) for run in page.curves["runs"]] == [2, 2]


def test_no_finished_run_gives_no_plots(tmp_path: Path) -> None:
    """If no run has finished, the page has no plots."""
    for number in range(3):
        make_accuracy_job(tmp_path, f"{number}", f"model.a={number}")
    page = read_report(tmp_path)
    assert "no run has finished" in page.text
    assert not page.data
    assert set(page.sections) == {"leaderboard", "runs"}


def test_single_job_report_shows_test(tmp_path: Path) -> None:
    """The report of a single job shows its test metrics."""
    make_accuracy_job(tmp_path, "0", "data=xor", val=0.5, test=0.25, history=epochs(1))
    page = read_report(tmp_path)
    assert "Only candidate all runs val/acc 50.00% test/acc 25.00% n = 1" in page.text
    assert page.curves["groups"][0]["labels"] == ["finished"]


def test_without_validation_nothing_is_chosen(tmp_path: Path) -> None:
    """Without a validation set nothing is chosen, and the test metrics are not plotted."""
    for number in range(2):
        metrics = {"train/acc": 0.5 + number / 4, "test/acc": 0.1, "monitor": None, "mode": None}
        made_job(tmp_path, f"{number}", f"model.a={number}", metrics=metrics)
    page = read_report(tmp_path)
    assert "no validation set to rank by" in page.text
    assert "Without a validation set, train/acc is shown" in page.text
    assert "test/" not in page.text + json.dumps(page.data)
    assert page.figures("scatter")["model.a / train/acc"]["data"][1]["y"] == [0.5, 0.75]


def test_unmeasured_monitor_falls_back_to_training(tmp_path: Path) -> None:
    """If no run has measured its monitor, the training metrics are shown."""
    for number in range(4):
        metrics = {"train/acc": number / 4, "test/acc": 0.1, "monitor": "val/acc", "mode": "max", "best": None}
        made_job(tmp_path, f"{number}", f"model.a={number // 2}", f"seed={number % 2}", metrics=metrics)
    page = read_report(tmp_path)
    assert "no run has measured val/acc: there is nothing to rank by" in page.text
    assert "No run has measured val/acc, train/acc is shown; do not choose a setting by it." in page.text
    assert page.figures("scatter")["model.a / train/acc"]["data"][1]["y"] == [0.125, 0.625]
    assert "test/" not in page.text + json.dumps(page.data)


def test_damaged_runs_are_reported(grid: Path) -> None:
    """Damaged runs are listed with their errors, and the other runs are shown."""
    (grid / "0_x" / "metrics.json").write_text('{"val/acc": "<b>"}')
    (grid / "1_x" / "provenance.json").write_text('{"git": "0f"}')
    (grid / "4_x" / "status.json").unlink()
    told: list[str] = []
    page = Page(write_report(load_sweeps([grid]), warn=told.append))
    assert told == [
        f'{grid}/0_x/metrics.json is damaged: val/acc is "<b>" and must be a finite number',
        f"{grid}/4_x/status.json is missing, although metrics.json exists",
        f'{grid}/1_x/provenance.json is damaged: git is "0f" and must be a mapping',
    ]
    assert all(line in page.text for line in told)
    assert "8 jobs 4 finished 2 failed 2 damaged" in page.text
    assert page.rows[1][:6] == ["1", "8", "0.01", "100.00%", "1", ""]
    assert "metrics.json 0: hidden size 4, lr 0.01, seed 0" in page.sections["failures"]


def test_all_damaged_jobs_give_a_page(grid: Path) -> None:
    """If all jobs are damaged, there is still a page, which says so."""
    for path in grid.glob("*/job.json"):
        path.write_text("[]")
    page = read_report(grid)
    assert "8 jobs 8 damaged" in page.text
    assert page.text.count("job.json is damaged: it is a list and must be a mapping") == 16
    assert not page.figures("scatter") and not page.figures("heatmap")


def test_seed_effect_shown_if_nothing_else_varies(tmp_path: Path) -> None:
    """If only the seed varies, its effect is shown."""
    for seed in range(3):
        make_accuracy_job(tmp_path, f"{seed}", f"seed={seed}", val=seed / 4)
    assert read_report(tmp_path).figures("scatter")["seed / val/acc"]["data"][1]["y"] == [0, 0.25, 0.5]


def test_damaged_files_are_listed_on_page(grid: Path) -> None:
    """Each damaged file is reported in a line of the page."""
    (grid / "0_x" / "history.csv").write_text("epoch,val/loss\n1,<b>\n")
    (grid / "1_x" / "job.json").write_text("{")
    picture(grid / "4_x", "curves").write_text("none")
    page = read_report(grid)
    notes = page.text.partition("Could not be read or drawn:")[2]
    assert '0_x/history.csv is damaged: val/loss in line 2 is "<b>" and must be a number' in notes
    assert "1_x/job.json is damaged: it is not JSON" in notes
    assert "4_x/figures/curves.png cannot be shown" in notes
    assert "8 jobs 5 finished 2 failed 1 damaged" in page.text
    assert "job.json 1: 1_x" in page.sections["failures"]
    assert [run["name"].partition(":")[0] for run in page.curves["runs"]] == ["2", "3", "4", "5"]


def test_each_data_set_has_own_leaderboard(tmp_path: Path) -> None:
    """Each of several data sets has its own leaderboard and plots."""
    for number in range(4):
        data = ("xor", "gate")[number // 2]
        make_accuracy_job(tmp_path, f"{number}", f"data={data}", f"model.a={number % 2}", val=number / 4, test=0.125)
    page = read_report(tmp_path)
    told = page.sections["leaderboard"]
    assert told.index("xor Chosen") < told.index("a 1 val/acc 25.00%") < told.index("gate Chosen")
    assert told.index("gate Chosen") < told.index("a 1 val/acc 75.00%")
    assert page.text.count("test/acc 12.50%") == 2
    plots = [figure for figure in page.data if "data" in figure]
    assert [figure["data"][1]["y"] for figure in plots] == [[0, 0.25], [0.5, 0.75]]


def test_several_sweeps_share_one_report(tmp_path: Path) -> None:
    """Several sweeps share one report, with a column for their names."""
    for name, values in {"one": (0.25, 0.5), "two": (0.75, 1.0)}.items():
        for number, val in enumerate(values):
            make_accuracy_job(tmp_path / name, f"{number}", f"model.a={number}", f"name={name}", "data=xor", val=val)
    page = read_report(tmp_path / "one", tmp_path / "two")
    assert page.rows[0][:4] == ["#", "sweep", "a", "val/acc"]
    assert page.rows[1][:4] == ["1", "two", "1", "100.00%"]
    assert page.text.startswith("one and two: report")
    assert {"0/", "../two/1/"} <= set(page.links)
    assert page.figures("scatter")["sweep / val/acc"]["data"][1]["y"] == [0.375, 0.875]
    assert not (tmp_path / "two" / "report.html").exists()


# Pictures


def test_images_follow_ranking(grid: Path) -> None:
    """Figures are shown best run first, those of the test only for the chosen runs."""
    for number in (0, 4, 5):
        for name in ("decision_regions", "confusion_matrix"):
            Image.new("RGB", (1300, 100)).save(picture(grid / f"{number}_x", name))
    (grid / "figures").mkdir()
    Image.new("RGB", (300, 100)).save(grid / "figures" / "over_all.png")
    shown = [each["alt"] for each in read_report(grid).all("img")]
    assert shown == [
        "over all",
        "decision regions of run 4: hidden size 8, lr 0.01, seed 0",
        "decision regions of run 0: hidden size 4, lr 0.01, seed 0",
        "decision regions of run 5: hidden size 8, lr 0.01, seed 1",
        "confusion matrix of run 4: hidden size 8, lr 0.01, seed 0",
        "confusion matrix of run 5: hidden size 8, lr 0.01, seed 1",
    ]


def test_images_are_small_and_limited(tmp_path: Path) -> None:
    """Figures are scaled down; beyond the best twelve there are only links."""
    for number in range(15):
        folder = make_accuracy_job(tmp_path, f"{number}", f"seed={number}", val=0.5)
        Image.effect_noise((1300, 650), 50).save(picture(folder, "curves"))
    page = read_report(tmp_path)
    sources = [each["src"] for each in page.all("img")]
    assert len(sources) == 12
    for source in sources:
        with Image.open(io.BytesIO(b64decode(source.partition("base64,")[2]))) as image:
            assert image.size == (640, 320)
    assert "3 more, as links" in page.text
    assert {f"{number}/figures/curves.png" for number in range(15)} <= set(page.links)


def test_repeated_figure_has_epoch_slider(grid: Path) -> None:
    """A figure that was drawn several times has a slider over its epochs."""
    for number, epochs_drawn in ((0, (1, 11)), (4, range(1, 100, 10)), (5, ())):
        Image.new("L", (900, 90)).save(picture(grid / f"{number}_x", "fit"))
        for epoch in epochs_drawn:
            path = grid / f"{number}_x" / "figures" / "fit" / f"{epoch}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (900, 90), 2 * epoch).save(path)
    page = read_report(grid)
    (slider,) = [each for each in page.all("input") if "data-epochs" in each]
    shown = [1, 11, 31, 51, 61, 81]  # of ten six
    assert (json.loads(slider["data-epochs"]), slider["max"], slider["value"]) == (shown, "6", "6")
    images = [(each["alt"].partition(":")[0], each.get("data-epoch"), "hidden" in each) for each in page.all("img")]
    assert images == [
        *(("fit of run 4", f"{epoch}", True) for epoch in shown),
        ("fit of run 4", None, False),
        ("fit of run 0", "1", True),
        ("fit of run 0", "11", True),
        ("fit of run 0", None, False),
        ("fit of run 5", None, False),
    ]


def test_earlier_images_have_size_budget(tmp_path: Path) -> None:
    """Figures of earlier epochs have a limited total size, which the best runs use first."""
    for number in range(6):
        folder = make_accuracy_job(tmp_path, f"{number}", f"model.a={number}", val=number / 8)
        Image.new("L", (330, 330)).save(picture(folder, "fit"))
        (folder / "figures" / "fit").mkdir()
        for epoch in (1, 2):
            Image.effect_noise((150, 150), 60).save(folder / "figures" / "fit" / f"{epoch}.png")
    earlier = [each for each in read_report(tmp_path).all("img") if "data-epoch" in each]
    assert [each["alt"].split(":")[0] for each in earlier[:2]] == ["fit of run 5"] * 2
    assert len(earlier) < 12 and sum(len(each["src"]) for each in earlier) <= 100_000


def test_differing_images_precede_identical_ones(grid: Path) -> None:
    """Figures that differ between runs come before those that are the same in all."""
    for number in (0, 4):
        Image.new("L", (8, 8), 50 * number).save(picture(grid / f"{number}_x", "first_layer"))
        Image.new("L", (8, 8)).save(picture(grid / f"{number}_x", "augmented_batch"))
    assert [each["alt"].split(" of ")[0] for each in read_report(grid).all("img")][::2] == [
        "first layer",
        "augmented batch",
    ]


# Many jobs, the command


def test_page_of_thousand_jobs_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # makes the jobs' folders quickly
    for number in range(1000):
        rate, width = 10 ** (-5 + number / 250), (16, 32, 64)[number % 3]
        typed = (f"optimizer.lr={rate:.5g}", f"model.hidden_size={width}", "data=xor")
        history = [{"epoch": e, "train/loss": 1 / e, "val/loss": 1 / e, "val/acc": 0.5} for e in range(1, 101)]
        make_accuracy_job(tmp_path, f"{number}", *typed, val=(number % 97) / 97, history=history)
    path = write_report(load_sweeps([tmp_path]))
    assert path.stat().st_size < 9e6  # 5 of them are plotly
    page = Page(path)
    assert len(page.curves["runs"]) == 1000
    assert "Show all 1000" in page.text
    assert len(page.figures("scatter")["optimizer.lr / val/acc"]["data"][1]["x"]) == 6  # ranges of rates


def test_command_prints_path_without_importing_torch(grid: Path) -> None:
    """The command writes the page and prints its path or an error, without importing torch."""
    code = "import sys; from src.report import main; main(); print('torch' in sys.modules)"

    def run(folder: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parents[2])
        env = {**os.environ, "PYTHONPATH": root}
        return subprocess.run(
            [sys.executable, "-c", code, folder], cwd=grid.parent, env=env, capture_output=True, text=True
        )

    done = run("grid")
    assert done.stdout.splitlines() == ["grid/report.html", "False"]
    wrong = run("nothing")
    assert (wrong.returncode, wrong.stderr) == (1, "error: nothing is not a sweep's folder\n")


def test_folder_without_jobs_raises_error(grid: Path, tmp_path: Path) -> None:
    """A folder without jobs is reported, and no report is written."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: it contains no jobs$"):
        write_report(load_sweeps([grid, tmp_path / "empty"]))
    assert not (grid / "report.html").exists()
