"""The report of a sweep: the numbers it shows, and that it shows all text as text."""

import csv
import io
import json
import math
from base64 import b64decode
from pathlib import Path

import pytest

from src.storage.files import write_json
from tests.sweeps import made_job
from tests.sweeps.reports import NASTY, Page, epochs, make_accuracy_job, read_report

# Numbers


def test_leaderboard_merges_seeds_best_first(grid: Path) -> None:
    """The leaderboard combines seeds into one row and lists the best first."""
    assert read_report(grid).rows[:5] == [
        ["#", "hidden size", "lr", "val/acc", "95% interval (t)", "n", "failed", "more runs", "runs"],
        ["=1", "8", "0.01", "90.00 ± 14.14%", "0 to 100%", "2", "", "", "4 5"],
        ["=1", "4", "0.01", "60.00 ± 14.14%", "0 to 100%", "2", "", "1", "0 1"],
        ["=1", "4", "0.1", "60.00 ± 0.00%", "", "2", "", "2", "2 3"],
        ["4", "8", "0.1", "–", "", "", "2", "", "6 7"],
    ]


def test_test_metric_appears_only_for_chosen(grid: Path) -> None:
    """The test metric appears once, for the chosen setting only."""
    page = read_report(grid)
    assert "Chosen hidden size 8, lr 0.01 val/acc 90.00 ± 14.14% test/acc 52.50 ± 14.14% n = 2" in page.text
    assert "95% interval of the mean: val/acc 0 to 100%, test/acc 0 to 100%." in page.text
    assert page.text.count("test/") == 2
    assert "its test metrics were read only afterwards (those of all runs are in results.csv)" in page.text
    assert (grid / "results.csv").read_text().splitlines()[0].count("test/acc") == 1
    assert "test/" not in json.dumps(page.data)
    assert "test/" not in decode_download(page, "runs.csv") + decode_download(page, "leaderboard.csv")
    table = [line for line in decode_download(page, "leaderboard.tex").splitlines() if " & " in line]
    assert [line.split(" & ")[-1] for line in table] == [
        r"test/acc \\",
        r"\textbf{52.50 $\pm$ 14.14\%} \\",
        r" \\",
        r" \\",
        r" \\",
    ]


def test_effect_shows_mean_and_deviation(grid: Path) -> None:
    """The effect of a setting is the mean and standard deviation at each of its values."""
    figures = read_report(grid).figures("scatter")
    assert list(figures) == ["model.hidden_size / val/acc", "optimizer.lr / val/acc"]
    dots, means = figures["model.hidden_size / val/acc"]["data"]
    assert sorted(dots["y"]) == [0.5, 0.6, 0.6, 0.7, 0.8, 1.0]
    assert dots["text"][0] == "0: hidden size 4, lr 0.01, seed 0"
    assert means["x"] == [4, 8]
    assert means["y"] == pytest.approx([0.6, 0.9])
    assert means["error_y"]["arrayminus"] == pytest.approx([math.sqrt(0.02 / 3), math.sqrt(0.02)])
    assert means["error_y"]["array"] == pytest.approx([math.sqrt(0.02 / 3), 0.1])  # an accuracy ends at 100%
    assert figures["model.hidden_size / val/acc"]["layout"]["yaxis"]["autorangeoptions"] == {"clipmin": 0, "clipmax": 1}
    assert means["customdata"][1] == "90.00 ± 14.14% (n = 2)"


def test_effects_use_only_finished_runs(grid: Path) -> None:
    """Runs that have not finished do not count in the effect of a setting."""
    for number, status in ((0, "running"), (2, "failed"), (4, "interrupted")):
        write_json(grid / f"{number}_x" / "status.json", {"status": status, "reason": None, "message": None})
    page = read_report(grid)
    dots, means = page.figures("scatter")["model.hidden_size / val/acc"]["data"]
    assert sorted(dots["y"]) == [0.6, 0.7, 1.0]
    assert means["y"] == pytest.approx([0.65, 1.0])
    (heat,) = page.figures("heatmap").values()
    assert heat["data"][0]["z"] == [[0.7, 1.0], [0.6, None]]


