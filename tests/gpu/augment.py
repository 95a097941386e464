"""Images of CIFAR-10 changed at random on the device: ours, torchvision's transforms, kornia."""

import json
from collections.abc import Iterator
from importlib.metadata import version

from tests.bench.augment_sides import CROP, CUTOUT
from tests.bench.measuring import OURS, Table
from tests.gpu.augment_sides import BATCH, KORNIA
from tests.gpu.stage import Stage


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Images per second of each side; kornia's is left out where it is not installed."""
    settings = [setting.partition("=")[2] for setting in stage.images("cifar10")[1:2]]
    _, told = stage.run("-m", "tests.gpu.augment_sides", stage.device, *settings, piped=True)
    found: dict[str, list[float]] = json.loads(told.splitlines()[-1])
    title = (
        f"Images per second, augmented on the device: flip, crop {CROP}, cutout {CUTOUT}, standardised, batch {BATCH}; "
        f"torch {version('torch')}"
    )
    note = f"kornia {version('kornia')}" if KORNIA in found else "kornia is not installed: its side is left out"
    yield (
        "augment",
        Table(title, "images/s", found, OURS, (note,), "no other has more than ours, image by image a tenth"),
    )
