"""What each model has learned, on its panel: of real runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from src.callbacks.figures.decision_regions import predict_grid
from src.core.errors import InputError
from src.data.loading.samples import Samples
from src.models.mlp import MLP
from src.sweeps.figures.model_grid import ModelGrid, draw_model, format_score
from src.sweeps.store.runs import Run, read_runs
from tests.command_line import train_bare
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule
from tests.sweeps import drawn, made_run


def run_sweep(*arguments: str, cwd: Path) -> tuple[list[Run], list[MLP]]:
    """A sweep's runs, and their models as anyone would load them."""
    train_bare("-m", "name=swept", "hydra/launcher=basic", *arguments, cwd=cwd)
    runs = read_runs(cwd / "outputs" / "sweeps" / "swept")
    files = [run.folder / "checkpoints" / "best.ckpt" for run in runs]
    return runs, [MLP.load_from_checkpoint(path, map_location="cpu").eval() for path in files]


def test_one_input_panels_show_probabilities(tmp_path: Path) -> None:
    """For one input, each panel shows its model's probabilities, all on the same axes."""
    runs, models = run_sweep("experiment=pulse", "model.hidden_size=1,2", "recipe.max_epochs=2", cwd=tmp_path)
    axes = drawn(ModelGrid(columns=2, name="panels", title="Panels"), runs)
    for axis, run, model in zip(axes, runs, models, strict=True):
        fit = next(line for line in axis.lines if line.get_label() == "probability of class 1")
        with torch.no_grad():
            expected = model(torch.as_tensor(fit.get_xdata())[:, None]).sigmoid()[:, 0]
        np.testing.assert_allclose(fit.get_ydata(), expected, atol=1e-6)
        size, accuracy = run.swept["model.hidden_size"], run.metrics["test/acc"]
        assert axis.get_title() == f"hidden size {size}\n{100 * accuracy:.1f}% correct"
    assert axes[0].get_xlim() == axes[1].get_xlim() and axes[0].get_ylim() == axes[1].get_ylim()
    (legend,) = axes[0].figure.legends
    labels = [text.get_text() for text in legend.texts]
    assert labels == ["class 0", "class 1", "probability of class 1", "truth"]


def test_two_input_panels_show_decision_regions(tmp_path: Path) -> None:
    """For two inputs, each panel shows its model's decision regions and the lines of its hidden units."""
    runs, models = run_sweep("model.hidden_size=1,3,2", "trainer.max_epochs=1", cwd=tmp_path)
    axes = drawn(ModelGrid(columns=2, name="panels", title="Panels"), runs)
    for axis, model, units in zip(axes, models, (1, 3, 2), strict=False):
        (image,) = axis.images
        left, right, bottom, top = image.get_extent()
        corners = torch.tensor([[left, bottom], [right, top]])
        margin = 0.15 / 1.3 * (corners[1] - corners[0])  # 0.15 of the samples' range, to both sides
        plane = predict_grid(model, torch.stack([corners[0] + margin, corners[1] - margin]))
        assert (torch.as_tensor(image.get_array()) == plane.classes).float().mean() > 0.999
        assert len(axis.lines) == units
        assert axis.get_xlim() == (left, right) == axes[0].get_xlim()
    assert [axis.get_xlabel() for axis in axes] == ["", "$x_1$", "$x_1$", ""]  # at each column's foot
    assert [axis.get_ylabel() for axis in axes] == ["$x_2$", "", "$x_2$", ""]
    assert not axes[3].axison


@pytest.mark.parametrize(
    ("inputs", "names"),
    [(torch.zeros(4, 3), ("a", "b")), (torch.zeros(4, 2), ()), (torch.zeros(4, 1), ("a", "b", "c"))],
)
def test_panels_of_other_data_are_refused(inputs: torch.Tensor, names: tuple[str, ...]) -> None:
    data = InMemoryDataModule(Samples(inputs, torch.zeros(4)), class_names=names)
    model = MLP(
        [], "relu", 0.0, False, in_shape=data.in_shape, num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD
    )
    with pytest.raises(InputError, match="panels need data with one input and a value or two classes"):
        draw_model(Figure().subplots(), data, model)


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"test/acc": 0.75, "test/loss": 1.0}, "75% correct"),
        ({"test/acc": 0.997}, "99.7% correct"),
        ({"test/acc": 0.9999}, ">99.9% correct"),
        ({"test/acc": 1.0}, "100% correct"),
        ({"test/loss": 0.01234}, "error 0.012"),
        ({"epochs": 1}, ""),
    ],
)
def test_panel_score_is_accuracy_or_error(metrics: dict[str, float], text: str) -> None:
    assert format_score(made_run({}, metrics)) == text
