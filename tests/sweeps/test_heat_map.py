"""What the map of a metric over two settings shows: its cells, worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from src.core.colours import choose_contrast_colour
from src.core.errors import InputError
from src.sweeps.figures.heat_map import HeatMap, find_levels, format_mean
from src.sweeps.store.aggregate import is_lower_better
from src.sweeps.store.runs import Run
from tests.sweeps import drawn, made_run

LR, BATCH = "optimizer.lr", "data.batch_size"
ACCURACY_MONITOR = {"monitor": "val/acc", "mode": "max"}
ACCURACIES = {  # by batch size and learning rate: those of the seeds; in the order of the jobs
    (64, 0.01): [0.8, 0.9],
    (64, 0.001): [0.5, 0.7],
    (16, 0.01): [0.6],
    (16, 0.001): [0.98, 0.96, 0.97],
}


def make_cell_runs(cells: dict[tuple[Any, Any], list[float]], metric: str = "val/acc", **others: Any) -> list[Run]:
    return [
        made_run({BATCH: batch, LR: rate, "seed": seed}, {metric: value, **others}, Path(f"{batch}_{rate}_{seed}"))
        for (batch, rate), values in cells.items()
        for seed, value in enumerate(values)
    ]


def heat_map(runs: list[Run], metric: str | None = "val/acc") -> tuple[Any, Any]:
    """The axes of the map and of its colour bar."""
    axis, bar = drawn(HeatMap(x=LR, y=BATCH, metric=metric, name="map", title="Map"), runs)
    return axis, bar


def get_cell_values(axis: Any) -> list[list[float | None]]:
    """The cells in colour, the lowest row first."""
    return [[None if value is np.ma.masked else float(value) for value in row] for row in axis.images[0].get_array()]


def get_cell_labels(axis: Any) -> dict[tuple[float, float], str]:
    """The numbers by their cell: column, row."""
    return {text.get_position(): text.get_text() for text in axis.texts}


def frames(axis: Any) -> list[tuple[float, float]]:
    """The cells with a frame: column, row."""
    return [(round(box.get_center()[0], 6), round(box.get_center()[1], 6)) for box in axis.patches]


def ticks(axis: Any) -> tuple[list[str], list[str]]:
    return [tick.get_text() for tick in axis.get_xticklabels()], [tick.get_text() for tick in axis.get_yticklabels()]


def test_cell_shows_mean_of_its_runs() -> None:
    """A cell shows the mean of the runs that share both values."""
    axis, bar = heat_map(make_cell_runs(ACCURACIES, **ACCURACY_MONITOR), metric=None)
    np.testing.assert_allclose(np.array(get_cell_values(axis), float), [[0.97, 0.6], [0.6, 0.85]])
    assert get_cell_labels(axis) == {(0, 0): "97.00%", (1, 0): "60.00%", (0, 1): "60.00%", (1, 1): "85.00%"}
    assert bar.get_ylabel() == "validation accuracy\n(mean of 1 to 3 runs)"


def test_axis_values_increase_right_and_up() -> None:
    """The values of both settings are sorted, with the smallest at the bottom left."""
    axis, _ = heat_map(make_cell_runs({(1024, 0.01): [0.5], (64, 1e-4): [0.5], (256, 0.002): [0.5]}))
    assert ticks(axis) == (["0.0001", "0.002", "0.01"], ["64", "256", "1024"])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("learning rate", "batch size")
    bottom, top = axis.get_ylim()
    assert bottom < top


def test_numbers_precede_other_values() -> None:
    values = [[64, 64], 128, "wide", 16, True, 32.5]
    runs = [made_run({"model.hidden_size": value}, {}) for value in values]
    assert find_levels(runs, "model.hidden_size") == ["16", "32.5", "128", "[64,64]", "wide", "true"]


def test_highest_accuracy_is_framed_and_brightest() -> None:
    axis, _ = heat_map(make_cell_runs(ACCURACIES, **ACCURACY_MONITOR), metric=None)
    assert frames(axis) == [(0, 0)]
    brightness = axis.images[0].to_rgba(np.array([0.6, 0.85, 0.97]))[:, :3].sum(axis=1)
    assert brightness[0] < brightness[1] < brightness[2]
    assert [text.get_text() for text in axis.figure.legends[0].texts] == ["best"]


def test_lowest_loss_is_framed_and_brightest() -> None:
    axis, bar = heat_map(
        make_cell_runs({(16, 0.1): [0.4], (16, 0.2): [0.3], (16, 0.3): [0.5]}, metric="train/loss"), metric="train/loss"
    )
    assert frames(axis) == [(1, 0)]
    brightness = axis.images[0].to_rgba(np.array([0.3, 0.4, 0.5]))[:, :3].sum(axis=1)
    assert brightness[0] > brightness[1] > brightness[2]
    assert bar.get_ylabel() == "training loss"  # of one run each
    assert set(get_cell_labels(axis).values()) == {"0.4", "0.3", "0.5"}


def test_equally_good_cells_have_a_frame_each() -> None:
    axis, _ = heat_map(make_cell_runs({(16, 0.1): [1.0], (16, 0.2): [0.9], (16, 0.3): [1.0, 1.0]}))
    assert frames(axis) == [(0, 0), (2, 0)]


@pytest.mark.parametrize(
    ("metric", "judge", "mode", "lower"),
    [
        ("val/f1", "val/f1", "max", False),
        ("val/f1", "val/f1", "min", True),
        ("val/acc", "val/loss", "min", False),
        ("train/loss", "val/acc", "max", True),
    ],
)
def test_direction_follows_monitor_or_metric_name(metric: str, judge: str, mode: str, lower: bool) -> None:
    """The runs' mode says whether lower is better; for other metrics their name does."""
    assert is_lower_better([made_run({}, {"monitor": judge, "mode": mode})], metric) == lower


