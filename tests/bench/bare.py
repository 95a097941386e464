"""The training loop that one writes by hand, as good as it gets, on tensors in memory: the other side of `steps`.

It keeps no metrics, shows no progress and writes nothing; after each epoch it counts what it gets right of the
validation samples. Model, optimiser and samples are those of a run of the project with the same arguments.

    python -m tests.bench.bare plain,fused data=mnist trainer.max_epochs=3      # or graph; prints seconds as JSON

With "graph" each step is one replay of a CUDA graph, from indexing the batch to the fused optimiser.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn import functional as F

from src.cli.names import register_resolvers
from src.core import devices
from src.core.places import CONF
from src.data.base import TensorDataModule
from src.data.loading.samples import Samples
from src.training import build
from tests.bench.turns import take_turn

WARM_UP = 3  # steps before one is captured
Step = Callable[[Tensor], None]  # on the samples of these numbers, (B,)


def train_and_time(kind: str, *arguments: str) -> dict[str, list[float]]:
    """Seconds of each epoch's training, and of each whole epoch with its validation.

    Args:
        kind: "plain", "fused" or "graph".
        arguments: a run's settings.
    """
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*arguments, f"optimizer.fused={str(kind != 'plain').lower()}"])
    device = build.prepare_machine(cfg)
    os.environ[devices.NVML_CUDA_CHECK] = (
        "0"  # as without Lightning, which slows down every optimiser step of a process
    )
    torch.manual_seed(0)
    data = build.build_tensor_data(cfg)
    data.setup()
    model = build.build_model(cfg, data, device).to(device)
    optimizer = model.configure_optimizers()
    assert data.train_set is not None and data.val_set is not None
    train, val = in_memory(data.train_set, data, device), in_memory(data.val_set, data, device, augmented=False)
    seconds: dict[str, list[float]] = {"training": [], "epochs": []}
    step = make_step(model.net, optimizer, train, data, precision(cfg.trainer.precision, device))
    if kind == "graph":
        for group in optimizer.param_groups:
            group.update({"capturable": True} if "capturable" in group else {})
        step = Graphs(step)
    with take_turn():
        for _ in range(cfg.trainer.max_epochs):
            began = now(device)
            order = torch.randperm(train.size, device=device)
            for batch in order.split(data.batch_size):
                step(batch)
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
    if not (augmented and getattr(data, "has_augmentation", False)):
        inputs = data.transform(inputs)
    return Samples(inputs, targets.float() if data.task == "binary" else targets)


def precision(asked: str, device: str) -> torch.dtype | None:
    """Return what the network calculates in where that is not its weights' own type."""
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return mixed.get(devices.resolve_precision(asked, device))


def make_step(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    data: TensorDataModule,
    dtype: torch.dtype | None,
) -> Step:
    """Return what takes a step; ``dtype`` is that of mixed precision, or ``None``."""
    inputs, targets = samples
    augments = getattr(data, "has_augmentation", False)

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast(
            x.device.type, dtype, cache_enabled=False
        ):  # a graph bears no cache; each weight is used once
            return net(x)

    forward = net if dtype is None else mixed

    def take_step(batch: Tensor) -> None:
        x, y = inputs[batch], targets[batch]
        if augments:
            x = data.transform(x, augment=True)
        loss = criterion(forward(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return take_step


class Graphs:
    """Takes a step on a GPU as the replay of a CUDA graph, of each size of batch its own.

    Args:
        step: what is captured, after some steps that are taken as they are.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by the size, with what it reads

    def __call__(self, batch: Tensor) -> None:
        if len(batch) not in self.captured:
            self.captured[len(batch)] = self.capture(batch.clone())
        graph, numbers = self.captured[len(batch)]
        numbers.copy_(batch)
        graph.replay()

    def capture(self, numbers: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.step(numbers)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(numbers)
        return graph, numbers


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
    kinds, *arguments = sys.argv[1:]
    print(json.dumps({kind: train_and_time(kind, *arguments) for kind in kinds.split(",")}), flush=True)
