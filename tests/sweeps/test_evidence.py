"""What the leaderboard claims of repeated runs: in the terminal, on the page and in the tables to download."""

import csv
from pathlib import Path

import pytest

from src.sweeps.report.tables import format_leaderboard_csv
from src.sweeps.report.write import load_sweeps
from src.sweeps.store.evidence import Interval, compute_interval, format_interval
from tests.sweeps.reports import make_accuracy_job, read_report
from tests.sweeps.test_results import render_leaderboards, table

# The first two cannot be told apart, the third can. Seed 2 is good for all.
ACCURACIES = {32: (0.970, 0.972, 0.980), 64: (0.969, 0.974, 0.978), 128: (0.90, 0.902, 0.911)}


@pytest.fixture
def widths(tmp_path: Path) -> Path:
    """Three widths × three seeds."""
    for number in range(9):
        width, seed = list(ACCURACIES)[number // 3], number % 3
        value = ACCURACIES[width][seed]
        typed = (f"model.hidden_size={width}", f"seed={seed}", "data=xor")
        make_accuracy_job(tmp_path / "widths", f"{number}_x", *typed, val=value, test=value - 0.01)
    return tmp_path / "widths"


def test_terminal_shows_group_and_intervals(widths: Path) -> None:
    lines = render_leaderboards(widths)
    assert table(lines) == [
        ["#", "hidden size", "val/acc", "95% interval (t)", "n"],
        ["=1", "32", "97.40 ± 0.53%", "96.1 to 98.7%", "3"],
        ["=1", "64", "97.37 ± 0.45%", "96.2 to 98.5%", "3"],
        ["3", "128", "90.43 ± 0.59%", "89.0 to 91.9%", "3"],
    ]
    group = "=1: 2 settings that cannot be told from the best at 5% (paired by seed or fold, corrected for all pairs)."
    assert group in lines
    assert lines[-2].startswith("  Choosing among 3 ")


def test_page_shows_group_and_missing_runs(widths: Path) -> None:
    page = read_report(widths)
    assert [row[0] for row in page.rows[1:4]] == ["=1", "=1", "3"]
    heading = page.rows[0].index("more runs")
    assert [row[heading] for row in page.rows[1:4]] == ["", "310", ""]
    assert "=1: 2 settings that cannot be told from the best at 5%" in page.sections["leaderboard"]
    assert "95% interval of the mean: val/acc 96.1 to 98.7%, test/acc 95.1 to 97.7%." in page.sections["leaderboard"]


def test_csv_has_intervals_and_group(widths: Path) -> None:
    rows = list(csv.DictReader(format_leaderboard_csv(load_sweeps([widths])).splitlines()))
    assert [row["told from the best"] for row in rows] == ["no", "no", "yes"]
    assert float(rows[2]["val/acc 95% low"]) == pytest.approx(0.8897, abs=1e-4)  # 0.90433 - 4.303 · 0.00586 / √3
    assert {row["val/acc 95%"] for row in rows} == {"t"}


def test_random_seeds_are_not_paired(tmp_path: Path) -> None:
    """Settings with different seeds are compared without pairing them; without repeated runs nothing is claimed."""
    for number in range(6):
        make_accuracy_job(tmp_path, f"{number}", f"optimizer.lr={number // 3}", f"seed={number}", val=0.9 + number / 99)
    assert any("(unpaired, corrected for all pairs)" in line for line in render_leaderboards(tmp_path))


def test_sweep_without_seeds_claims_nothing(tmp_path: Path) -> None:
    for number in range(6):
        make_accuracy_job(tmp_path, f"{number}", f"optimizer.lr={number}", val=0.9 + number / 99)
    assert table(render_leaderboards(tmp_path))[0] == ["lr", "val/acc", "n"]
    assert "95%" not in read_report(tmp_path).sections["leaderboard"]


def test_shares_have_wilson_intervals() -> None:
    """Runs that all solve the task do not prove that each would."""
    interval = compute_interval("val/acc", [1.0] * 10)
    assert interval is not None and interval.kind == "Wilson"
    assert format_interval("val/acc", interval) == "72 to 100%"
    assert compute_interval("val/loss", [1.0] * 10) is None  # that there is no noise is not known


@pytest.mark.parametrize(
    ("metric", "low", "high", "text"),
    [
        ("val/acc", 0.97312, 0.97534, "97.31 to 97.53%"),
        ("val/acc", 0.5, 0.9, "50 to 90%"),
        ("val/loss", 0.123456, 0.234567, "0.123 to 0.235"),
        ("val/loss", -1.23456, 123.456, "-1 to 123"),
        ("val/loss", 1.23456e-6, 1.34567e-6, "1.235e-06 to 1.346e-06"),
    ],
)
def test_digits_follow_the_width(metric: str, low: float, high: float, text: str) -> None:
    assert format_interval(metric, Interval(low, high, "t")) == text