def test_empty_cell_is_blank_with_dash() -> None:
    axis, _ = heat_map(make_cell_runs({(16, 0.1): [0.5], (64, 0.2): [0.75]}))
    assert get_cell_values(axis) == [[0.5, None], [None, 0.75]]
    assert get_cell_labels(axis) == {(0, 0): "50.00%", (1, 0): "–", (0, 1): "–", (1, 1): "75.00%"}


@pytest.mark.parametrize(("values", "logarithmic"), [([0.01, 0.02, 0.5], True), ([0.2, 0.3, 0.5], False)])
def test_wide_loss_range_uses_logarithmic_colours(values: list[float], logarithmic: bool) -> None:
    """Losses that span decades get a logarithmic colour scale."""
    cells = {(16, rate): [value] for rate, value in enumerate(values)}
    axis, _ = heat_map(make_cell_runs(cells, metric="val/loss"), metric="val/loss")
    assert isinstance(axis.images[0].norm, LogNorm) == logarithmic


def test_diverged_mean_does_not_stretch_colours() -> None:
    """A diverged mean gets the last colour, and the others remain distinguishable."""
    losses = {(1, 1): [0.5], (2, 1): [0.6], (1, 2): [0.7], (2, 2): [1e30, 0.5]}
    axis, bar = heat_map(make_cell_runs(losses, "val/loss"), "val/loss")
    (image,) = axis.images
    assert (image.norm.vmin, image.norm.vmax) == (0.5, 0.7) and not isinstance(image.norm, LogNorm)
    assert get_cell_labels(axis)[1, 1] == "5e+29"
    assert bar._colorbar.extend == "max"


def test_unswept_setting_gives_single_unlabelled_row() -> None:
    """A setting that is not swept gives one row without a label."""
    runs = [made_run({LR: rate, "seed": seed}, {"val/acc": rate + seed / 10}) for rate in (0.1, 0.2) for seed in (0, 1)]
    axis, bar = heat_map(runs)
    np.testing.assert_allclose(np.array(get_cell_values(axis), float), [[0.15, 0.25]])
    assert ticks(axis) == (["0.1", "0.2"], [""])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("learning rate", "")
    assert bar.get_ylabel() == "validation accuracy\n(mean of 2 runs)"


@pytest.mark.parametrize(
    ("colour", "best"),
    [((0, 0, 0), "white"), ((1, 1, 1), "black"), ((0.267, 0.005, 0.329), "white"), ((0.993, 0.906, 0.144), "black")],
)
def test_label_colour_contrasts_with_cell(colour: tuple[float, float, float], best: str) -> None:
    """The numbers are white on dark cells and black on light ones."""
    assert choose_contrast_colour(*colour) == best


def luminance(colour: Any) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_labels_meet_wcag_contrast() -> None:
    """Each number has enough contrast with its cell to be read."""
    axis, _ = heat_map(make_cell_runs({(16, rate): [rate / 30] for rate in range(31)}))
    for column, text in enumerate(axis.texts):
        cell = luminance(axis.images[0].to_rgba(column / 30))
        contrast = (cell + 0.05) / 0.05 if text.get_color() == "black" else 1.05 / (cell + 0.05)
        assert contrast >= 4.5  # what WCAG 2.1 asks of text


@pytest.mark.parametrize(
    ("mean", "share", "text"),
    [(0.97431, True, "97.43%"), (0.012345, False, "0.0123"), (float("nan"), True, "–"), (float("nan"), False, "–")],
)
def test_cell_number_is_percentage_or_three_digits(mean: float, share: bool, text: str) -> None:
    """A cell's number is a percentage or has three significant digits."""
    assert format_mean("val/acc" if share else "val/loss", mean) == text


def test_missing_metric_raises_error() -> None:
    """A metric that no run has is reported as an error."""
    picture = HeatMap(x=LR, y=BATCH, metric="test/f1", name="map")
    with pytest.raises(InputError, match=r"^none of the 8 runs has the metric test/f1$"):
        picture.draw(Figure(), make_cell_runs(ACCURACIES))
