"""What is drawn of an image classifier's answers and of its training images."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import seed_everything
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from src.callbacks.figures.base import format_percent, to_image_array
from src.callbacks.figures.per_class import ClassAccuracy, compute_class_accuracies
from src.callbacks.figures.predictions import (
    ClassProbabilities,
    compute_class_probabilities,
    find_top_classes,
)
from src.callbacks.figures.training_images import AugmentedBatch, to_display_images
from src.core.colours import CORRECT, INCORRECT, OTHER
from src.data.augment import flip_images
from src.data.loading.samples import Samples
from src.data.mnist import MNIST
from src.models.mlp import MLP
from tests.callbacks.test_pictures_of_a_run import NAMES, Pixels, make_brightness_model, pixels
from tests.doubles import SGD, ZERO_RATE_SGD, InMemoryDataModule, quiet_trainer


def get_bars(axis: Any) -> list[tuple[str, float, str]]:
    """Each bar's label, length and colour, from the top."""
    labels = [tick.get_text() for tick in axis.get_yticklabels()]
    return [
        (name, bar.get_width(), to_hex(bar.get_facecolor())) for name, bar in zip(labels, axis.patches, strict=True)
    ]


# Class probabilities


def test_probabilities_are_softmax_of_outputs() -> None:
    """A single output is the logit of the second class against 0."""
    expected = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(compute_class_probabilities(torch.tensor([[0.0, math.log(3)]])), expected)
    torch.testing.assert_close(compute_class_probabilities(torch.tensor([[math.log(3)]])), expected)


def test_probabilities_are_never_exactly_certain() -> None:
    """Even extreme outputs give less than 1 and more than 0."""
    sure = compute_class_probabilities(torch.tensor([[0.0, 300.0]]))[0].tolist()
    assert [format_percent(share, 0) for share in sure] == ["<1%", ">99%"]


def test_true_class_is_always_shown() -> None:
    shares = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert find_top_classes(shares, true_class=2, count=3) == [1, 2, 3]
    assert find_top_classes(shares, true_class=0, count=3) == [1, 2, 0]
    assert find_top_classes(shares, true_class=0, count=9) == [1, 2, 3, 0]


