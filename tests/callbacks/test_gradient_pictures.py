"""Gradients layer by layer, and the path of two weights: numbers that can be calculated by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from src.callbacks.figures.gradient_norms import GradientNorms, compute_gradient_norms, get_trained_weights
from src.callbacks.figures.loss_surface import (
    Descent,
    compute_losses,
    compute_surface,
    get_weight_labels,
    select_arrow_steps,
    select_evenly_spaced,
)
from src.core.errors import DivergedError
from src.data.loading.samples import Samples
from src.models.base import SupervisedModule
from src.models.resnet18 import ResNet18
from tests.doubles import SGD, InMemoryDataModule, make_samples, quiet_trainer


class NetworkModel(SupervisedModule):
    """A regression around a network made by hand."""

    def __init__(self, *layers: nn.Module, lr: float = 0.1, inputs: int = 2) -> None:
        super().__init__((inputs,), 0, "regression", optimizer={**SGD, "lr": lr})
        self.net = nn.Sequential(*layers)


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def fit_model(callback: Callback, model: SupervisedModule, samples: Samples, folder: Path, **settings: Any) -> None:
    batch_size = settings.pop("batch_size", samples.size)
    trainer = quiet_trainer(folder, callbacks=[callback], log_every_n_steps=1, **settings)
    trainer.fit(model, datamodule=InMemoryDataModule(samples, task="regression", batch_size=batch_size))


# Gradients


def test_gradient_norms_follow_layer_order() -> None:
    """There is one norm per layer, of its weights without the biases."""
    # y = 2·(3x) at x = (1, 0): dy/dW1 = 2·x, dy/dW2 = 3; biases are left out.
    model = nn.Sequential(linear([[3, 4]], [0.0]), nn.Identity(), linear([[2]], [1.0]))
    model(torch.tensor([[1.0, 0.0]])).sum().backward()
    assert compute_gradient_norms(get_trained_weights(model)).tolist() == [2, 3]


def test_layer_without_gradient_is_nan() -> None:
    """Convolutions have a norm too; a layer that is frozen for a while has NaN."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 1))
    layers = get_trained_weights(model)
    model[0].requires_grad_(False)  # for a while
    model(torch.randn(3, 1, 2, 2)).sum().backward()
    first, second = compute_gradient_norms(layers).tolist()
    assert np.isnan(first) and second > 0
    assert compute_gradient_norms(get_trained_weights(nn.Tanh())).shape == (0,)


def test_permanently_frozen_layers_are_omitted(tmp_path: Path) -> None:
    callback, fixed = GradientNorms(1), linear([[1, 0], [0, 1]])
    fixed.weight.requires_grad_(False)
    fit_model(callback, NetworkModel(fixed, linear([[1, 0]]), lr=0.0), ONE_SAMPLE, tmp_path)
    assert callback.norms == [pytest.approx([2 * 3 * 5])]


def test_temporarily_frozen_layers_keep_their_columns(tmp_path: Path) -> None:
    settings: Any = {"in_shape": [1, 8, 8], "num_classes": 2, "task": "multiclass", "optimizer": SGD}
    model = ResNet18(None, 1, 1.0, "small", 0.0, None, **settings)
    callback, samples = GradientNorms(1), Samples(torch.randn(4, 1, 8, 8), torch.arange(4) % 2)
    quiet_trainer(tmp_path, callbacks=[callback], max_epochs=2).fit(model, datamodule=InMemoryDataModule(samples))
    frozen, free = torch.tensor(callback.norms)
    assert len(free) == 21 and free.isfinite().all()
    assert frozen[:-1].isnan().all() and frozen[-1] > 0


ONE_SAMPLE = Samples(torch.tensor([[3.0, 4.0]]), torch.tensor([0.0]))  # one sample: the gradient is 2·(w·x − t)·x


def test_norms_are_measured_before_clipping(tmp_path: Path) -> None:
    """The norms are measured every n steps, before the gradient is clipped."""
    callback = GradientNorms(every_n_steps=2)
    model = NetworkModel(linear([[1, 0]]), lr=0.01)
    fit_model(callback, model, ONE_SAMPLE, tmp_path, max_epochs=4, gradient_clip_val=0.5)
    # y = 3 at first: the gradient's norm is 2·3·5. Clipped to 0.5 a step of 0.01 lessens y by 0.01·0.5·5.
    assert callback.steps == [0, 2]
    assert [norm for (norm,) in callback.norms] == pytest.approx([30, 2 * (3 - 2 * 0.025) * 5], rel=1e-5)


def test_accumulated_gradients_are_measured_per_step(tmp_path: Path) -> None:
    """Accumulated gradients are measured once per optimiser step."""
    callback = GradientNorms(every_n_steps=1)
    fit_model(
        callback, NetworkModel(linear([[1, 0]])), make_samples(12), tmp_path, batch_size=2, accumulate_grad_batches=3
    )
    assert callback.steps == [0, 1]


