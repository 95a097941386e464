"""What the callbacks draw of a run of Lightning's, with the weights set by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure

from src.callbacks.figures import base as figures
from src.callbacks.figures.decision_regions import DecisionRegions
from src.callbacks.figures.learning_curves import Curves
from src.callbacks.figures.per_class import ConfusionMatrix
from src.callbacks.figures.predictions import Misclassified
from src.callbacks.figures.training_images import ImageSamples as SamplesShown
from src.callbacks.history import History
from src.data.loading.samples import Samples
from src.models.mlp import MLP
from src.training.checkpointing.checkpoint import RunCheckpoint
from tests.doubles import ZERO_RATE_SGD, InMemoryDataModule, quiet_trainer

NAMES = ("cat", "dog", "emu")


def make_brightness_model(task: str = "multiclass") -> MLP:
    """On images of 1×1 pixel: outputs that grow with the brightness, the more the higher the class."""
    classes = 3 if task == "multiclass" else 2
    model = MLP([], "relu", 0.0, False, in_shape=[1, 1, 1], num_classes=classes, task=task, optimizer=ZERO_RATE_SGD)
    layer: Any = list(model.net.modules())[-1]
    with torch.no_grad():
        layer.weight.copy_(torch.arange(3.0)[:, None] if classes == 3 else torch.ones(1, 1))
        layer.bias.zero_()
    return model


class Pixels(InMemoryDataModule):
    """Images of one pixel, kept as bytes; the model sees the brightness minus 100, a tenth of it."""

    def transform(self, inputs: torch.Tensor, augment: bool = False) -> torch.Tensor:
        return (inputs.float() - 100) / 10


def pixels(brightness: list[int], targets: list[int]) -> Samples:
    return Samples(torch.tensor(brightness, dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(targets))


def get_titled_images(figure: Figure) -> list[tuple[int, str]]:
    """The images of one pixel with their titles."""
    images = [(axis.images[0].get_array(), axis.get_title()) for axis in figure.axes if axis.images]
    return [(int(np.asarray(image)[0, 0]), title) for image, title in images]


def test_misclassified_shows_most_confident_errors(drawn: list[Figure], tmp_path: Path) -> None:
    """Each one is shown with the predicted and the true class."""
    # Above 100 the model says emu, the surer the brighter; below it cat, the surer the darker.
    test = pixels([150, 101, 60, 110, 90], [2, 0, 0, 1, 2])
    trainer = quiet_trainer(tmp_path, callbacks=[Misclassified(count=2)])
    data = Pixels(test, test=test, class_names=NAMES)
    trainer.test(make_brightness_model(), datamodule=data, verbose=False)
    # exp(0), exp(±1), exp(±2) are the shares: the largest is 1 / (1 + e⁻¹ + e⁻²), 66.5%.
    (figure,) = drawn
    assert get_titled_images(figure) == [(110, "dog, predicted emu\n(66.5%)"), (90, "emu, predicted cat\n(66.5%)")]


def test_misclassified_supports_binary_output(drawn: list[Figure], tmp_path: Path) -> None:
    """With two classes and a single output, too, only errors are shown."""
    test = pixels([150, 60, 120, 80], [1, 0, 0, 1])
    data = Pixels(test, test=test, task="binary", class_names=NAMES[:2])
    quiet_trainer(tmp_path, callbacks=[Misclassified(count=9)]).test(
        make_brightness_model("binary"), datamodule=data, verbose=False
    )
    (figure,) = drawn
    assert get_titled_images(figure) == [
        (120, "cat, predicted dog\n(88.1%)"),
        (80, "dog, predicted cat\n(88.1%)"),
    ]  # 1 / (1 + e⁻²)


def test_misclassified_without_errors_draws_nothing(drawn: list[Figure], tmp_path: Path) -> None:
    test = pixels([150, 60], [2, 0])
    trainer = quiet_trainer(tmp_path, callbacks=[Misclassified(count=2)])
    trainer.test(make_brightness_model(), datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    assert drawn == []


def test_samples_are_untransformed_training_images(drawn: list[Figure], tmp_path: Path) -> None:
    """The classes take turns."""
    train = pixels([10, 20, 30, 40, 50], [2, 2, 0, 1, 0])
    trainer = quiet_trainer(tmp_path, callbacks=[SamplesShown(count=4)])
    trainer.fit(make_brightness_model(), datamodule=Pixels(train, class_names=NAMES))
    (figure,) = drawn
    assert get_titled_images(figure) == [(30, "cat"), (40, "dog"), (10, "emu"), (50, "cat")]


def test_confusion_matrix_counts_test_samples(drawn: list[Figure], tmp_path: Path) -> None:
    test = pixels([150, 150, 50, 50, 50], [2, 1, 0, 0, 1])
    trainer = quiet_trainer(tmp_path, callbacks=[ConfusionMatrix()])
    trainer.test(make_brightness_model(), datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    axis, _ = drawn[0].axes
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axis.texts}
    assert cells == {(0, 0): "2", (1, 0): "1", (1, 1): "0", (1, 2): "1", (2, 2): "1"}
    assert [tick.get_text() for tick in axis.get_xticklabels()] == list(NAMES)
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list(NAMES)


class ScriptedAccuracyModel(MLP):
    """Learns nothing; its validation accuracy follows a script."""

    scores = (0.2, 0.8, 0.8, 0.5)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/acc": self.scores[self.current_epoch], "val/loss": 1.0 - self.scores[self.current_epoch]})


@pytest.mark.parametrize(("monitor", "kept"), [("val/acc", 3), (None, None)])
def test_curves_match_history(monitor: str | None, kept: int | None, drawn: list[Figure], tmp_path: Path) -> None:
    """The selected epoch is marked, if there is a monitor."""
    history = History()
    callbacks = [Curves(), RunCheckpoint(tmp_path / "checkpoints", monitor, "max", history)]
    model = ScriptedAccuracyModel(
        [], "relu", 0.0, False, in_shape=[2], num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD
    )
    samples = Samples(torch.randn(6, 2), torch.arange(6) % 3)
    trainer = quiet_trainer(tmp_path, max_epochs=4, callbacks=callbacks)
    trainer.fit(model, datamodule=InMemoryDataModule(samples, samples, class_names=NAMES))
    (figure,) = drawn
    for axis, measure in zip(figure.axes, ("loss", "acc"), strict=True):
        lines: dict[Any, Any] = {line.get_label(): line for line in axis.lines}
        for stage, label in (("train", "training"), ("val", "validation")):
            assert list(lines[label].get_xdata()) == [1, 2, 3, 4]
            assert list(lines[label].get_ydata()) == [row[f"{stage}/{measure}"] for row in history.rows]
        assert ("selected epoch" in lines) == (kept is not None)
        if kept:
            assert list(lines["selected epoch"].get_xdata()) == [kept, kept]


class OtherMetrics(LightningModule):
    """A module of one's own, which logs by names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch: Samples, batch_idx: int) -> torch.Tensor:
        loss = (batch.inputs @ self.weight).square().mean()
        self.log("train/energy", loss, on_step=False, on_epoch=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: Samples, batch_idx: int) -> None:
        self.log("val/energy", (batch.inputs @ self.weight).square().mean(), batch_size=len(batch.targets))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_curves_require_loss_or_accuracy(drawn: list[Figure], tmp_path: Path) -> None:
    history = History()
    callbacks = [Curves(), RunCheckpoint(tmp_path / "checkpoints", None, "max", history)]
    samples = Samples(torch.randn(6, 2), torch.arange(6) % 3)
    trainer = quiet_trainer(tmp_path, callbacks=callbacks)
    trainer.fit(OtherMetrics(), datamodule=InMemoryDataModule(samples, samples, class_names=NAMES))
    assert [set(row) for row in history.rows] == [{"epoch", "train/energy", "val/energy"}]
    assert drawn == []