def test_probability_bars_mark_true_and_predicted(drawn: list[Figure], tmp_path: Path) -> None:
    """Each test image is next to its bars; the true class and a wrong prediction are coloured."""
    test = pixels([150, 110, 100, 60], [2, 0, 2, 1])
    trainer = quiet_trainer(tmp_path, callbacks=[ClassProbabilities(count=3)])
    trainer.test(make_brightness_model(), datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    axes = drawn[0].axes
    shown = [(int(np.asarray(axis.images[0].get_array())[0, 0]), axis.get_title()) for axis in axes if axis.images]
    assert shown == [(110, "cat"), (60, "dog"), (150, "emu")]  # one of each class
    true, mistaken, other = to_hex(CORRECT), to_hex(INCORRECT), to_hex(OTHER)
    first, second, third = [axis for axis in axes if axis.patches]
    total = 1 + math.e + math.e**2  # outputs of 110: 0, 1, 2
    lengths = [math.e**2 / total, math.e / total, 1 / total]
    assert [(name, colour) for name, _, colour in get_bars(first)] == [("emu", mistaken), ("dog", other), ("cat", true)]
    assert [length for _, length, _ in get_bars(first)] == pytest.approx(lengths)
    assert [text.get_text() for text in first.texts] == ["67%", "24%", "9%"]
    assert [(name, colour) for name, _, colour in get_bars(second)] == [
        ("cat", mistaken),
        ("dog", true),
        ("emu", other),
    ]
    assert [(name, colour) for name, _, colour in get_bars(third)] == [("emu", true), ("dog", other), ("cat", other)]


def test_probabilities_are_computed_without_dropout(drawn: list[Figure], tmp_path: Path) -> None:
    model = MLP([50], "relu", 0.9, False, in_shape=[1, 1, 1], num_classes=3, task="multiclass", optimizer=ZERO_RATE_SGD)
    test = pixels([150], [1])
    data = Pixels(test, test=test, class_names=NAMES)
    quiet_trainer(tmp_path, callbacks=[ClassProbabilities(1)]).test(model, datamodule=data, verbose=False)
    expected = model.eval()(data.transform(test.inputs)).softmax(dim=1)[0].sort(descending=True).values
    (axis,) = [axis for axis in drawn[0].axes if axis.patches]
    assert [length for _, length, _ in get_bars(axis)] == pytest.approx(expected.tolist())


# Accuracy by class


def test_class_accuracies_are_sorted() -> None:
    """The best class comes first; classes without samples are left out."""
    counts = torch.tensor([[1, 1, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 5]])
    assert compute_class_accuracies(counts, ("a", "b", "c", "d")) == [("d", 1.0), ("b", 0.75), ("a", 0.5)]


def test_class_accuracy_bars_show_mean(drawn: list[Figure], tmp_path: Path) -> None:
    """The bars are the accuracies on the test set; a line marks the mean of the classes."""
    test = pixels([150, 150, 50, 150, 50], [2, 1, 0, 2, 2])  # cat 1/1, dog 0/1, emu 2/3
    trainer = quiet_trainer(tmp_path, callbacks=[ClassAccuracy()])
    trainer.test(make_brightness_model(), datamodule=Pixels(test, test=test, class_names=NAMES), verbose=False)
    (axis,) = drawn[0].axes
    names, lengths, _ = zip(*get_bars(axis), strict=True)
    assert names == ("cat", "emu", "dog")
    assert lengths == pytest.approx((1, 2 / 3, 0))
    assert [text.get_text() for text in axis.texts] == ["100.0%", "66.7%", "0.0%"]
    (line,) = axis.lines
    assert list(line.get_xdata()) == pytest.approx([5 / 9, 5 / 9])  # (1 + 2/3 + 0) / 3
    assert line.get_label() == "mean of the classes 55.6%"
    assert axis.yaxis_inverted()  # the first bar on top


# The augmented batch

BYTES = (torch.zeros(2, 1, 1), torch.full((2, 1, 1), 255.0))  # black and white


def test_display_images_undo_standardisation() -> None:
    """Without a mean and a standard deviation, each channel is stretched to its range."""
    outputs = torch.tensor([[[[-1.0, 0.0]], [[0.0, 2.0]]], [[[3.0, 3.0]], [[1.0, 1.0]]]])  # (2, 2, 1, 2)
    mean, std = torch.tensor([100.0, 0.0]).view(2, 1, 1), torch.tensor([10.0, 200.0]).view(2, 1, 1)
    expected = [[[[90, 100]], [[0, 255]]], [[[130, 130]], [[200, 200]]]]  # 2·200 is cut off at 255
    assert to_display_images(outputs, mean, std, BYTES).tolist() == expected
    stretched = [[[[0, 64]], [[0, 255]]], [[[255, 255]], [[128, 128]]]]
    assert to_display_images(outputs, None, None, BYTES).tolist() == stretched
    assert (
        to_display_images(outputs, torch.empty(0), torch.empty(0), BYTES).tolist() == stretched
    )  # before they are known


def mnist(folder: Path, **settings: Any) -> MNIST:
    return MNIST(str(folder), verify=False, batch_size=50, val_size=0, train_size=60, **settings)


def make_mnist_model() -> MLP:
    return MLP([], "relu", 0.0, False, in_shape=[1, 28, 28], num_classes=10, task="multiclass", optimizer=ZERO_RATE_SGD)


def test_augmented_batch_pairs_original_and_augmented(drawn: list[Figure], tmp_path: Path, data_dir: Path) -> None:
    """Below each training image is what the network gets; the figure is drawn once."""
    trainer = quiet_trainer(tmp_path, callbacks=[AugmentedBatch(count=10)], max_epochs=2)
    data = mnist(data_dir, flip=True)
    trainer.fit(make_mnist_model(), datamodule=data)
    (figure,) = drawn  # once
    rows = np.array(figure.axes).reshape(4, 8)
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["original", "augmented"] * 2
    pairs = [*zip(rows[0], rows[1], strict=True), *zip(rows[2], rows[3], strict=True)]
    assert [len(axis.images) for pair in pairs for axis in pair] == [1] * 20 + [0] * 12
    mirrored = []
    for number, (above, below) in enumerate(pairs[:10]):
        kept, seen = [np.asarray(axis.images[0].get_array()) for axis in (above, below)]
        first = int((data.train_set.targets == number).nonzero()[0])  # of class 0, of class 1 …
        np.testing.assert_array_equal(kept, to_image_array(data.train_set.inputs[first]))
        mirrored.append(not np.array_equal(seen, kept))
        np.testing.assert_array_equal(seen, np.fliplr(kept) if mirrored[-1] else kept)
    assert 0 < sum(mirrored) < 10


def test_augmented_batch_requires_augmentation(drawn: list[Figure], tmp_path: Path, data_dir: Path) -> None:
    quiet_trainer(tmp_path, callbacks=[AugmentedBatch(8)]).fit(make_mnist_model(), datamodule=mnist(data_dir))
    samples = pixels([1, 2], [0, 1])
    quiet_trainer(tmp_path, callbacks=[AugmentedBatch(8)]).fit(make_brightness_model(), datamodule=Pixels(samples))
    assert drawn == []


class FlippedImages(InMemoryDataModule):
    """Small images that are mirrored at random."""

    has_augmentation = True

    def transform(self, inputs: torch.Tensor, augment: bool = False) -> torch.Tensor:
        return (flip_images(inputs) if augment else inputs).float() / 255


def train_weights(folder: Path, callbacks: list[Any]) -> torch.Tensor:
    """The weights after two epochs with dropout and flips, from seed 7."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (30, 1, 4, 4), dtype=torch.uint8, generator=generator)
    data = FlippedImages(Samples(images, torch.arange(30) % 3), class_names=NAMES, shuffle=True, order_seed=0)
    seed_everything(7, verbose=False)
    model = MLP([8], "relu", 0.5, False, in_shape=[1, 4, 4], num_classes=3, task="multiclass", optimizer=SGD)
    quiet_trainer(folder, max_epochs=2, callbacks=callbacks).fit(model, datamodule=data)
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_augmented_batch_does_not_change_results(drawn: list[Figure], tmp_path: Path) -> None:
    without = train_weights(tmp_path, [])
    assert torch.equal(train_weights(tmp_path, [AugmentedBatch(6)]), without)
    assert len(drawn) == 1


@pytest.mark.parametrize("callback", [ClassProbabilities(4), ClassAccuracy()])
def test_regression_has_no_classification_figures(callback: Any, drawn: list[Figure], tmp_path: Path) -> None:
    samples = Samples(torch.randn(6, 1, 4, 4), torch.randn(6))
    data = FlippedImages(samples, test=samples, task="regression")
    model = MLP([], "relu", 0.0, False, in_shape=[1, 4, 4], num_classes=0, task="regression", optimizer=ZERO_RATE_SGD)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert drawn == []
