"""Training steps of a fully featured run on the GPU, against bare loops on tensors that lie there.

The bare loops are those of `tests.bench.bare`: plain, with a fused optimiser, and with the whole step as a CUDA graph.
All take their batches from the device and change nothing else of the run's settings.
"""

import json
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import times
from tests.bench.measuring import OURS, Table, tell
from tests.gpu.stage import MissingError, Stage, TimeUp

ROUNDS = 3
SIDES = {"plain": "bare loop, plain optimiser", "fused": "bare loop, fused optimiser", "graph": "bare loop, CUDA graph"}
GOAL = "the plain bare loop has 1.00× or more, the one with CUDA graphs 0.83× or more"
RESNET, HALF = "ResNet18 on CIFAR-10", ("trainer.precision=bf16-mixed",)


class Net(NamedTuple):
    """What is trained: its data set (``None``: made on the spot), batch size, steps of an epoch, epochs, settings."""

    data: str | None
    batch_size: int
    steps: int
    epochs: int
    settings: tuple[str, ...]


NETS = {
    "MLP 784-100-10 on MNIST": Net("mnist", 64, 400, 5, ("model=mlp",)),
    "XOR's preset, MLP 2-3-1": Net(None, 1, 100, 30, ("experiment=xor", "trainer.check_val_every_n_epoch=1")),
    "the default CNN on CIFAR-10": Net("cifar10", 128, 100, 5, ("model=cnn",)),
    RESNET: Net("cifar10", 512, 20, 5, ("model=resnet18", *HALF)),
}


def measure(stage: Stage) -> Iterator[tuple[str, Table]]:
    """Microseconds of a step of each network, then ResNet18's as a share of the device's ceiling."""
    values: dict[str, dict[str, list[float]]] = {}
    nets = {}
    for what, net in NETS.items():
        try:
            nets[what] = settings_of(stage, net)
        except MissingError as error:
            tell(f"{what}: left out: {error}")
    products: dict[str, Any] = {}
    for number in range(stage.size(ROUNDS, 1)):
        try:
            found, more = one_round(stage, nets, with_ceiling=not number and RESNET in nets)
        except TimeUp:
            if number:  # each has been measured
                return
            raise
        products |= more
        for what, sides in found.items():
            for side, times_ in sides.items():
                values.setdefault(what, {}).setdefault(side, []).extend(times_)
            yield what, table(what, NETS[what], values[what])
        if products:
            yield "ceiling", share_of_ceiling(stage, NETS[RESNET], products, values[RESNET][OURS])


def table(what: str, net: Net, values: dict[str, list[float]]) -> Table:
    title = f"Microseconds per training step, {what}, batch {net.batch_size}; torch {version('torch')}"
    mixed = ("bf16-mixed on each side",) if HALF[0] in net.settings else ()
    return Table(title, "µs", values, OURS, mixed, GOAL)


def settings_of(stage: Stage, net: Net) -> list[str]:
    """A run's settings, but for its accelerator."""
    size = stage.size(net.batch_size, min(net.batch_size, 8))
    count = [f"data.batch_size={size}", f"trainer.max_epochs={stage.size(net.epochs, 2)}"]
    if net.data is None:
        return [*net.settings, *count]
    images = [f"data.train_size={size * stage.size(net.steps, 3)}", f"data.val_size={stage.size(1000, 100)}"]
    return [*net.settings, *stage.images(net.data), *count, *images]


def one_round(
    stage: Stage, nets: dict[str, list[str]], with_ceiling: bool
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any]]:
    """Microseconds of a step in each epoch but the first, by network and side; what the device calculates at most.

    All processes start together, and are timed in turns.
    """
    kinds = ",".join(kind for kind in SIDES if kind != "graph" or not stage.dry)
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for number, settings in enumerate(nets.values()):
            ours = ("-m", "src.train", *settings, stage.trainer, times.SETTING, f"paths.outputs={folder}/{number}")
            commands += [ours, ("-m", "tests.bench.bare", kinds, *settings, stage.trainer)]
        if with_ceiling:
            commands.append(("-m", "tests.gpu.ceiling", stage.device, *nets[RESNET]))
        told = [out for _, out in stage.run_together(*commands)]
        found = {}
        for number, what in enumerate(nets):
            written = next(Path(folder, str(number)).glob(f"runs/*/{times.FILE}")).read_text()
            bare = json.loads(told[2 * number + 1].splitlines()[-1])
            sides = {OURS: json.loads(written)} | {SIDES[kind]: seconds for kind, seconds in bare.items()}
            count = 100 if NETS[what].data is None else stage.size(NETS[what].steps, 3)
            found[what] = {
                side: [1e6 * each / count for each in seconds["training"][1:]] for side, seconds in sides.items()
            }
    return found, json.loads(told[-1].splitlines()[-1]) if with_ceiling else {}


def share_of_ceiling(stage: Stage, net: Net, found: dict[str, Any], microseconds: list[float]) -> Table:
    """ResNet18's operations per second beside those of large matrix products in bfloat16."""
    size = stage.size(net.batch_size, 8)
    products, step = f"matrix products in bfloat16, {found['side']}³", f"ResNet18's step, batch {size}, bf16-mixed"
    rates = [found["operations"] * size / time / 1e6 for time in microseconds]
    title = f"Trillions of floating-point operations per second; torch {version('torch')}"
    note = f"a step's operations, forwards and backwards, as torch counts them: {found['operations']:.3g} for an image"
    values = {products: found["products"], step: rates}
    return Table(title, "TFLOP/s", values, products, (note,), "the step reaches 0.35× or more")
