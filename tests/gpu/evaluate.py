"""A run's test of 10,000 images on the device, against nothing but the forward pass there."""

import json
from collections.abc import Iterator
from importlib.metadata import version

from tests.bench.measuring import OURS, Table
from tests.gpu.stage import Stage

WHAT = {"the default CNN on CIFAR-10": ("cnn", "cifar10"), "the default MLP on MNIST": ("mlp", "mnist")}


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Milliseconds of an evaluation; the sides take turns in one process, after a warm-up."""
    for what, (model, data) in WHAT.items():
        settings = (stage.trainer, f"model={model}", *stage.images(data), f"data.val_size={stage.size(1000, 100)}")
        _, told = stage.run("-m", "tests.bench.evaluate_sides", *settings, piped=True)
        found = {side: [1e3 * each for each in times] for side, times in json.loads(told.splitlines()[-1]).items()}
        title = f"Milliseconds of evaluating the test images, {what}; torch {version('torch')}"
        yield what, Table(title, "ms", found, OURS, goal="the others have 0.91× or more")