def test_measuring_gradients_does_not_change_training(tmp_path: Path) -> None:
    samples = make_samples(20)

    def trained(*callbacks: Any) -> Tensor:
        torch.manual_seed(1)
        model = NetworkModel(nn.Linear(2, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 1))
        trainer = quiet_trainer(tmp_path, callbacks=list(callbacks), max_epochs=3)
        trainer.fit(model, datamodule=InMemoryDataModule(samples, task="regression", batch_size=5))
        return torch.cat([weights.detach().flatten() for weights in model.parameters()])

    assert torch.equal(trained(GradientNorms(1)), trained())


def test_norms_are_logged_as_one_chart(tmp_path: Path) -> None:
    """The norms are scalars of one group, shown in one chart, without extra TensorBoard runs."""
    callback = GradientNorms(every_n_steps=1)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit_model(
        callback, NetworkModel(nn.Linear(2, 3), nn.Linear(3, 1)), make_samples(4), tmp_path, max_epochs=2, logger=logger
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    for layer in (1, 2):
        scalars = events.Scalars(f"gradient_norm/layer_{layer}")
        assert [scalar.step for scalar in scalars] == [0, 1]
        assert [scalar.value for scalar in scalars] == pytest.approx([row[layer - 1] for row in callback.norms])
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {"figures", "checkpoints"}


def test_figure_has_one_line_per_layer(drawn: list[Figure], tmp_path: Path) -> None:
    """The figure has one line per layer, on a logarithmic scale."""
    callback = GradientNorms(every_n_steps=1)
    fit_model(callback, NetworkModel(nn.Linear(2, 3), nn.Linear(3, 1)), make_samples(4), tmp_path, max_epochs=3)
    (axis,) = drawn[0].axes
    assert axis.get_yscale() == "log"
    assert [line.get_label() for line in axis.lines] == ["layer 1", "layer 2"]
    for line, norms in zip(axis.lines, zip(*callback.norms, strict=True), strict=True):
        np.testing.assert_allclose(line.get_xydata(), list(zip([0, 1, 2], norms, strict=True)), rtol=1e-6)


def test_resumed_run_keeps_measured_norms(tmp_path: Path) -> None:
    callback = GradientNorms(1)
    fit_model(callback, NetworkModel(linear([[1, 0]])), ONE_SAMPLE, tmp_path, max_epochs=2)
    resumed = GradientNorms(1)
    resumed.load_state_dict(callback.state_dict())
    assert (resumed.steps, resumed.norms) == (callback.steps, callback.norms)


def test_diverged_run_still_draws_gradients(drawn: list[Figure], tmp_path: Path) -> None:
    """When the loss is no longer finite, the norms measured before are drawn."""
    callback = GradientNorms(1)
    with pytest.raises(DivergedError):
        fit_model(callback, NetworkModel(linear([[1, 0]]), lr=10.0), ONE_SAMPLE, tmp_path, max_epochs=100)
    (axis,) = drawn[0].axes
    first, second, *_ = np.asarray(axis.lines[0].get_ydata(), dtype=float)
    assert second / first == pytest.approx(2 * 10 * 25 - 1, rel=1e-3)


# Descent

TWO_SAMPLES = Samples(
    torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 2.0])
)  # loss ((w1 − 1)² + 4(w2 − 1)²) / 2


def compute_descent_path(lr: float, count: int) -> list[tuple[float, float]]:
    """Gradient descent on the loss above from (0, 0)."""
    w1, w2 = 0.0, 0.0
    path = [(w1, w2)]
    for _ in range(count):
        w1, w2 = w1 - lr * (w1 - 1), w2 - lr * 4 * (w2 - 1)
        path.append((w1, w2))
    return path


def test_path_follows_gradient_descent(drawn: list[Figure], tmp_path: Path) -> None:
    callback = Descent()
    fit_model(callback, NetworkModel(linear([[0, 0]])), TWO_SAMPLES, tmp_path, max_epochs=5)
    path = torch.stack(callback.path).numpy()
    np.testing.assert_allclose(path, compute_descent_path(0.1, 5), rtol=1e-5)
    axis = drawn[0].axes[0]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), path)
    w1, w2 = path[-1]
    final = ((w1 - 1) ** 2 + 4 * (w2 - 1) ** 2) / 2
    assert axis.get_title() == f"Descent in 5 steps: loss 2.5 → {final:.3g}"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("$w_1$", "$w_2$")
    assert [text.get_text() for text in axis.get_legend().texts] == ["start", "end"]


def test_path_has_one_point_per_step(tmp_path: Path) -> None:
    """With accumulated gradients, the path has one point per optimiser step, not per batch."""
    callback = Descent()
    fit_model(
        callback, NetworkModel(linear([[0, 0]])), make_samples(12), tmp_path, batch_size=2, accumulate_grad_batches=3
    )
    assert len(callback.path) == 1 + 2


