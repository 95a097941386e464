"""A search in the report: the best so far and what mattered, from what it tells of itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.storage.files import write_json
from src.sweeps.report.write import load_sweeps, write_report
from tests.command_line import ROOT
from tests.sweeps.reports import Page, make_accuracy_job

VALUES = [0.5, 0.7, None, 0.6, 0.8, 0.8]  # None: failed


def make_search(folder: Path, values: list[float | None], mode: str = "max", **more: Any) -> Path:
    """A search with these results, a job for each trial."""
    for number, value in enumerate(values):
        status = {"status": "failed", "reason": "diverged"} if value is None else {}
        make_accuracy_job(folder, f"{number}_x", f"optimizer.lr={number + 1}", "data=xor", val=value, **status)
    trials = [
        {"number": number, "job": number, "state": "failed" if value is None else "complete", "value": value}
        for number, value in enumerate(values)
    ]
    told = {"sampler": "tpe", "seed": 0, "metric": "val/acc", "mode": mode, "trials": trials}
    write_json(folder / "search.json", told | {"importance": {"optimizer.lr": 0.75, "model.dropout": 0.25}} | more)
    return folder


def list_search_figures(page: Page) -> list[dict[str, Any]]:
    """Those of the searches, in their order: they come first."""
    return [each for each in page.data if ("layout" in each and each["layout"].get("barmode")) or is_progress(each)]


def is_progress(figure: dict[str, Any]) -> bool:
    return "layout" in figure and figure["layout"].get("xaxis", {}).get("title", {}).get("text") == "trial"


def map_traces_by_name(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in figure["data"] if "name" in trace}


def find_outlier_markers(figure: dict[str, Any]) -> list[dict[str, Any]]:
    """The traces of triangles at the edge of the plot."""
    return [trace for trace in figure["data"] if "triangle" in trace.get("marker", {}).get("symbol", "")]


def test_best_so_far_rises_in_steps(tmp_path: Path) -> None:
    """The best value so far rises in steps over all trials."""
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", VALUES)])))
    traces = map_traces_by_name(list_search_figures(page)[0])
    assert (traces["trials"]["x"], traces["trials"]["y"]) == ([0, 1, 3, 4, 5], [0.5, 0.7, 0.6, 0.8, 0.8])
    assert (traces["best so far"]["x"], traces["best so far"]["y"]) == ([0, 1, 3, 4, 5], [0.5, 0.7, 0.7, 0.8, 0.8])
    assert traces["best so far"]["line"]["shape"] == "hv"
    assert (traces["failed"]["x"], traces["failed"]["yaxis"]) == ([2], "y2")
    assert traces["trials"]["text"][1] == "1: lr 2"
    assert "one: 6 trials by tpe, 5 complete, 1 failed; best val/acc 80.00% in trial 4" in page.sections["search"]


def test_best_so_far_falls_when_minimising(tmp_path: Path) -> None:
    """When lower is better the best value so far falls, up to the last trial."""
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", [0.5, 0.7, 0.4, 0.6, None], mode="min")])))
    line = map_traces_by_name(list_search_figures(page)[0])["best so far"]
    assert (line["x"], line["y"]) == ([0, 1, 2, 3, 4], [0.5, 0.5, 0.4, 0.4, 0.4])


def test_outlier_trial_is_marked_at_edge(tmp_path: Path) -> None:
    """An outlier does not compress the axis; a triangle at the edge marks it."""
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", [0.80, 0.81, 0.82, 0.1, 0.83])])))
    figure = list_search_figures(page)[0]
    low, high = figure["layout"]["yaxis"]["range"]
    assert 0.75 < low < 0.80 and 0.83 < high < 0.85
    (below,) = find_outlier_markers(figure)
    assert (below["marker"]["symbol"], below["x"], below["y"]) == ("triangle-down", [3], [0.03])
    assert (below["customdata"], below["text"]) == (["val/acc 0.1"], ["3: lr 4"])


def test_close_trials_are_all_shown(tmp_path: Path) -> None:
    """Without outliers all trials lie within the axis."""
    figure = list_search_figures(Page(write_report(load_sweeps([make_search(tmp_path / "one", VALUES)]))))[0]
    assert "range" not in figure["layout"]["yaxis"] and not find_outlier_markers(figure)


def test_most_important_setting_is_top_bar(tmp_path: Path) -> None:
    (bars,) = list_search_figures(Page(write_report(load_sweeps([make_search(tmp_path / "one", VALUES)]))))[1]["data"]
    assert (bars["y"], bars["x"]) == (["model.dropout", "optimizer.lr"], [0.25, 0.75])  # from the bottom up


def test_two_searches_share_one_figure(tmp_path: Path) -> None:
    """Two searches by the same metric are compared in one figure."""
    other = make_search(tmp_path / "other", [0.9, 0.6], sampler="random", importance={})
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", VALUES), other])))
    progress, bars = list_search_figures(page)
    lines = {trace["name"]: trace["y"] for trace in progress["data"] if trace["mode"] == "lines"}
    assert lines == {"one": [0.5, 0.7, 0.7, 0.8, 0.8], "other": [0.9, 0.9]}
    assert len({trace["line"]["color"] for trace in progress["data"] if trace["mode"] == "lines"}) == 2
    assert [trace["name"] for trace in bars["data"]] == ["one"]
    assert "other: 2 trials by random, 2 complete; best val/acc 90.00% in trial 0" in page.sections["search"]


def test_other_metrics_have_separate_figures(tmp_path: Path) -> None:
    """Searches by different metrics have separate figures."""
    other = make_search(tmp_path / "other", [0.9, 0.6], mode="min", metric="val/loss")
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", VALUES), other])))
    assert [figure["layout"]["yaxis"]["title"]["text"] for figure in page.data if is_progress(figure)] == [
        "val/acc",
        "val/loss",
    ]


def test_random_search_shows_expected_best(tmp_path: Path) -> None:
    """A random search shows what the best of k trials is on average, and what it reaches in 95% of cases."""
    values: list[float | None] = [number / 40 for number in range(40)]
    page = Page(write_report(load_sweeps([make_search(tmp_path / "one", values, sampler="random")])))
    assert "Dashed: the best of this number of random trials on average" in page.sections["search"]
    figure = list_search_figures(page)[0]
    expected = map_traces_by_name(figure)["expected best of random trials"]
    assert (expected["x"][0], expected["y"][0]) == (0, pytest.approx(39 / 80))  # the mean
    assert (expected["x"][1], expected["y"][1]) == (1, pytest.approx((2 * 41 / 3 - 1) / 40))  # of two of 1 to n
    assert expected["y"][-1] == pytest.approx(39 / 40)
    least = map_traces_by_name(figure)["reached in 95% of cases"]
    assert least["y"][0] == pytest.approx(1 / 40)  # the second lowest: 2 / 41 < 5%


def test_plain_sweep_has_no_search_section(grid: Path) -> None:
    assert "search" not in Page(write_report(load_sweeps([grid]))).sections


@pytest.mark.parametrize("content", ["{", "{}", '{"trials": [{"number": 1}], "importance": {}}'])
def test_damaged_search_json_is_reported(content: str, tmp_path: Path) -> None:
    """A damaged search.json is reported, and the rest of the report is shown."""
    folder = make_search(tmp_path / "one", VALUES)
    (folder / "search.json").write_text(content)
    page = Page(write_report(load_sweeps([folder])))
    assert "search.json is damaged: " in page.text
    assert "search" not in page.sections and "leaderboard" in page.sections


def test_report_needs_no_optuna(tmp_path: Path) -> None:
    folder = make_search(tmp_path / "one", VALUES)
    code = (
        "import sys; sys.modules['optuna'] = None; from pathlib import Path; from src.sweeps.report import write; "
        f"write.write_report(write.load_sweeps([Path({str(folder)!r})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert "search" in Page(folder / "report.html").sections
