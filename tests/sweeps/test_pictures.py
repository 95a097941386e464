"""What the pictures over several runs show: the numbers drawn."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from src.core.errors import InputError
from src.sweeps.figures.base import Curves, ImageGrid, Scores, SuccessRate, compute_wilson_interval, format_summary
from src.sweeps.store.runs import Run, read_runs
from tests.sweeps import drawn, made_job, made_run, made_runs

Scored = Mapping[str, Sequence[float | None]]


def ticks(axis: Any) -> list[str]:
    return [tick.get_text() for tick in axis.get_yticklabels()]


def texts(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


# Scores


def scores(metric: str, values: Scored, tmp_path: Path) -> Any:
    (axis,) = drawn(Scores(metric, name="scores", title="Scores"), made_runs(tmp_path, metric, values))
    return axis


def test_scores_are_a_dot_for_each_run_in_the_row_of_its_label(tmp_path: Path) -> None:
    axis = scores("test/acc", {"1": [0.5, 0.7], "30": [0.9]}, tmp_path)
    dots = [dot for dots in axis.collections[::2] for dot in dots.get_offsets().tolist()]
    assert dots == [[0.5, 0], [0.7, 0], [0.9, 1]]
    assert ticks(axis) == ["hidden size 1", "hidden size 30"]
    assert axis.get_ylim() == (1.5, -0.5)  # the first is above
    assert axis.get_xlabel() == "test accuracy"


def test_the_mean_stands_with_its_standard_deviation_where_there_are_several_runs(tmp_path: Path) -> None:
    axis = scores("test/acc", {"1": [0.5, 0.7], "30": [0.9]}, tmp_path)
    (bars,) = axis.containers
    mean, _, (spread,) = bars
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([pytest.approx(0.6)], [0])
    deviation = 0.1 * 2**0.5  # of 0.5 and 0.7, over n − 1
    np.testing.assert_allclose(spread.get_segments()[0], [[0.6 - deviation, 0], [0.6 + deviation, 0]])
    assert texts(axis) == ["60.00 ± 14.14% (n=2)", "90.00% (n=1)"]


def test_the_spread_of_an_accuracy_ends_at_0_and_at_100_percent(tmp_path: Path) -> None:
    axis = scores("test/acc", {"1": [1.0, 0.8], "2": [0.0, 0.2], "3": [1.0, 1.0]}, tmp_path)
    ends = [container.lines[2][0].get_segments()[0][:, 0].tolist() for container in axis.containers]
    spread = 0.02**0.5  # of 0.8 and 1.0, over n − 1
    assert ends == [pytest.approx([0.9 - spread, 1.0]), pytest.approx([0.0, 0.1 + spread]), [1.0, 1.0]]


def test_the_spread_of_a_loss_is_whole(tmp_path: Path) -> None:
    axis = scores("test/loss", {"1": [2.0, 4.0]}, tmp_path)
    ((start, end),) = [container.lines[2][0].get_segments()[0][:, 0] for container in axis.containers]
    assert (start, end) == pytest.approx((3 - 2**0.5, 3 + 2**0.5))


def test_a_score_that_has_diverged_is_marked_at_the_edge_and_counted(tmp_path: Path) -> None:
    axis = scores("test/loss", {"1": [0.5, 0.7], "2": [0.6, 1e30], "3": [0.65, 0.75]}, tmp_path)
    low, high = axis.get_xlim()
    assert 0.45 < low < 0.5 and 0.75 < high < 0.8 and axis.get_xscale() == "linear"
    marks = [line for line in axis.lines if line.get_marker() == ">"]
    assert [(mark.get_xdata(), mark.get_ydata()) for mark in marks] == [([0.985], [1])] * 2  # the run, and the mean
    assert axis.get_xlabel() == "test loss\n(1 run far above)"
    assert texts(axis)[1] == "5e+29 ± 7.07e+29 (n=2)"


def test_runs_that_lack_the_metric_are_left_out_and_labels_without_any_too(tmp_path: Path) -> None:
    axis = scores("test/loss", {"1": [2.0, None], "2": [None], "3": [0.5]}, tmp_path)
    assert ticks(axis) == ["hidden size 1", "hidden size 3"]
    assert texts(axis) == ["2 (n=1)", "0.5 (n=1)"]


@pytest.mark.parametrize(
    ("metric", "values", "scale"),
    [
        ("test/loss", [0.01, 0.5], "log"),
        ("test/loss", [0.3, 0.5], "linear"),
        ("test/loss", [0.0, 0.5], "linear"),
        ("test/acc", [0.01, 0.5], "linear"),
    ],
)
def test_losses_that_are_decades_apart_stand_on_a_logarithmic_axis(
    metric: str, values: list[float], scale: str, tmp_path: Path
) -> None:
    assert scores(metric, {"1": values}, tmp_path).get_xscale() == scale


def test_the_ticks_of_accuracies_do_not_touch(tmp_path: Path) -> None:
    axis = scores("test/acc", {"1": [0.783, 0.79, 0.922]}, tmp_path)
    boxes = [tick.get_window_extent() for tick in axis.get_xticklabels() if tick.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert {text.get_text()[-1] for text in axis.get_xticklabels()} == {"%"}


def test_a_long_label_leaves_room_for_the_dots(tmp_path: Path) -> None:
    long = "3, activation sigmoid, loss cross_entropy, batch size 55000"
    axis = scores("test/acc", {long: [0.5]}, tmp_path)
    assert axis.get_position().width * axis.figure.get_figwidth() > 2.5  # inches


def test_a_metric_that_no_run_has_is_told(tmp_path: Path) -> None:
    for picture in (Scores("test/f1", name="a"), SuccessRate(1.0, metric="test/f1", name="b")):
        with pytest.raises(InputError, match=r"^none of the 2 runs has the metric test/f1$"):
            picture.draw(Figure(), made_runs(tmp_path, "test/acc", {"1": [0.5, 0.6]}))


# The metric that runs are judged by


def judged(*judges: str | None) -> list[Run]:
    """A run for each judge, of sizes 0, 1, …, with an accuracy of 0.5 and losses of its size + 1."""
    sizes = enumerate(judges)
    known = [
        {"val/loss": size + 1.0, "train/loss": size + 1.0, "val/acc": 0.5, "monitor": name} for size, name in sizes
    ]
    return [made_run({"model.hidden_size": size}, metrics) for size, metrics in enumerate(known)]


@pytest.mark.parametrize(
    ("judges", "metric"),
    [
        (["val/acc"], "val/acc"),
        (["val/acc", "val/loss", "val/loss"], "val/loss"),
        ([None, None, "val/loss"], "val/loss"),
        ([None, None], "train/loss"),
    ],
)
def test_without_a_metric_the_one_that_most_runs_are_judged_by_is_drawn(judges: list[str | None], metric: str) -> None:
    assert Scores(name="scores").choose_metric(judged(*judges)) == metric
    assert Curves("test/acc", name="curves").choose_metric(judged(*judges)) == "test/acc"


def test_the_scores_of_a_regression_are_its_losses_and_of_a_classification_its_accuracies() -> None:
    picture = Scores(metric=None, name="scores", title="Scores")
    (regression,) = drawn(picture, judged("val/loss", "val/loss"))
    assert (regression.get_xlabel(), texts(regression)) == ("validation loss", ["1 (n=1)", "2 (n=1)"])
    (classification,) = drawn(picture, judged("val/acc"))
    assert (classification.get_xlabel(), texts(classification)) == ("validation accuracy", ["50.00% (n=1)"])


def test_a_share_without_a_metric_counts_by_what_the_runs_are_judged_by() -> None:
    (axis,) = drawn(SuccessRate(2.0, name="share", title="Share"), judged("val/loss", "val/loss", "val/loss"))
    assert texts(axis) == ["0 of 1", "1 of 1", "1 of 1"]
    assert axis.get_xlabel() == "fraction of runs with validation loss ≥ 2\n(line: 95% interval)"


def test_runs_that_lack_the_metric_which_most_are_judged_by_are_left_out() -> None:
    runs = judged("val/acc", "val/acc", "val/loss")
    del runs[2].metrics["val/acc"]
    (axis,) = drawn(Scores(name="scores", title="Scores"), runs)
    assert ticks(axis) == ["hidden size 0", "hidden size 1"]


def test_curves_without_a_metric_are_of_the_one_the_runs_are_judged_by(tmp_path: Path) -> None:
    history = [{"epoch": epoch, "val/loss": 1 / epoch, "val/acc": epoch / 2} for epoch in (1, 2)]
    made_job(tmp_path, "0", metrics={"val/loss": 0.5, "monitor": "val/loss", "mode": "min"}, history=history)
    (axis,) = drawn(Curves(name="curves", title="Curves"), read_runs(tmp_path))
    assert (lines(axis), axis.get_ylabel()) == ({"all runs": [[1, 2], [1, 0.5]]}, "validation loss")


@pytest.mark.parametrize(
    ("values", "share", "text"),
    [
        ([0.9743], True, "97.43% (n=1)"),
        ([0.97, 0.98, 0.99], True, "98.00 ± 1.00% (n=3)"),
        ([0.001234], False, "0.00123 (n=1)"),
        ([1.0, 2.0, 3.0], False, "2 ± 1 (n=3)"),
    ],
)
def test_values_are_told_as_mean_and_standard_deviation(values: list[float], share: bool, text: str) -> None:
    assert format_summary("val/acc" if share else "val/loss", np.array(values)) == text


# Share


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [  # the first by hand: (0.8 + 0.192 ± 1.96·√(0.016 + 0.0096)) / 1.384
        (8, 10, (0.4902, 0.9433)),
        (0, 20, (0.0, 0.1611)),
        (20, 20, (0.8389, 1.0)),
        (1, 1, (0.2065, 1.0)),
        (50, 100, (0.4038, 0.5962)),
    ],
)
def test_the_interval_of_a_share_is_wilsons(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert compute_wilson_interval(successes, trials) == pytest.approx(interval, abs=1e-4)


def share_of(at_least: float, metric: str, values: Scored, tmp_path: Path) -> Any:
    picture = SuccessRate(at_least, metric=metric, name="share", title="Share")
    (axis,) = drawn(picture, made_runs(tmp_path, metric, values))
    return axis


def test_bars_are_the_share_of_runs_that_are_good_enough_with_its_interval(tmp_path: Path) -> None:
    axis = share_of(1.0, "test/acc", {"1": [0.75] * 20, "2": [1.0] * 8 + [0.75] * 2}, tmp_path)
    assert [bar.get_width() for bar in axis.patches] == [0.0, 0.8]
    intervals = [(line.get_xdata(), line.get_ydata()) for line in axis.lines]
    np.testing.assert_allclose(intervals[0], [[0, 0.1611], [0, 0]], atol=1e-4)
    np.testing.assert_allclose(intervals[1], [[0.4902, 0.9433], [1, 1]], atol=1e-4)
    assert texts(axis) == ["0 of 20", "8 of 10"]
    assert ticks(axis) == ["hidden size 1", "hidden size 2"]
    assert axis.get_xlabel() == "fraction of runs with test accuracy ≥ 100%\n(line: 95% interval)"


def test_an_accuracy_in_single_precision_is_good_enough_where_it_is_just_that(tmp_path: Path) -> None:
    value = float(torch.tensor(0.95))
    assert value < 0.95
    assert texts(share_of(0.95, "test/acc", {"1": [value, 0.9499]}, tmp_path)) == ["1 of 2"]


def test_the_axis_says_what_is_good_enough_in_the_metrics_unit(tmp_path: Path) -> None:
    assert "validation accuracy ≥ 97.5%\n" in share_of(0.975, "val/acc", {"1": [1.0]}, tmp_path).get_xlabel()
    assert "seconds ≥ 2.5\n" in share_of(2.5, "seconds", {"1": [3.0]}, tmp_path).get_xlabel()


# Curves


def curves(metric: str, runs: list[Run]) -> Any:
    (axis,) = drawn(Curves(metric, name="curves", title="Curves"), runs)
    return axis


def histories(tmp_path: Path, losses: dict[str, list[list[float]]]) -> list[Run]:
    """Runs with a loss in each epoch: for each learning rate those of its seeds."""
    jobs = [(rate, seed, row) for rate, rows in losses.items() for seed, row in enumerate(rows)]
    for number, (rate, seed, row) in enumerate(jobs):
        history = [{"epoch": epoch, "train/loss": loss} for epoch, loss in enumerate(row, start=1)]
        overrides = (f"optimizer.lr={rate}", f"seed={seed}")
        made_job(tmp_path, str(number), *overrides, metrics={"epochs": len(row)}, history=history)
    return read_runs(tmp_path)


def lines(axis: Any) -> dict[str, list[list[float]]]:
    """The labelled lines: epochs and values."""
    labelled = [line for line in axis.lines if not line.get_label().startswith("_")]
    return {line.get_label(): [line.get_xdata().tolist(), line.get_ydata().tolist()] for line in labelled}


def test_a_line_is_the_mean_over_the_seeds_and_each_run_is_a_faint_one(tmp_path: Path) -> None:
    axis = curves("train/loss", histories(tmp_path, {"1": [[4, 2, 1], [2, 1, 0]], "2": [[9, 8]]}))
    assert lines(axis) == {"learning rate 1": [[1, 2, 3], [3, 1.5, 0.5]], "learning rate 2": [[1, 2], [9, 8]]}
    faint = [line for line in axis.lines if line.get_alpha() is not None]
    assert [line.get_ydata().tolist() for line in faint] == [[4, 2, 1], [2, 1, 0]]
    assert {line.get_color() for line in faint} == {axis.lines[2].get_color()} != {axis.lines[3].get_color()}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "training loss")


def test_the_mean_goes_as_far_as_all_of_its_runs_do(tmp_path: Path) -> None:
    axis = curves("train/loss", histories(tmp_path, {"1": [[4, 2, 1], [2]]}))
    assert lines(axis) == {"all runs": [[1], [3]]}


def test_epochs_without_the_metric_are_passed_over(tmp_path: Path) -> None:
    history = [{"epoch": 1, "train/loss": 1.0}, {"epoch": 2, "train/loss": 1.0, "val/acc": 0.5}]
    made_job(tmp_path, "0", metrics={"epochs": 2}, history=history)
    axis = curves("val/acc", read_runs(tmp_path))
    assert lines(axis) == {"all runs": [[2], [0.5]]}
    assert axis.get_ylabel() == "validation accuracy"
    assert {text.get_text()[-1] for text in axis.get_yticklabels()} == {"%"}


def test_more_labels_than_colours_differ_in_their_dashes(tmp_path: Path) -> None:
    axis = curves("train/loss", histories(tmp_path, {str(rate): [[1, rate]] for rate in range(1, 12)}))
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 11 and {style for _, style in looks} == {"-", "--"}


def test_many_long_labels_stand_below_the_curves_and_leave_them_room(tmp_path: Path) -> None:
    rates = [f"{number}, activation sigmoid, loss cross_entropy, batch size 55000" for number in range(8)]
    axis = curves("train/loss", histories(tmp_path, {rate: [[2, 1]] for rate in rates}))
    assert len(axis.figure.legends[0].texts) == 8
    assert axis.get_position().width > 0.8 and axis.get_position().height > 0.5  # of the picture's


def test_a_curve_that_diverges_leaves_the_axis_to_the_others_and_is_counted(tmp_path: Path) -> None:
    axis = curves("train/loss", histories(tmp_path, {"1": [[4, 2, 1], [3, 2, 1]], "2": [[5, 1e10, 1e30]]}))
    low, high = axis.get_ylim()
    assert 0.8 < low < 1 and 5 < high < 6  # where each curve begins is seen
    assert axis.get_xlabel() == "epoch\n(1 curve far above)"


def test_a_metric_that_no_history_has_is_told(tmp_path: Path) -> None:
    runs = histories(tmp_path, {"1": [[1]]})
    with pytest.raises(InputError, match=r"^none of the 1 runs has the metric val/loss in its history\.csv$"):
        Curves("val/loss", name="curves").draw(Figure(), runs)


# Gallery


def galleried(tmp_path: Path, grey: dict[str, int | None]) -> list[Run]:
    """Runs whose picture is of one grey; ``None``: those that have drawn none."""
    for rate, value in grey.items():
        folder = made_job(tmp_path, f"{rate}_x", f"optimizer.lr={rate}", metrics={"epochs": 1})
        if value is not None:
            (folder / "figures").mkdir()
            Image.new("RGB", (60, 40), (value, value, value)).save(folder / "figures" / "descent.png")
    return read_runs(tmp_path)


def test_a_gallery_shows_each_runs_picture_under_its_title_in_order(tmp_path: Path) -> None:
    runs = galleried(tmp_path, {"1": 10, "2": None, "3": 30, "10": 100})
    axes = drawn(ImageGrid("descent", columns=2, name="gallery", title="Gallery"), runs)
    shown = [(axis.get_title(), np.unique(axis.images[0].get_array()).tolist()) for axis in axes if axis.images]
    assert shown == [(f"learning rate {rate}", [grey]) for rate, grey in ((1, 10), (3, 30), (10, 100))]
    first, second, third, _ = [axis.get_position() for axis in axes]
    assert first.x1 < second.x0 and third.x1 < second.x0  # two in the first row
    assert third.y1 < min(first.y0, second.y0)
    assert not axes[3].axison


def test_a_gallery_without_pictures_is_told(tmp_path: Path) -> None:
    runs = galleried(tmp_path, {"1": None, "2": None})
    with pytest.raises(InputError, match=r"^none of the 2 runs has the figure figures/descent\.png$"):
        ImageGrid("descent", columns=2, name="gallery").get_size(runs)