@pytest.mark.parametrize(("every", "titles"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [1, 3, 5]), (10, [1])])
def test_decision_regions_are_drawn_periodically(
    every: int, titles: list[int], drawn: list[Figure], tmp_path: Path
) -> None:
    """The figure is drawn every n epochs, and at the end with the selected weights."""
    model = MLP([], "relu", 0.0, False, in_shape=[2], num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD)
    samples = Samples(torch.randn(6, 2), torch.arange(6) % 3)
    data = InMemoryDataModule(samples, test=samples, class_names=NAMES)
    trainer = quiet_trainer(tmp_path, max_epochs=5, callbacks=[DecisionRegions(every)])
    trainer.fit(model, datamodule=data)
    assert [figure.axes[0].get_title() for figure in drawn] == [f"Decision regions, epoch {n}" for n in titles]
    drawn.clear()
    trainer.test(model, datamodule=data, verbose=False)
    assert [figure.axes[0].get_title() for figure in drawn] == ["Decision regions, selected weights"]


def test_decision_regions_show_training_points(drawn: list[Figure], tmp_path: Path) -> None:
    """The training points are drawn by class over the model's predictions."""
    model = MLP([], "relu", 0.0, False, in_shape=[2], num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD)
    layer: Any = list(model.net.modules())[-1]
    with torch.no_grad():  # cat left of the others; of those dog above emu
        layer.weight.copy_(torch.tensor([[-9.0, 0], [0, 1], [0, -1]]))
        layer.bias.zero_()
    samples = Samples(torch.tensor([[-1.0, 0], [1, 1], [1, -1], [2, 1]]), torch.tensor([0, 1, 2, 1]))
    data = InMemoryDataModule(samples, test=samples, class_names=NAMES)
    quiet_trainer(tmp_path, callbacks=[DecisionRegions(0)]).test(model, datamodule=data, verbose=False)
    (axis,) = drawn[0].axes
    left, right, bottom, top = axis.images[0].get_extent()
    classes = np.asarray(axis.images[0].get_array())
    for (x, y), target in zip(samples.inputs.tolist(), samples.targets.tolist(), strict=True):
        row = round((y - bottom) / (top - bottom) * (len(classes) - 1))
        column = round((x - left) / (right - left) * (len(classes[0]) - 1))
        assert classes[row, column] == target
    points = [np.asarray(group.get_offsets()).tolist() for group in axis.collections]
    assert points == [[[-1, 0]], [[1, 1], [2, 1]], [[1, -1]]]
    assert axis.get_xlabel() == "$x_1$"


@pytest.mark.parametrize("callback", [SamplesShown(count=4), DecisionRegions(1), Misclassified(4)])
def test_unsuitable_figures_are_omitted(callback: Any, drawn: list[Figure], tmp_path: Path) -> None:
    samples = Samples(torch.randn(8, 3), torch.arange(8) % 3)  # neither images nor points of the plane
    model = MLP([], "relu", 0.0, False, in_shape=[3], num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD)
    data = InMemoryDataModule(samples, test=samples, class_names=NAMES)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert drawn == []


def test_only_main_process_draws(drawn: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "is_main_process", lambda: False)
    trainer: Trainer = quiet_trainer(tmp_path)
    Curves().show(trainer, (2, 2), [{"epoch": 1, "train/loss": 1.0}], None)
    assert drawn == []
    assert not (tmp_path / "figures").exists()
