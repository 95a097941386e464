"""The sides of `evaluate`, in turns in one process: prints the seconds of each as JSON.

python -m tests.bench.evaluate_sides trainer=cpu model=mlp data=mnist
"""

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch import Tensor, nn

from src.cli.names import register_resolvers
from src.core import devices
from src.core.places import CONF
from src.data.base import TensorDataModule
from src.training import build
from tests.bench.measuring import OURS

REPEATS, SECONDS = 15, 30.0  # at most so many of each side, and so long in all
BATCHES = (500, 10_000)
NEAR = 1e-3  # a GPU rounds larger batches otherwise


def made(*choices: str) -> tuple[str, Trainer, LightningModule, TensorDataModule]:
    """Kind of device, trainer, model and loaded data of a run, with its threads."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*choices])
    kind = build.prepare_machine(cfg)
    seed_everything(0, verbose=False)
    data = build.build_tensor_data(cfg)
    model = build.build_model(cfg, data, kind)
    if kind == devices.CPU and devices.resolve_threads(cfg.threads) is None:
        devices.limit_threads(ModelSummary(model).total_flops * data.batch_size)
    data.prepare_data()
    data.setup()
    return kind, build.build_plain_trainer(cfg, kind, Path(tempfile.mkdtemp())), model, data


@torch.inference_mode()
def forward(net: nn.Module, inputs: Tensor, targets: Tensor, size: int) -> float:
    """The accuracy (a share) by the network alone, on standardised floats (N, …) that are there already."""
    parts = zip(inputs.split(size), targets.split(size), strict=True)
    correct = torch.stack([(net(part).argmax(1) == wanted).sum() for part, wanted in parts])
    return int(correct.sum()) / len(targets)


def test(trainer: Trainer, model: LightningModule, data: TensorDataModule) -> float:
    """The accuracy by the run's own test: loss, accuracy and confusion matrix."""
    (metrics,) = trainer.test(model, datamodule=data, verbose=False)
    return metrics["test/acc"]


def times(sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of each side, in turns after a warm-up, in which they must agree to a few images."""
    accuracies = {name: side() for name, side in sides.items()}
    if max(accuracies.values()) - min(accuracies.values()) > NEAR:
        sys.exit(f"the sides do not agree: {accuracies}")
    found: dict[str, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + SECONDS
    while len(found[OURS]) < REPEATS and time.perf_counter() < end:
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            found[name].append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    kind, trainer, model, data = made(*sys.argv[1:])
    assert data.test_set is not None and isinstance(model.net, nn.Module)
    net = copy.deepcopy(model.net).eval().to(kind)  # the trainer takes the model itself off the device after a test
    inputs, targets = data.transform(data.test_set.inputs.to(kind)), data.test_set.targets.to(kind)
    bare = {f"forward pass, {size} at a time": partial(forward, net, inputs, targets, size) for size in BATCHES}
    print(json.dumps(times({OURS: partial(test, trainer, model, data), **bare})), flush=True)
