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
from src.sweeps.figures.base import Curves, ImageGrid, Scores, SuccessRate, format_summary
from src.sweeps.store.runs import Run, read_runs
from src.sweeps.store.statistics import compute_wilson_interval
from tests.sweeps import drawn, made_job, made_run, made_runs

ValuesBySize = Mapping[str, Sequence[float | None]]


def ticks(axis: Any) -> list[str]:
    return [tick.get_text() for tick in axis.get_yticklabels()]


def texts(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


# Scores


def scores(metric: str, values: ValuesBySize, tmp_path: Path) -> Any:
    (axis,) = drawn(Scores(metric, name="scores", title="Scores"), made_runs(tmp_path, metric, values))
    return axis


def test_scores_show_one_dot_per_run(tmp_path: Path) -> None:
    """The scores show each run as a dot in the row of its label."""
    axis = scores("test/acc", {"1": [0.5, 0.7], "30": [0.9]}, tmp_path)
    dots = [dot for dots in axis.collections[::2] for dot in dots.get_offsets().tolist()]
    assert dots == [[0.5, 0], [0.7, 0], [0.9, 1]]
    assert ticks(axis) == ["hidden size 1", "hidden size 30"]
    assert axis.get_ylim() == (1.5, -0.5)  # the first is above
    assert axis.get_xlabel() == "test accuracy"


def test_several_runs_show_mean_and_deviation(tmp_path: Path) -> None:
    """Rows with several runs show their mean and standard deviation."""
    axis = scores("test/acc", {"1": [0.5, 0.7], "30": [0.9]}, tmp_path)
    (bars,) = axis.containers
    mean, _, (spread,) = bars
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([pytest.approx(0.6)], [0])
    deviation = 0.1 * 2**0.5  # of 0.5 and 0.7, over n − 1
    np.testing.assert_allclose(spread.get_segments()[0], [[0.6 - deviation, 0], [0.6 + deviation, 0]])
    assert texts(axis) == ["60.00 ± 14.14% (n=2)", "90.00% (n=1)"]


def test_accuracy_error_bar_is_clipped(tmp_path: Path) -> None:
    """The error bar of an accuracy is clipped at 0 and 100%."""
    axis = scores("test/acc", {"1": [1.0, 0.8], "2": [0.0, 0.2], "3": [1.0, 1.0]}, tmp_path)
    ends = [container.lines[2][0].get_segments()[0][:, 0].tolist() for container in axis.containers]
    spread = 0.02**0.5  # of 0.8 and 1.0, over n − 1
    assert ends == [pytest.approx([0.9 - spread, 1.0]), pytest.approx([0.0, 0.1 + spread]), [1.0, 1.0]]


def test_loss_error_bar_is_not_clipped(tmp_path: Path) -> None:
    axis = scores("test/loss", {"1": [2.0, 4.0]}, tmp_path)
    ((start, end),) = [container.lines[2][0].get_segments()[0][:, 0] for container in axis.containers]
    assert (start, end) == pytest.approx((3 - 2**0.5, 3 + 2**0.5))


def test_diverged_score_is_marked_at_edge(tmp_path: Path) -> None:
    """A diverged score is marked at the edge of the axis and counted in its label."""
    axis = scores("test/loss", {"1": [0.5, 0.7], "2": [0.6, 1e30], "3": [0.65, 0.75]}, tmp_path)
    low, high = axis.get_xlim()
    assert 0.45 < low < 0.5 and 0.75 < high < 0.8 and axis.get_xscale() == "linear"
    marks = [line for line in axis.lines if line.get_marker() == ">"]
    assert [(mark.get_xdata(), mark.get_ydata()) for mark in marks] == [([0.985], [1])] * 2  # the run, and the mean
    assert axis.get_xlabel() == "test loss\n(1 run far above)"
    assert texts(axis)[1] == "5e+29 ± 7.07e+29 (n=2)"


def test_runs_without_metric_are_omitted(tmp_path: Path) -> None:
    """Runs without the metric are omitted, and so are labels without any other run."""
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
def test_wide_loss_range_uses_logarithmic_axis(metric: str, values: list[float], scale: str, tmp_path: Path) -> None:
    """Losses that span decades are drawn on a logarithmic axis."""
    assert scores(metric, {"1": values}, tmp_path).get_xscale() == scale


def test_accuracy_tick_labels_do_not_overlap(tmp_path: Path) -> None:
    axis = scores("test/acc", {"1": [0.783, 0.79, 0.922]}, tmp_path)
    boxes = [tick.get_window_extent() for tick in axis.get_xticklabels() if tick.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert {text.get_text()[-1] for text in axis.get_xticklabels()} == {"%"}


def test_long_label_leaves_room_for_dots(tmp_path: Path) -> None:
    long = "3, activation sigmoid, loss cross_entropy, batch size 55000"
    axis = scores("test/acc", {long: [0.5]}, tmp_path)
    assert axis.get_position().width * axis.figure.get_figwidth() > 2.5  # inches


def test_missing_metric_raises_error(tmp_path: Path) -> None:
    """A metric that no run has is reported as an error."""
    for picture in (Scores("test/f1", name="a"), SuccessRate(1.0, metric="test/f1", name="b")):
        with pytest.raises(InputError, match=r"^none of the 2 runs has the metric test/f1$"):
            picture.draw(Figure(), made_runs(tmp_path, "test/acc", {"1": [0.5, 0.6]}))


# The metric that runs are judged by


def make_monitored_runs(*judges: str | None) -> list[Run]:
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
def test_default_metric_is_most_common_monitor(judges: list[str | None], metric: str) -> None:
    """Without a metric, a figure uses the one that most runs monitor."""
    assert Scores(name="scores").choose_metric(make_monitored_runs(*judges)) == metric
    assert Curves("test/acc", name="curves").choose_metric(make_monitored_runs(*judges)) == "test/acc"


def test_default_scores_are_losses_or_accuracies() -> None:
    """By default the scores are the losses of a regression and the accuracies of a classification."""
    picture = Scores(metric=None, name="scores", title="Scores")
    (regression,) = drawn(picture, make_monitored_runs("val/loss", "val/loss"))
    assert (regression.get_xlabel(), texts(regression)) == ("validation loss", ["1 (n=1)", "2 (n=1)"])
    (classification,) = drawn(picture, make_monitored_runs("val/acc"))
    assert (classification.get_xlabel(), texts(classification)) == ("validation accuracy", ["50.00% (n=1)"])


def test_success_rate_defaults_to_monitor() -> None:
    """Without a metric, the success rate uses the one that the runs monitor."""
    (axis,) = drawn(
        SuccessRate(2.0, name="share", title="Share"), make_monitored_runs("val/loss", "val/loss", "val/loss")
    )
    assert texts(axis) == ["0 of 1", "1 of 1", "1 of 1"]
    assert axis.get_xlabel() == "fraction of runs with validation loss ≥ 2\n(line: 95% interval)"


def test_runs_without_common_monitor_are_omitted() -> None:
    """Runs without the metric that most runs monitor are omitted."""
    runs = make_monitored_runs("val/acc", "val/acc", "val/loss")
    del runs[2].metrics["val/acc"]
    (axis,) = drawn(Scores(name="scores", title="Scores"), runs)
    assert ticks(axis) == ["hidden size 0", "hidden size 1"]


def test_curves_default_to_monitor(tmp_path: Path) -> None:
    """Without a metric, the curves show the one that the runs monitor."""
    history = [{"epoch": epoch, "val/loss": 1 / epoch, "val/acc": epoch / 2} for epoch in (1, 2)]
    made_job(tmp_path, "0", metrics={"val/loss": 0.5, "monitor": "val/loss", "mode": "min"}, history=history)
    (axis,) = drawn(Curves(name="curves", title="Curves"), read_runs(tmp_path))
    assert (lines(axis), axis.get_ylabel()) == ({"all runs": [[1, 2], [1, 0.5]]}, "validation loss")


def test_mean_curve_has_common_epochs(tmp_path: Path) -> None:
    """The mean of curves is taken where all of them were measured, not over their first points."""
    for number, epochs in enumerate(((1, 2, 3, 4), (2, 4, 6))):
        history = [{"epoch": epoch, "val/acc": epoch / (10 + 10 * number)} for epoch in epochs]
        made_job(tmp_path, str(number), metrics={"val/acc": 0.5, "monitor": "val/acc", "mode": "max"}, history=history)
    (axis,) = drawn(Curves(name="curves", title="Curves"), read_runs(tmp_path))
    (mean,) = [line for line in axis.lines if not line.get_label().startswith("_")]
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([2, 4], pytest.approx([0.15, 0.3]))


@pytest.mark.parametrize(
    ("values", "share", "text"),
    [
        ([0.9743], True, "97.43% (n=1)"),
        ([0.97, 0.98, 0.99], True, "98.00 ± 1.00% (n=3)"),
        ([0.001234], False, "0.00123 (n=1)"),
        ([1.0, 2.0, 3.0], False, "2 ± 1 (n=3)"),
    ],
)
def test_summary_has_mean_and_deviation(values: list[float], share: bool, text: str) -> None:
    """Values are summarised as mean ± standard deviation."""
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
def test_interval_is_wilson_score_interval(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert compute_wilson_interval(successes, trials) == pytest.approx(interval, abs=1e-4)


def draw_success_rate(at_least: float, metric: str, values: ValuesBySize, tmp_path: Path) -> Any:
    picture = SuccessRate(at_least, metric=metric, name="share", title="Share")
    (axis,) = drawn(picture, made_runs(tmp_path, metric, values))
    return axis


def test_bars_show_success_rate_and_interval(tmp_path: Path) -> None:
    """The bars show the fraction of runs that reach the threshold, with its 95% interval."""
    axis = draw_success_rate(1.0, "test/acc", {"1": [0.75] * 20, "2": [1.0] * 8 + [0.75] * 2}, tmp_path)
    assert [bar.get_width() for bar in axis.patches] == [0.0, 0.8]
    intervals = [(line.get_xdata(), line.get_ydata()) for line in axis.lines]
    np.testing.assert_allclose(intervals[0], [[0, 0.1611], [0, 0]], atol=1e-4)
    np.testing.assert_allclose(intervals[1], [[0.4902, 0.9433], [1, 1]], atol=1e-4)
    assert texts(axis) == ["0 of 20", "8 of 10"]
    assert ticks(axis) == ["hidden size 1", "hidden size 2"]
    assert axis.get_xlabel() == "fraction of runs with test accuracy ≥ 100%\n(line: 95% interval)"


def test_threshold_allows_single_precision_rounding(tmp_path: Path) -> None:
    """A single-precision accuracy that equals the threshold up to rounding counts as a success."""
    value = float(torch.tensor(0.95))
    assert value < 0.95
    assert texts(draw_success_rate(0.95, "test/acc", {"1": [value, 0.9499]}, tmp_path)) == ["1 of 2"]


def test_axis_label_shows_threshold_with_unit(tmp_path: Path) -> None:
    """The axis label states the threshold in the metric's unit."""
    assert "validation accuracy ≥ 97.5%\n" in draw_success_rate(0.975, "val/acc", {"1": [1.0]}, tmp_path).get_xlabel()
    assert "seconds ≥ 2.5\n" in draw_success_rate(2.5, "seconds", {"1": [3.0]}, tmp_path).get_xlabel()


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


def test_curves_show_mean_and_faint_runs(tmp_path: Path) -> None:
    """A curve is the mean over the seeds; each run is a faint line."""
    axis = curves("train/loss", histories(tmp_path, {"1": [[4, 2, 1], [2, 1, 0]], "2": [[9, 8]]}))
    assert lines(axis) == {"learning rate 1": [[1, 2, 3], [3, 1.5, 0.5]], "learning rate 2": [[1, 2], [9, 8]]}
    faint = [line for line in axis.lines if line.get_alpha() is not None]
    assert [line.get_ydata().tolist() for line in faint] == [[4, 2, 1], [2, 1, 0]]
    assert {line.get_color() for line in faint} == {axis.lines[2].get_color()} != {axis.lines[3].get_color()}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "training loss")


def test_mean_ends_with_shortest_run(tmp_path: Path) -> None:
    """The mean ends at the last epoch that all of its runs have reached."""
    axis = curves("train/loss", histories(tmp_path, {"1": [[4, 2, 1], [2]]}))
    assert lines(axis) == {"all runs": [[1], [3]]}


def test_epochs_without_metric_are_skipped(tmp_path: Path) -> None:
    history = [{"epoch": 1, "train/loss": 1.0}, {"epoch": 2, "train/loss": 1.0, "val/acc": 0.5}]
    made_job(tmp_path, "0", metrics={"epochs": 2}, history=history)
    axis = curves("val/acc", read_runs(tmp_path))
    assert lines(axis) == {"all runs": [[2], [0.5]]}
    assert axis.get_ylabel() == "validation accuracy"
    assert {text.get_text()[-1] for text in axis.get_yticklabels()} == {"%"}


def test_extra_labels_use_dashed_lines(tmp_path: Path) -> None:
    """If there are more labels than colours, the further lines are dashed."""
    axis = curves("train/loss", histories(tmp_path, {str(rate): [[1, rate]] for rate in range(1, 12)}))
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 11 and {style for _, style in looks} == {"-", "--"}


def test_large_legend_leaves_room_for_curves(tmp_path: Path) -> None:
    """Many long labels are placed below the curves and leave them enough room."""
    rates = [f"{number}, activation sigmoid, loss cross_entropy, batch size 55000" for number in range(8)]
    axis = curves("train/loss", histories(tmp_path, {rate: [[2, 1]] for rate in rates}))
    assert len(axis.figure.legends[0].texts) == 8
    assert axis.get_position().width > 0.8 and axis.get_position().height > 0.5  # of the picture's


def test_diverged_curve_does_not_stretch_axis(tmp_path: Path) -> None:
    """A diverged curve does not stretch the axis and is counted in its label."""
    axis = curves("train/loss", histories(tmp_path, {"1": [[4, 2, 1], [3, 2, 1]], "2": [[5, 1e10, 1e30]]}))
    low, high = axis.get_ylim()
    assert 0.8 < low < 1 and 5 < high < 6  # where each curve begins is seen
    assert axis.get_xlabel() == "epoch\n(1 curve far above)"


def test_metric_missing_from_histories_raises_error(tmp_path: Path) -> None:
    """A metric that no history contains is reported as an error."""
    runs = histories(tmp_path, {"1": [[1]]})
    with pytest.raises(InputError, match=r"^none of the 1 runs has the metric val/loss in its history\.csv$"):
        Curves("val/loss", name="curves").draw(Figure(), runs)


# Gallery


def make_image_runs(tmp_path: Path, grey: dict[str, int | None]) -> list[Run]:
    """Runs whose picture is of one grey; ``None``: those that have drawn none."""
    for rate, value in grey.items():
        folder = made_job(tmp_path, f"{rate}_x", f"optimizer.lr={rate}", metrics={"epochs": 1})
        if value is not None:
            (folder / "figures").mkdir()
            Image.new("RGB", (60, 40), (value, value, value)).save(folder / "figures" / "descent.png")
    return read_runs(tmp_path)


def test_gallery_shows_titled_images_in_order(tmp_path: Path) -> None:
    """A gallery shows the image of each run under its title, in the order of the runs."""
    runs = make_image_runs(tmp_path, {"1": 10, "2": None, "3": 30, "10": 100})
    axes = drawn(ImageGrid("descent", columns=2, name="gallery", title="Gallery"), runs)
    shown = [(axis.get_title(), np.unique(axis.images[0].get_array()).tolist()) for axis in axes if axis.images]
    assert shown == [(f"learning rate {rate}", [grey]) for rate, grey in ((1, 10), (3, 30), (10, 100))]
    first, second, third, _ = [axis.get_position() for axis in axes]
    assert first.x1 < second.x0 and third.x1 < second.x0  # two in the first row
    assert third.y1 < min(first.y0, second.y0)
    assert not axes[3].axison


def test_gallery_without_images_raises_error(tmp_path: Path) -> None:
    runs = make_image_runs(tmp_path, {"1": None, "2": None})
    with pytest.raises(InputError, match=r"^none of the 2 runs has the figure figures/descent\.png$"):
        ImageGrid("descent", columns=2, name="gallery").get_size(runs)