def test_surface_is_loss_of_all_samples() -> None:
    """The model's weights are unchanged afterwards."""
    model = NetworkModel(linear([[0.5, 0.25]]))
    surface = compute_surface(model, *TWO_SAMPLES, torch.tensor([[0.0, 0.0], [2.0, 0.5]]))
    w1, w2 = surface.xs, surface.ys[:, None]
    torch.testing.assert_close(surface.losses, ((w1 - 1).square() + 4 * (w2 - 1).square()) / 2)
    assert (surface.xs[0].item(), surface.xs[-1].item()) == pytest.approx((-0.5, 2.5))
    assert (surface.ys[0].item(), surface.ys[-1].item()) == pytest.approx((-0.75, 1.25))  # half as wide as long
    assert model.net.state_dict()["0.weight"].tolist() == [[0.5, 0.25]]


def test_surface_supports_weight_and_bias() -> None:
    """The two parameters may be a weight and a bias."""
    model = NetworkModel(linear([[0]], [0]), inputs=1)
    inputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 2.0])
    found = compute_losses(model, inputs, targets, torch.tensor([[0.0, 2.0], [1.0, 0.0], [1.0, 1.0]]))
    assert found.tolist() == [0, 1, 2]  # of the errors (0, 0), (−1, 1), (0, 2)
    assert get_weight_labels(model) == ("$w$", "$b$")


class HalvingData(InMemoryDataModule):
    def transform(self, inputs: Tensor, augment: bool = False) -> Tensor:
        return inputs / 2


def test_surface_uses_transformed_inputs(drawn: list[Figure], tmp_path: Path) -> None:
    doubled = Samples(2 * TWO_SAMPLES.inputs, TWO_SAMPLES.targets)
    trainer = quiet_trainer(tmp_path, callbacks=[Descent()], max_epochs=5)
    trainer.fit(NetworkModel(linear([[0, 0]])), datamodule=HalvingData(doubled, task="regression"))
    assert drawn[0].axes[0].get_title().startswith("Descent in 5 steps: loss 2.5 →")


@pytest.mark.parametrize("layer", [linear([[0, 0]], [0]), linear([[0]])])
def test_path_requires_exactly_two_parameters(layer: nn.Linear, drawn: list[Figure], tmp_path: Path) -> None:
    callback = Descent()
    inputs = layer.in_features
    fit_model(callback, NetworkModel(layer, inputs=inputs), make_samples(4, features=inputs), tmp_path)
    assert callback.path == [] and drawn == []


def test_exploding_path_is_cut_off(drawn: list[Figure], tmp_path: Path) -> None:
    """The path is shown up to the first step that leaves the plotted range."""
    callback = Descent()
    with pytest.raises(DivergedError):
        fit_model(
            callback, NetworkModel(linear([[0, 0]]), lr=1.0), TWO_SAMPLES, tmp_path, max_epochs=200
        )  # w2 − 1 is tripled, in turn
    axis = drawn[0].axes[0]
    path = np.asarray(axis.lines[0].get_xydata())
    # From 2.5 the loss grows to 18 and to 162: the first step stays below 20 times it, the second leaves.
    np.testing.assert_allclose(path, compute_descent_path(1.0, 2), rtol=1e-5)
    assert path[2, 1] == pytest.approx(-8)
    assert axis.get_ylim() == pytest.approx((-1, 5))
    assert [text.get_text() for text in axis.get_legend().texts] == ["start"]
    assert axis.get_title().endswith("loss 2.5 → inf")


def test_resumed_run_continues_path(tmp_path: Path) -> None:
    first, second = Descent(), Descent()
    model = NetworkModel(linear([[0, 0]]))
    trainer = quiet_trainer(tmp_path, callbacks=[first], max_epochs=2)
    trainer.fit(model, datamodule=InMemoryDataModule(TWO_SAMPLES, task="regression"))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer = quiet_trainer(tmp_path, callbacks=[second], max_epochs=5)
    data = InMemoryDataModule(TWO_SAMPLES, task="regression")
    trainer.fit(NetworkModel(linear([[9, 9]])), datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"))
    np.testing.assert_allclose(torch.stack(second.path).numpy(), compute_descent_path(0.1, 5), rtol=1e-5)


def test_arrows_are_spaced_by_path_length() -> None:
    still = torch.zeros(3, 2)
    assert select_arrow_steps(still) == []
    one_long_step = torch.tensor([[0.0, 0], [0.01, 0], [10, 0], [10.01, 0]])
    assert select_arrow_steps(one_long_step) == [2]
    even = torch.stack([torch.arange(17.0), torch.zeros(17)], dim=1)
    assert select_arrow_steps(even) == [1, 3, 5, 7, 9, 11, 13, 15]


def test_long_path_is_sampled_evenly() -> None:
    assert select_evenly_spaced(4).tolist() == [0, 1, 2, 3]
    looked_at = select_evenly_spaced(100_001)
    assert len(looked_at) == 500
    assert (looked_at[0], looked_at[-1]) == (0, 100_000)
    assert (looked_at.diff() > 0).all()