def test_learning_rate_axis_is_logarithmic(grid: Path) -> None:
    """A learning rate has a logarithmic axis whose labels count the failed runs."""
    axis = read_report(grid).figures("scatter")["optimizer.lr / val/acc"]["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert axis["tickvals"] == pytest.approx([0.01, 0.1])
    assert axis["ticktext"] == ["0.01", "0.1<br>2 failed"]
    assert axis["range"] == pytest.approx([-2.1, -0.9])


def test_pair_shows_mean_per_combination(grid: Path) -> None:
    """The heat map of two settings shows the mean for each pair of their values."""
    (figure,) = read_report(grid).figures("heatmap").values()
    (heat,), layout = figure["data"], figure["layout"]
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == ("model.hidden_size", "optimizer.lr")
    assert heat["z"] == [pytest.approx([0.6, 0.9]), [pytest.approx(0.6), None]]
    assert heat["customdata"][0][1] == "model.hidden_size 8<br>optimizer.lr 0.01<br>val/acc 90.00 ± 14.14% (n = 2)"
    assert not heat["reversescale"]


def test_better_cells_are_brighter(tmp_path: Path) -> None:
    """The better cells are brighter, also if lower is better."""
    for number in range(4):
        metrics = {"val/loss": [1.0, 10.0, 100.0, 1000.0][number], "monitor": "val/loss", "mode": "min"}
        made_job(tmp_path, f"{number}", f"model.a={number // 2}", f"model.b={number % 2}", metrics=metrics)
    (figure,) = read_report(tmp_path).figures("heatmap").values()
    assert figure["data"][0]["reversescale"]
    assert figure["data"][0]["z"] == [pytest.approx([0, 2]), pytest.approx([1, 3])]  # by their logarithms
    assert figure["data"][0]["text"] == [["1", "100"], ["10", "1e+03"]]


def test_diverged_value_does_not_stretch_plots(tmp_path: Path) -> None:
    """A diverged value does not stretch the plots, but is marked and counted."""
    for number in range(12):
        value = 1e30 if number == 11 else 0.25 + number / 16
        history = [{"epoch": epoch, "val/loss": value * 2 / epoch} for epoch in (1, 2)]
        typed = (f"model.a={number // 6}", f"model.b={number // 2 % 3}", f"seed={number % 2}")
        made_job(
            tmp_path,
            f"{number}",
            *typed,
            metrics={"val/loss": value, "monitor": "val/loss", "mode": "min"},
            history=history,
        )
    page = read_report(tmp_path)
    effect = page.figures("scatter")["model.a<br>1 run far above / val/loss"]
    dots, far, far_mean, means = effect["data"]
    low, high = effect["layout"]["yaxis"]["range"]
    assert 0.15 < low < 0.25 and 0.875 < high < 1.0 and "type" not in effect["layout"]["yaxis"]
    assert (max(dots["y"]), means["y"][1]) == (1e30, pytest.approx(1e30 / 6))  # in their places after a double click
    assert (far["text"], far["customdata"], far["y"]) == (["11: a 1, b 2, seed 1"], ["1e+30"], [0.97])
    assert (far_mean["marker"]["symbol"], far_mean["yaxis"], far_mean["x"]) == ("triangle-up", "y2", [1])
    assert means["error_y"]["array"] == [pytest.approx(0.1169, abs=1e-4), 0]
    (heat,) = page.figures("heatmap").values()
    assert heat["layout"]["xaxis"]["title"]["text"] == "model.a<br>1 mean far above"
    assert heat["data"][0]["z"][2][1] == heat["data"][0]["z"][1][1] == pytest.approx(0.78125)  # as the worst in sight
    assert heat["data"][0]["text"][2][1] == "5e+29"
    loss = page.curves["axes"][0]["loss"]
    assert loss["beyond"] == "Beyond this axis: 1 run far above."
    assert 1.75 < loss["axis"]["range"][1] < 2.1


def test_only_strongest_pairs_are_shown(tmp_path: Path) -> None:
    """Of many pairs only the strongest are shown, and the page says so."""
    keys = "abcdef"  # 15 pairs
    for number in range(64):
        typed = [f"model.{key}={number >> place & 1}" for place, key in enumerate(keys)]
        make_accuracy_job(
            tmp_path, f"{number}", *typed, val=number / 64
        )  # each setting twice as strong as the one before
    page = read_report(tmp_path)
    assert "12 of 15 pairs are shown" in page.sections["pairs"]
    shown = list(page.figures("heatmap"))
    assert len(shown) == 12
    assert shown[0] == "model.e / model.f"
    assert "model.a / model.b" not in shown


def test_learning_curves_match_histories(grid: Path) -> None:
    curves = read_report(grid).curves
    assert curves["metrics"] == ["loss"]
    assert curves["epochs"] == [[1, 2]]
    assert curves["runs"][0] == {
        "name": "0: hidden size 4, lr 0.01, seed 0",
        "data": 0,
        "seconds": None,
        "finished": True,
        "lines": {"train/loss": [0, [0.25, 0.125]], "val/loss": [0, [0.5, 0.25]]},
    }
    groups = {group["title"]: (group["labels"], group["of"]) for group in curves["groups"]}
    assert groups["lr"] == (["0.01", "0.1"], [0, 0, 1, 1, 0, 0])
    assert groups["all settings"][1] == [0, 0, 1, 1, 2, 2]
    assert curves["groups"][0]["title"] == "hidden size"  # it has the strongest effect


def test_curves_have_axes_per_data_set(tmp_path: Path) -> None:
    """The curves of each data set have their own axes, and each run has its time per epoch."""
    for number, (data, losses) in enumerate({"xor": (1.0, 0.5), "gate": (80.0, 40.0)}.items()):
        metrics = {"val/loss": losses[-1], "monitor": "val/loss", "mode": "min", "seconds": 3.0, "epochs": number + 1}
        history = [{"epoch": 1.0, "val/loss": losses[0], **({"val/acc": 0.5} if data == "xor" else {})}]
        made_job(
            tmp_path, f"{number}", f"data={data}", metrics=metrics | {"epochs": 1, "seconds": 3.0}, history=history
        )
    page = read_report(tmp_path)
    assert page.curves["data"] == ["xor", "gate"]
    assert [list(axes) for axes in page.curves["axes"]] == [["loss", "acc"], ["loss"]]
    assert [(run["data"], run["seconds"]) for run in page.curves["runs"]] == [(0, 3.0), (1, 3.0)]
    assert [each["name"] for each in page.all("select")][:2] == ["data", "metric"]


def test_long_curves_are_subsampled(tmp_path: Path) -> None:
    """Long curves are subsampled at regular epochs and keep their last one."""
    make_accuracy_job(tmp_path, "0", "seed=0", val=0.5, history=epochs(*[1.0] * 1000))
    make_accuracy_job(tmp_path, "1", "seed=1", val=0.5, history=epochs(*[1.0] * 50))
    page = read_report(tmp_path)
    assert page.curves["epochs"] == [[*range(1, 1001, 3)], [*range(1, 50, 3), 50]]
    assert "subsampled to 400 points" in page.text


def test_failures_show_reason_message_and_log(grid: Path) -> None:
    """Each failure is listed with its reason, its message and the end of its log."""
    write_json(grid / "6_x" / "status.json", {"status": "failed", "reason": "error", "message": "no such <layer>"})
    (grid / "6_x" / "train.log").write_text("\n".join(f"line {number}" for number in range(100)))
    told = read_report(grid).sections["failures"]
    assert told.startswith("Failures 1 error, 1 diverged error 6: hidden size 8, lr 0.1, seed 0 no such <layer>")
    assert "line 84" not in told and "line 85 line 86" in told and "line 99" in told
    assert "diverged 7: hidden size 8, lr 0.1, seed 1" in told


def test_header_shows_provenance(grid: Path) -> None:
    """The header shows the commands, commit, device and versions of the results."""
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
    page = read_report(grid)
    assert page.text.startswith("grid: report Report of a sweep grid 8 jobs 6 finished 2 failed")
    assert "started 2026-01-01 10:20 UTC" in page.text
    assert "commit 0123456789 with changes device CPU, 2 threads versions Python 3.12.1, torch 2.11" in page.text
    assert "python -m src.train -m 'a=1,2' Copy python -m src.train -m 'a=1,2' rerun=failed Copy" in page.text


def test_unstarted_sweep_shows_its_command(tmp_path: Path) -> None:
    """If no job has started, the page shows the sweep's own command."""
    made_job(tmp_path, "0", "seed=0")
    (tmp_path / "multirun.yaml").write_text("hydra: {overrides: {task: ['seed=0,1', 'name=a b']}}")
    assert "python -m src.train -m seed=0,1 'name=a b'" in read_report(tmp_path).text


# Tables to take away


def decode_download(page: Page, name: str) -> str:
    """A file that the page hands out."""
    (link,) = [each for each in page.all("a") if each.get("download") == name]
    return b64decode(link["href"].partition("base64,")[2]).decode()


def test_downloads_contain_the_numbers(grid: Path) -> None:
    """The tables for download contain the unrounded numbers."""
    page = read_report(grid)
    best = next(csv.DictReader(io.StringIO(decode_download(page, "leaderboard.csv"))))
    assert (best["model.hidden_size"], best["n"]) == ("8", "2")
    assert float(best["val/acc mean"]) == pytest.approx(0.9)
    assert float(best["val/acc sd"]) == pytest.approx(math.sqrt(0.02))
    runs = list(csv.DictReader(io.StringIO(decode_download(page, "runs.csv"))))
    assert [run["val/acc"] for run in runs] == ["0.5", "0.7", "0.6", "0.6", "0.8", "1.0", "", ""]
    assert len((grid / "results.csv").read_text().splitlines()) == 9


def test_latex_table_is_ready_for_paper(grid: Path) -> None:
    """The LaTeX table can be included in a paper as it is."""
    for folder in grid.glob("*_x"):
        notes = json.loads((folder / "job.json").read_text())
        notes["settings"]["model.hidden_size"] = {4: "a_b & 50%", 8: r"{\x}$#^~"}[
            notes["settings"]["model.hidden_size"]
        ]
        write_json(folder / "job.json", notes)
    page = read_report(grid)
    lines = (grid / "leaderboard.tex").read_text().splitlines()
    assert decode_download(page, "leaderboard.tex").splitlines() == lines
    start = lines.index(r"\begin{tabular}{rlrrrrr}")
    names = r"\# & hidden size & lr & val/acc & 95\% interval (t) & n & test/acc \\"
    assert lines[start + 1 : start + 4] == [r"\toprule", names, r"\midrule"]
    assert lines[start + 4] == (
        r"\textbf{=1} & \textbf{\{\textbackslash{}x\}\$\#\textasciicircum{}\textasciitilde{}} & \textbf{0.01} & "
        r"\textbf{90.00 $\pm$ 14.14\%} & \textbf{0 to 100\%} & \textbf{2} & \textbf{52.50 $\pm$ 14.14\%} \\"
    )
    assert lines[start + 5] == r"=1 & a\_b \& 50\% & 0.01 & 60.00 $\pm$ 14.14\% & 0 to 100\% & 2 &  \\"
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    assert lines[1:5] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{grid on xor: best first by val/acc, higher is better; mean $\pm$ standard deviation of n runs. "
        r"=1: 3 settings that cannot be told from the best at 5\% (paired by seed or fold, corrected for all pairs). "
        r"Bold: chosen by the validation set. test/acc of the chosen row only.}",
        r"\label{tab:grid}",
    ]


def test_latex_tables_have_unique_labels(tmp_path: Path) -> None:
    sweep = tmp_path / "my sweep_1"
    for number, data in enumerate(("xor", "fashion_mnist")):
        make_accuracy_job(sweep, f"{number}", f"data={data}", val=0.5)
    read_report(sweep)
    labels = [line for line in (sweep / "leaderboard.tex").read_text().splitlines() if "label" in line]
    assert labels == [r"\label{tab:my-sweep-1-xor}", r"\label{tab:my-sweep-1-fashion-mnist}"]


# Controls


def test_tables_have_a_filter_field(grid: Path) -> None:
    """Each table has a field to find rows, which explains its syntax."""
    fields = [each for each in read_report(grid).all("input") if "data-filter" in each]
    assert [each["placeholder"] for each in fields] == ["words, or hidden_size=…"] * 2
    assert fields[0]["aria-label"] == "find entries: words, or a column with <, >, = or != and a value"


def test_markup_has_no_event_handlers(grid: Path) -> None:
    """Whoever put text into an attribute could not make it run."""
    assert not [name for each in read_report(grid).elements for name in each.attributes if name.startswith("on")]


# Text is text


def test_html_in_texts_is_escaped(tmp_path: Path) -> None:
    """Names, values and messages that contain HTML are shown as text."""
    sweep = tmp_path / "<i>sweep"
    for number, value in enumerate((NASTY, "plain")):
        make_accuracy_job(
            sweep,
            f"{number}",
            f"+model.act=x{number}",
            "+model.b=1",
            settings={"model.act": value},
            val=0.5,
            history=epochs(1),
        )
    folder = make_accuracy_job(sweep, "2", "+model.act=y", "+model.b=2", status="failed", reason="<u>bad")
    (folder / "train.log").write_text(NASTY)
    write_json(folder / "provenance.json", {"command": NASTY, "git": {"commit": "<s>"}, "device": "<q>"})
    page = read_report(sweep)
    assert page.text.count(NASTY) >= 4  # command, leaderboard, runs, the end of a log
    assert {"i", "b", "u", "s", "q"}.isdisjoint(element.tag for element in page.elements)
    assert len(page.scripts) == 2  # plotly's and the page's own
    assert page.text.startswith("<i>sweep: report")


def test_plotly_data_is_escaped(tmp_path: Path) -> None:
    """Markup in a sweep's settings reaches Plotly only in escaped form."""
    for number, value in enumerate((NASTY, "plain")):
        for b in (0, 1):
            make_accuracy_job(
                tmp_path,
                f"{2 * number + b}",
                f"+model.a={number}",
                f"model.b={b}",
                settings={"model.a": value},
                val=0.5,
                history=epochs(1),
            )
    page = read_report(tmp_path)
    told = json.dumps(page.data).replace("<br>", "").replace("<extra></extra>", "")
    assert "<" not in told
    assert page.figures("scatter")["model.a / val/acc"]["layout"]["xaxis"]["ticktext"][0].startswith(
        "&lt;b&gt;a&lt;/b&gt; &amp;"
    )
