"""What a device calculates at most, and what a training step asks for; prints both as JSON.

python -m tests.gpu.ceiling cuda model=resnet18 data=cifar10
"""

import json
import sys
import time
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from src.cli.names import register_resolvers
from src.core.places import CONF
from src.training import build
from tests.bench.turns import take_turn

SIDES = {"cuda": 8192, "cpu": 128}  # of the matrices
TIMES, PRODUCTS, IMAGES = 7, 30, 2


def multiply(device: str) -> list[float]:
    """Trillions of operations per second of matrix products in bfloat16, measured several times after a warm-up."""
    side = SIDES[device]
    first, second = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    product, rates = torch.empty_like(first), []
    for _ in range(TIMES + 1):
        began = now(device)
        for _ in range(PRODUCTS):
            torch.mm(first, second, out=product)
        rates.append(PRODUCTS * 2 * side**3 / (now(device) - began) / 1e12)
    return rates[1:]


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def count_operations(*choices: str) -> float:
    """Floating-point operations of a training step for an image, forwards and backwards, as torch counts them."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*choices, "trainer=cpu"])
    data = build.build_tensor_data(cfg)
    model = build.build_model(cfg, data, "cpu")
    with FlopCounterMode(display=False) as counter:
        outputs = model(torch.randn(IMAGES, *data.in_shape))
        cross_entropy(outputs, torch.zeros(IMAGES, dtype=torch.long)).backward()
    return float(counter.get_total_flops()) / IMAGES


if __name__ == "__main__":
    device, *choices = sys.argv[1:]
    told: dict[str, Any] = {"side": SIDES[device], "operations": count_operations(*choices)}
    with take_turn():
        told["products"] = multiply(device)
    print(json.dumps(told), flush=True)
