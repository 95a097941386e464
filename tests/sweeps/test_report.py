"""The report of a sweep: the numbers it shows, that it works at any time and anywhere, and shows all text as text."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from src.errors import InputError
from src.records import write_json
from src.sweeps.report import report
from tests.sweeps import made_job
from tests.sweeps.reports import Page, read

NASTY = "<b>a</b> & </script><script>alert('x')</script> %{x}"


def made(sweep: Path, name: str, *overrides: str, val: float | None = None, test: float = 0.5, **more: Any) -> Path:
    """A job that is chosen by its validation accuracy."""
    metrics = None if val is None else {"val/acc": val, "test/acc": test, "monitor": "val/acc", "mode": "max"}
    return made_job(sweep, name, *overrides, metrics=metrics, **more)


def epochs(*losses: float) -> list[dict[str, float]]:
    """A history with these validation losses."""
    return [{"epoch": epoch, "val/loss": loss, "train/loss": loss / 2} for epoch, loss in enumerate(losses, start=1)]


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two widths × two rates × two seeds; the wide ones with the high rate failed."""
    found = {(4, 0.01): (0.5, 0.7), (4, 0.1): (0.6, 0.6), (8, 0.01): (0.8, 1.0)}
    for number in range(8):
        width, rate, seed = (4, 8)[number // 4], (0.01, 0.1)[number // 2 % 2], number % 2
        typed = (f"model.hidden_size={width}", f"optimizer.lr={rate}", f"seed={seed}", "data=xor")
        if (width, rate) in found:
            val = found[width, rate][seed]
            made(tmp_path / "grid", f"{number}_x", *typed, val=val, test=val - 0.375, history=epochs(0.5, 0.25))
        else:
            made(tmp_path / "grid", f"{number}_x", *typed, status="failed", reason="diverged")
    return tmp_path / "grid"


# Numbers


def test_the_leaderboard_folds_seeds_and_has_the_best_first(grid: Path) -> None:
    assert read(grid).rows[:5] == [
        ["#", "hidden size", "lr", "val/acc", "n", "failed", "runs"],
        ["1", "8", "0.01", "90.00 ± 14.14%", "2", "", "4 5"],
        ["2", "4", "0.01", "60.00 ± 14.14%", "2", "", "0 1"],
        ["3", "4", "0.1", "60.00 ± 0.00%", "2", "", "2 3"],
        ["4", "8", "0.1", "–", "", "2", "6 7"],
    ]


def test_the_test_metric_is_told_once_of_the_chosen_one_alone(grid: Path) -> None:
    page = read(grid)
    assert "Chosen hidden size 8, lr 0.01 val/acc 90.00 ± 14.14% test/acc 52.50 ± 14.14% n = 2" in page.text
    assert page.text.count("test/") == 1
    assert "test/" not in json.dumps(page.data)
    assert "test/" not in taken(page, "runs.csv") + taken(page, "leaderboard.csv")
    assert taken(page, "leaderboard.tex").count("test/") == 1


def test_the_effect_of_a_setting_is_the_mean_and_deviation_at_each_of_its_values(grid: Path) -> None:
    figures = read(grid).figures("scatter")
    assert list(figures) == ["model.hidden_size / val/acc", "optimizer.lr / val/acc"]
    dots, means = figures["model.hidden_size / val/acc"]["data"]
    assert sorted(dots["y"]) == [0.5, 0.6, 0.6, 0.7, 0.8, 1.0]
    assert dots["text"][0] == "0: hidden size 4, lr 0.01, seed 0"
    assert means["x"] == [4, 8]
    assert means["y"] == pytest.approx([0.6, 0.9])
    assert means["error_y"]["array"] == pytest.approx([math.sqrt(0.02 / 3), math.sqrt(0.02)])
    assert means["customdata"][1] == "90.00 ± 14.14% (n = 2)"


def test_runs_that_have_not_finished_take_no_part_in_a_setting_s_effect(grid: Path) -> None:
    for number, status in ((0, "running"), (2, "failed"), (4, "interrupted")):
        write_json(grid / f"{number}_x" / "status.json", {"status": status, "reason": None, "message": None})
    page = read(grid)
    dots, means = page.figures("scatter")["model.hidden_size / val/acc"]["data"]
    assert sorted(dots["y"]) == [0.6, 0.7, 1.0]
    assert means["y"] == pytest.approx([0.65, 1.0])
    (heat,) = page.figures("heatmap").values()
    assert heat["data"][0]["z"] == [[0.7, 1.0], [0.6, None]]


def test_a_rate_lies_on_a_logarithmic_axis_that_tells_where_runs_failed(grid: Path) -> None:
    axis = read(grid).figures("scatter")["optimizer.lr / val/acc"]["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert axis["tickvals"] == pytest.approx([0.01, 0.1])
    assert axis["ticktext"] == ["0.01", "0.1<br>2 failed"]
    assert axis["range"] == pytest.approx([-2.1, -0.9])


def test_a_pair_of_settings_has_the_mean_of_each_two_values(grid: Path) -> None:
    (figure,) = read(grid).figures("heatmap").values()
    (heat,), layout = figure["data"], figure["layout"]
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == ("model.hidden_size", "optimizer.lr")
    assert heat["z"] == [pytest.approx([0.6, 0.9]), [pytest.approx(0.6), None]]
    assert heat["customdata"][0][1] == "model.hidden_size 8<br>optimizer.lr 0.01<br>val/acc 90.00 ± 14.14% (n = 2)"
    assert not heat["reversescale"]


def test_what_is_better_is_brighter_also_where_lower_is_better(tmp_path: Path) -> None:
    for number in range(4):
        metrics = {"val/loss": [1.0, 10.0, 100.0, 1000.0][number], "monitor": "val/loss", "mode": "min"}
        made_job(tmp_path, f"{number}", f"model.a={number // 2}", f"model.b={number % 2}", metrics=metrics)
    (figure,) = read(tmp_path).figures("heatmap").values()
    assert figure["data"][0]["reversescale"]
    assert figure["data"][0]["z"] == [pytest.approx([0, 2]), pytest.approx([1, 3])]  # by their logarithms
    assert figure["data"][0]["text"] == [["1", "100"], ["10", "1e+03"]]


def test_of_many_pairs_the_strongest_are_shown_and_that_is_said(tmp_path: Path) -> None:
    keys = "abcdef"  # 15 pairs
    for number in range(64):
        typed = [f"model.{key}={number >> place & 1}" for place, key in enumerate(keys)]
        made(tmp_path, f"{number}", *typed, val=number / 64)  # each setting twice as strong as the one before
    page = read(tmp_path)
    assert "Shown are 12 of 15 pairs" in page.sections["pairs"]
    shown = list(page.figures("heatmap"))
    assert len(shown) == 12
    assert shown[0] == "model.e / model.f"
    assert "model.a / model.b" not in shown


def test_the_learning_curves_are_those_of_the_histories(grid: Path) -> None:
    curves = read(grid).curves
    assert curves["metrics"] == ["loss"]
    assert curves["epochs"] == [[1, 2]]
    assert curves["runs"][0] == {
        "name": "0: hidden size 4, lr 0.01, seed 0",
        "finished": True,
        "lines": {"train/loss": [0, [0.25, 0.125]], "val/loss": [0, [0.5, 0.25]]},
    }
    groups = {group["title"]: (group["labels"], group["of"]) for group in curves["groups"]}
    assert groups["lr"] == (["0.01", "0.1"], [0, 0, 1, 1, 0, 0])
    assert groups["all settings"][1] == [0, 0, 1, 1, 2, 2]
    assert curves["groups"][0]["title"] == "hidden size"  # it has the strongest effect


def test_long_curves_are_thinned_out_alike_with_their_last_epoch(tmp_path: Path) -> None:
    made(tmp_path, "0", "seed=0", val=0.5, history=epochs(*[1.0] * 1000))
    made(tmp_path, "1", "seed=1", val=0.5, history=epochs(*[1.0] * 50))
    page = read(tmp_path)
    assert page.curves["epochs"] == [[*range(1, 1001, 3)], [*range(1, 50, 3), 50]]
    assert "thinned out to 400 points" in page.text


def test_failures_are_told_with_their_reason_message_and_the_end_of_their_log(grid: Path) -> None:
    write_json(grid / "6_x" / "status.json", {"status": "failed", "reason": "error", "message": "no such <layer>"})
    (grid / "6_x" / "train.log").write_text("\n".join(f"line {number}" for number in range(100)))
    told = read(grid).sections["failures"]
    assert told.startswith("Failures 1 error, 1 diverged error 6: hidden size 8, lr 0.1, seed 0 no such <layer>")
    assert "line 84" not in told and "line 85 line 86" in told and "line 99" in told
    assert "diverged 7: hidden size 8, lr 0.1, seed 1" in told


def test_the_head_tells_where_the_results_come_from(grid: Path) -> None:
    for number, command in ((0, "python -m src.train -m 'a=1,2'"), (1, "python -m src.train -m 'a=1,2' rerun=failed")):
        told = {
            "command": command,
            "started": f"2026-01-0{2 - number}T10:20:30+00:00",
            "git": {"commit": "0123456789abcdef", "dirty": True},
            "python": "3.12.1",
            "packages": {"torch": "2.11"},
            "device": "CPU, 2 threads",
        }
        write_json(grid / f"{number}_x" / "provenance.json", told)
    page = read(grid)
    assert page.text.startswith("grid: report Report of a sweep grid 8 jobs 6 finished 2 failed")
    assert "started 2026-01-01 10:20 UTC" in page.text
    assert "commit 0123456789 with changes device CPU, 2 threads versions Python 3.12.1, torch 2.11" in page.text
    assert "python -m src.train -m 'a=1,2' Copy python -m src.train -m 'a=1,2' rerun=failed Copy" in page.text


def test_the_command_is_that_of_the_sweep_where_no_job_has_started(tmp_path: Path) -> None:
    made_job(tmp_path, "0", "seed=0")
    (tmp_path / "multirun.yaml").write_text("hydra: {overrides: {task: ['seed=0,1', 'name=a b']}}")
    assert "python -m src.train -m seed=0,1 'name=a b'" in read(tmp_path).text


# Tables to take away


def taken(page: Page, name: str) -> str:
    """A file that the page hands out."""
    (link,) = [each for each in page.all("a") if each.get("download") == name]
    return b64decode(link["href"].partition("base64,")[2]).decode()


def test_the_tables_to_take_away_have_the_numbers(grid: Path) -> None:
    page = read(grid)
    best = next(csv.DictReader(io.StringIO(taken(page, "leaderboard.csv"))))
    assert (best["model.hidden_size"], best["n"]) == ("8", "2")
    assert float(best["val/acc mean"]) == pytest.approx(0.9)
    assert float(best["val/acc sd"]) == pytest.approx(math.sqrt(0.02))
    runs = list(csv.DictReader(io.StringIO(taken(page, "runs.csv"))))
    assert [run["val/acc"] for run in runs] == ["0.5", "0.7", "0.6", "0.6", "0.8", "1.0", "", ""]
    assert len((grid / "results.csv").read_text().splitlines()) == 9


def test_the_latex_table_is_ready_for_a_paper(grid: Path) -> None:
    for folder in grid.glob("*_x"):
        notes = json.loads((folder / "job.json").read_text())
        notes["settings"]["model.hidden_size"] = {4: "a_b & 50%", 8: r"{\x}$#^~"}[
            notes["settings"]["model.hidden_size"]
        ]
        write_json(folder / "job.json", notes)
    page = read(grid)
    lines = (grid / "leaderboard.tex").read_text().splitlines()
    assert taken(page, "leaderboard.tex").splitlines() == lines
    start = lines.index(r"\begin{tabular}{lrrr}")
    assert lines[start + 1 : start + 4] == [r"\toprule", r"hidden size & lr & val/acc & n \\", r"\midrule"]
    assert lines[start + 4] == (
        r"\textbf{\{\textbackslash{}x\}\$\#\textasciicircum{}\textasciitilde{}} & \textbf{0.01} & "
        r"\textbf{90.00 $\pm$ 14.14\%} & \textbf{2} \\"
    )
    assert lines[start + 5] == r"a\_b \& 50\% & 0.01 & 60.00 $\pm$ 14.14\% & 2 \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


# Text is text


def test_names_values_and_messages_that_hold_html_show_as_text(tmp_path: Path) -> None:
    sweep = tmp_path / "<i>sweep"
    for number, value in enumerate((NASTY, "plain")):
        made(
            sweep,
            f"{number}",
            f"+model.act=x{number}",
            "+model.b=1",
            settings={"model.act": value},
            val=0.5,
            history=epochs(1),
        )
    folder = made(sweep, "2", "+model.act=y", "+model.b=2", status="failed", reason="<u>bad")
    (folder / "train.log").write_text(NASTY)
    write_json(folder / "provenance.json", {"command": NASTY, "git": {"commit": "<s>"}, "device": "<q>"})
    page = read(sweep)
    assert page.text.count(NASTY) >= 4  # command, leaderboard, runs, the end of a log
    assert {"i", "b", "u", "s", "q"}.isdisjoint(element.tag for element in page.elements)
    assert len(page.scripts) == 2  # plotly's and the page's own
    assert page.text.startswith("<i>sweep: report")


def test_plotly_is_given_no_markup_of_a_sweep(tmp_path: Path) -> None:
    for number, value in enumerate((NASTY, "plain")):
        for b in (0, 1):
            made(
                tmp_path,
                f"{2 * number + b}",
                f"+model.a={number}",
                f"model.b={b}",
                settings={"model.a": value},
                val=0.5,
                history=epochs(1),
            )
    page = read(tmp_path)
    told = json.dumps(page.data).replace("<br>", "").replace("<extra></extra>", "")
    assert "<" not in told
    assert page.figures("scatter")["model.a / val/acc"]["layout"]["xaxis"]["ticktext"][0].startswith(
        "&lt;b&gt;a&lt;/b&gt; &amp;"
    )


# At any time, anywhere


def test_links_are_relative_and_lead_to_the_runs_wherever_the_sweep_lies(grid: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(picture(grid / "4_x", "curves"))
    report([grid])
    moved = Path(shutil.move(grid, tmp_path / "else where" / "mo#ved?"))
    page = Page(moved / "report.html")
    assert {"0_x/", "7_x/", "4_x/figures/curves.png"} <= set(page.links)
    assert all((moved / unquote(link)).exists() for link in page.links)
    assert str(tmp_path) not in page.source
    assert read(moved).text.startswith("mo#ved?")


def picture(folder: Path, name: str) -> Path:
    (folder / "figures").mkdir(exist_ok=True)
    return folder / "figures" / f"{name}.png"


def test_the_page_asks_for_nothing_from_elsewhere(grid: Path) -> None:
    Image.new("RGB", (30, 20)).save(picture(grid / "4_x", "curves"))
    page = read(grid)
    assert not page.all("link")
    assert all("src" not in each for each in page.all("script"))
    assert all(each["src"].startswith("data:image/webp;base64,") for each in page.all("img"))
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none';")
    assert page.source.count("plotly.js v") == 1
    assert 'showSendToCloud: false, plotlyServerURL: ""' in page.scripts[1]  # plotly's button that uploads a plot


def test_a_sweep_that_runs_or_was_killed_has_a_report_so_far(tmp_path: Path) -> None:
    made(tmp_path, "0", "seed=0", "model.a=1", val=0.5, history=epochs(1, 0.5))
    made(tmp_path, "1", "seed=1", "model.a=1", status="running", history=epochs(1))
    made(tmp_path, "2", "seed=0", "model.a=2")
    made(tmp_path, "3", "seed=1", "model.a=2", status="interrupted", reason="killed")
    page = read(tmp_path)
    assert "4 jobs 1 finished 1 interrupted 1 running 1 waiting" in page.text
    assert "before the sweep had ended" in page.text
    assert "Best so far a 1 val/acc 50.00% test/acc 50.00% n = 1" in page.text
    assert "killed 3: seed 1, a 2" in page.sections["failures"]
    assert [len(run["lines"]) for run in page.curves["runs"]] == [2, 2]


def test_a_sweep_in_which_nothing_has_finished_has_a_page_without_plots(tmp_path: Path) -> None:
    for number in range(3):
        made(tmp_path, f"{number}", f"model.a={number}")
    page = read(tmp_path)
    assert "nothing has finished" in page.text
    assert not page.data
    assert set(page.sections) == {"leaderboard", "runs"}


def test_a_single_job_has_a_report_with_its_test(tmp_path: Path) -> None:
    made(tmp_path, "0", "data=xor", val=0.5, test=0.25, history=epochs(1))
    page = read(tmp_path)
    assert "Only one all runs val/acc 50.00% test/acc 25.00% n = 1" in page.text
    assert page.curves["groups"][0]["labels"] == ["finished"]


def test_without_a_validation_set_nothing_is_chosen_and_the_test_is_not_plotted(tmp_path: Path) -> None:
    for number in range(2):
        metrics = {"train/acc": 0.5 + number / 4, "test/acc": 0.1, "monitor": None, "mode": None}
        made_job(tmp_path, f"{number}", f"model.a={number}", metrics=metrics)
    page = read(tmp_path)
    assert "no validation set to choose by" in page.text
    assert "Without a validation set, train/acc is shown" in page.text
    assert "test/" not in page.text + json.dumps(page.data)
    assert page.figures("scatter")["model.a / train/acc"]["data"][1]["y"] == [0.5, 0.75]


def test_where_nothing_but_the_seed_varies_its_effect_is_shown(tmp_path: Path) -> None:
    for seed in range(3):
        made(tmp_path, f"{seed}", f"seed={seed}", val=seed / 4)
    assert read(tmp_path).figures("scatter")["seed / val/acc"]["data"][1]["y"] == [0, 0.25, 0.5]


def test_damaged_files_are_a_line_in_the_page(grid: Path) -> None:
    (grid / "0_x" / "history.csv").write_text("epoch,val/loss\n1,<b>\n")
    (grid / "1_x" / "job.json").write_text("{")
    picture(grid / "4_x", "curves").write_text("none")
    page = read(grid)
    notes = page.text.partition("Could not be read:")[2]
    assert "0_x/history.csv is damaged: could not convert string to float: '<b>'" in notes
    assert "1_x/job.json is damaged: it does not tell a job" in notes
    assert "4_x/figures/curves.png cannot be shown" in notes
    assert "7 jobs" in page.text
    assert [run["name"].partition(":")[0] for run in page.curves["runs"]] == ["2", "3", "4", "5"]


def test_several_data_sets_have_a_leaderboard_and_plots_each(tmp_path: Path) -> None:
    for number in range(4):
        data = ("xor", "gate")[number // 2]
        made(tmp_path, f"{number}", f"data={data}", f"model.a={number % 2}", val=number / 4, test=0.125)
    page = read(tmp_path)
    told = page.sections["leaderboard"]
    assert told.index("xor Chosen") < told.index("a 1 val/acc 25.00%") < told.index("gate Chosen")
    assert told.index("gate Chosen") < told.index("a 1 val/acc 75.00%")
    assert page.text.count("test/acc 12.50%") == 2
    plots = [figure for figure in page.data if "data" in figure]
    assert [figure["data"][1]["y"] for figure in plots] == [[0, 0.25], [0.5, 0.75]]


def test_several_sweeps_are_told_together_with_a_column_of_their_names(tmp_path: Path) -> None:
    for name, values in {"one": (0.25, 0.5), "two": (0.75, 1.0)}.items():
        for number, val in enumerate(values):
            made(tmp_path / name, f"{number}", f"model.a={number}", f"name={name}", "data=xor", val=val)
    page = read(tmp_path / "one", tmp_path / "two")
    assert page.rows[0][:4] == ["#", "sweep", "a", "val/acc"]
    assert page.rows[1][:4] == ["1", "two", "1", "100.00%"]
    assert page.text.startswith("one and two: report")
    assert {"0/", "../two/1/"} <= set(page.links)
    assert page.figures("scatter")["sweep / val/acc"]["data"][1]["y"] == [0.375, 0.875]
    assert not (tmp_path / "two" / "report.html").exists()


# Pictures


def test_pictures_are_shown_of_the_best_first_those_of_the_test_of_the_chosen_alone(grid: Path) -> None:
    for number in (0, 4, 5):
        for name in ("decision_regions", "confusion_matrix"):
            Image.new("RGB", (1300, 100)).save(picture(grid / f"{number}_x", name))
    (grid / "figures").mkdir()
    Image.new("RGB", (300, 100)).save(grid / "figures" / "over_all.png")
    shown = [each["alt"] for each in read(grid).all("img")]
    assert shown == [
        "over all",
        "decision regions of run 4: hidden size 8, lr 0.01, seed 0",
        "decision regions of run 0: hidden size 4, lr 0.01, seed 0",
        "decision regions of run 5: hidden size 8, lr 0.01, seed 1",
        "confusion matrix of run 4: hidden size 8, lr 0.01, seed 0",
        "confusion matrix of run 5: hidden size 8, lr 0.01, seed 1",
    ]


def test_pictures_are_small_and_beyond_the_best_dozen_there_are_links(tmp_path: Path) -> None:
    for number in range(15):
        folder = made(tmp_path, f"{number}", f"seed={number}", val=0.5)
        Image.effect_noise((1300, 650), 50).save(picture(folder, "curves"))
    page = read(tmp_path)
    sources = [each["src"] for each in page.all("img")]
    assert len(sources) == 12
    for source in sources:
        with Image.open(io.BytesIO(b64decode(source.partition("base64,")[2]))) as image:
            assert image.size == (640, 320)
    assert "3 more, by their links" in page.text
    assert {f"{number}/figures/curves.png" for number in range(15)} <= set(page.links)


# Many jobs, the command


def test_a_thousand_jobs_are_written_in_seconds_and_the_page_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # makes the jobs' folders quickly
    for number in range(1000):
        rate, width = 10 ** (-5 + number / 250), (16, 32, 64)[number % 3]
        typed = (f"optimizer.lr={rate:.5g}", f"model.hidden_size={width}", "data=xor")
        history = [{"epoch": e, "train/loss": 1 / e, "val/loss": 1 / e, "val/acc": 0.5} for e in range(1, 101)]
        made(tmp_path, f"{number}", *typed, val=(number % 97) / 97, history=history)
    start = time.process_time()
    path = report([tmp_path])
    assert time.process_time() - start < 30  # it takes 3
    assert path.stat().st_size < 9e6  # 5 of them are plotly
    page = Page(path)
    assert len(page.curves["runs"]) == 1000
    assert "Show all 1000" in page.text
    assert len(page.figures("scatter")["optimizer.lr / val/acc"]["data"][1]["x"]) == 6  # ranges of rates


def test_the_command_writes_the_page_and_tells_where_or_why_not_without_loading_torch(grid: Path) -> None:
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
    assert (wrong.returncode, wrong.stderr) == (1, "error: nothing: no sweep there\n")


def test_a_folder_without_jobs_is_told_and_left_alone(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: there are no jobs in it$"):
        report([grid, tmp_path / "empty"])
    assert not (grid / "report.html").exists()
