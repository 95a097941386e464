"""The training loop that one writes by hand, as good as it gets, on tensors in memory: the other side of `steps`.

It keeps no metrics, shows no progress and writes nothing; after each epoch it counts what it gets right of the
validation samples. Model, optimiser and samples are those of a run of the project with the same arguments.

    python -m tests.bench.bare fused data=mnist trainer.max_epochs=3      # or plain; prints seconds as JSON
"""

import json
import os
import sys
import time

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn import functional as F

from src import build, devices
from src.cli import register_resolvers
from src.data.base import Samples, TensorDataModule
from src.messages import CONF


def train_and_time(optimizer_kind: str, *arguments: str) -> dict[str, list[float]]:
    """Seconds of each epoch's training, and of each whole epoch with its validation."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*arguments, f"optimizer.fused={'true' if optimizer_kind == 'fused' else 'false'}"])
    device = build.prepare(cfg)
    os.environ[devices.ASK_NVML] = "0"  # as without Lightning, which slows down every optimiser step of a process
    torch.manual_seed(0)
    data = build.build_tensors(cfg)
    data.setup()
    model = build.build_model(cfg, data, device).to(device)
    optimizer = model.configure_optimizers()
    assert data.train_set is not None and data.val_set is not None
    train, val = in_memory(data.train_set, data, device), in_memory(data.val_set, data, device, augmented=False)
    seconds: dict[str, list[float]] = {"training": [], "epochs": []}
    for _ in range(cfg.trainer.max_epochs):
        began = now(device)
        train_epoch(model.net, optimizer, train, data)
        trained = now(device)
        count_correct(model.net, val, data)
        seconds["training"].append(trained - began)
        seconds["epochs"].append(now(device) - began)
    return seconds


def now(device: str) -> float:
    """The time when the device has done what it was given."""
    if device == devices.CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def in_memory(samples: Samples, data: TensorDataModule, device: str, augmented: bool = True) -> Samples:
    """Samples as the loop wants them on the device: standardised once, or as bytes if each batch is augmented."""
    inputs, targets = samples.inputs.to(device), samples.targets.to(device)
    if not (augmented and getattr(data, "augments", False)):
        inputs = data.transform(inputs)
    return Samples(inputs, targets.float() if data.task == "binary" else targets)


def train_epoch(
    net: torch.nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, data: TensorDataModule
) -> None:
    inputs, targets = samples
    augments = getattr(data, "augments", False)
    order = torch.randperm(len(targets), device=targets.device)
    for start in range(0, len(targets), data.batch_size):
        batch = order[start : start + data.batch_size]
        x, y = inputs[batch], targets[batch]
        if augments:
            x = data.transform(x, augment=True)
        loss = criterion(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets)
    return F.cross_entropy(outputs, targets)


@torch.inference_mode()
def count_correct(net: torch.nn.Module, samples: Samples, data: TensorDataModule) -> int:
    net.eval()
    correct = torch.zeros((), dtype=torch.long, device=samples.targets.device)
    for x, y in zip(*(part.split(500) for part in samples), strict=True):
        outputs = net(x)
        correct += ((outputs.squeeze(1) > 0) == y if data.task == "binary" else outputs.argmax(1) == y).sum()
    net.train()
    return int(correct)


if __name__ == "__main__":
    print(json.dumps(train_and_time(*sys.argv[1:])), flush=True)
