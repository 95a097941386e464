"""The lines of how often runs come far enough, worked out by hand."""

from typing import Any

import numpy as np
import pytest

from src.core.errors import InputError
from src.sweeps.figures.success_rate import SuccessRateLines
from src.sweeps.store.runs import Run
from tests.sweeps import drawn, made_run

WIDTH, LR = "model.hidden_size", "optimizer.lr"
SCORES = {  # of each seed, by width and learning rate
    (2, 0.1): [1.0, 0.75, 0.75, 0.99999999],
    (10, 0.1): [1.0, 1.0, 1.0, 1.0],
    (2, 1.0): [0.5, 0.75],
}


def make_scored_runs() -> list[Run]:
    return [
        made_run({WIDTH: width, LR: rate, "seed": seed}, {"test/acc": score})
        for (width, rate), scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]


def make_figure(**settings: Any) -> SuccessRateLines:
    return SuccessRateLines(at_least=1.0, x=WIDTH, by=LR, metric="test/acc", name="solved", title="Solved", **settings)


def test_lines_show_success_rate_by_width() -> None:
    """Each line has the success rates in the order of the widths."""
    (axis,) = drawn(make_figure(), make_scored_runs())
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    np.testing.assert_allclose(lines["0.1"], [0.5, 1.0])
    np.testing.assert_allclose(lines["1"], [0.0, np.nan])  # that width was not trained at this rate
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "10"]
    assert axis.get_legend().get_title().get_text() == "learning rate"


def test_band_is_wilson_interval() -> None:
    band = drawn(make_figure(), make_scored_runs())[0].collections[0].get_paths()[0].vertices
    at_first = band[band[:, 0] == 0][:, 1]
    assert at_first.min() == pytest.approx(0.15, abs=0.001)  # of 2 of 4: (0.150, 0.850)
    assert at_first.max() == pytest.approx(0.85, abs=0.001)


def test_runs_without_metric_are_refused() -> None:
    with pytest.raises(InputError, match="none of the 1 runs has the metric test/acc"):
        drawn(make_figure(), [made_run({WIDTH: 2, LR: 0.1}, {})])
