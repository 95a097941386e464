"""The recipe of ``experiment=cifar10_fast`` as a plain loop, which takes nothing of this project but the images.

Prints as JSON seconds of training and accuracy of each run, in percent. The first run, beyond those that are asked for,
searches for the fastest kernels, which the others find made.

    python -m tests.gpu.plain_flagship cuda data/ 5 16 1024        # device, data, runs, epochs, batch size

Its numbers are those of conf/experiment/cifar10_fast.yaml, which come from Jordan (2024, arXiv:2404.00498) and Page
(2019): whitened 2×2 patches, three blocks of 64, 256 and 256 channels, Nesterov momentum, a rate that rises and falls
in straight lines, batch norms' shifts learning 64 times as fast, labels smoothed, images mirrored and shifted.
"""

import json
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.data.cifar10 import CIFAR10
from tests.bench.turns import take_turn

WIDTHS, SHIFT, SMOOTHING, SCALE = (64, 256, 256), 2, 0.2, 1 / 9
RATE, MOMENTUM, DECAY, FASTER = 1.5, 0.85, 1.33e-3, 64.0
RISE, START, END = 0.23, 1 / 5, 1 / 100  # share of the steps that the rate rises, where it starts and ends, of RATE
FITTED = 5000  # images that the first layer is fitted to


class Block(nn.Module):
    """(B, C, H, W) → (B, D, H/2, W/2)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, momentum=0.4) for _ in range(2))
        for convolution in (self.first, self.second):  # begins by passing its inputs on
            nn.init.dirac_(convolution.weight[: convolution.in_channels])
        for norm in self.norms:
            norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norms[0](F.max_pool2d(self.first(x), 2)))
        return F.gelu(self.norms[1](self.second(x)))


class Net(nn.Module):
    """(B, 3, 32, 32) → (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        sizes = (24, *WIDTHS)
        self.blocks = nn.Sequential(*[Block(a, b) for a, b in zip(sizes, WIDTHS, strict=False)])
        self.head = nn.Linear(WIDTHS[-1], 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.gelu(self.whiten(x)))
        return self.head(x.amax(dim=(2, 3))) * SCALE

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the first layer's filters from the patches of images (N, 3, H, W), with both signs."""
        patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1).double()  # (N·L, 12)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


def epoch_of(images: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of floats (B, 3, 32, 32) in a new order, mirrored and shifted, all on the device."""
    count, device = len(images), images.device
    mirrored = torch.rand(count, 1, 1, 1, device=device) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    down, right = torch.randint(2 * SHIFT + 1, (2, count), device=device)
    shifted = torch.empty_like(images)
    for row in range(2 * SHIFT + 1):
        for column in range(2 * SHIFT + 1):
            chosen = (down == row) & (right == column)
            shifted[chosen] = padded[chosen, :, row : row + 32, column : column + 32]
    order = torch.randperm(count, device=device)
    for numbers in order.split(size):
        if len(numbers) == size:
            yield shifted[numbers].contiguous(memory_format=torch.channels_last), targets[numbers]


def rate_at(step: int, steps: int) -> float:
    """The learning rate of a step, as a share of its highest."""
    top = RISE * steps - 1
    if step <= top:
        return START + (1 - START) * step / top
    return 1 + (END - 1) * (step - top) / (steps - 1 - top)


def train(images: Tensor, targets: Tensor, epochs: int, size: int) -> tuple[Net, float]:
    """A trained network, and the seconds that it took."""
    device = images.device.type
    began = now(device)
    net = Net().to(device).to(memory_format=torch.channels_last)
    net.fit(images[:FITTED])
    shifts = [norm.bias for block in net.blocks for norm in block.norms]
    others = [each for each in net.parameters() if each.requires_grad and all(each is not shift for shift in shifts)]
    groups = [
        {"params": others, "lr": RATE, "weight_decay": DECAY},
        {"params": shifts, "lr": RATE * FASTER, "weight_decay": DECAY / FASTER},
    ]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, nesterov=True)
    steps = epochs * (len(images) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(min(step, steps - 1), steps))
    for _ in range(epochs):
        for x, y in epoch_of(images, targets, size):
            with torch.autocast(device, torch.bfloat16):
                outputs = net(x)
            loss = F.cross_entropy(outputs.float(), y, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net, now(device) - began


@torch.no_grad()
def test(net: Net, images: Tensor, targets: Tensor) -> tuple[float, float]:
    """Accuracy in percent: of the images, and of each with its mirror image."""
    net.eval()
    right = torch.zeros(2, device=images.device)
    for x, y in zip(images.split(1000), targets.split(1000), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16):
            plain, mirrored = net(x).float(), net(x.flip(-1)).float()
        right += torch.stack([(each.argmax(1) == y).sum() for each in (plain, plain + mirrored)])
    accuracy, flipped = (100 * right / len(images)).tolist()
    return accuracy, flipped


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(device: str, root: str, runs: int, epochs: int, size: int) -> None:
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    data = CIFAR10(root=root, verify=device == "cuda", batch_size=size, val_size=0, order_seed=0)
    data.prepare_data()
    data.setup()
    assert data.train_set is not None and data.test_set is not None
    (images, targets), (others, labels) = [
        (data.transform(part.inputs.to(device)), part.targets.to(device)) for part in (data.train_set, data.test_set)
    ]
    found: dict[str, list[float]] = {"seconds": [], "accuracy": [], "flipped": []}
    with take_turn():
        for seed in range(runs + 1):
            torch.manual_seed(seed)
            net, seconds = train(images, targets, epochs, size)
            accuracy, flipped = test(net, others, labels)
            for name, value in zip(found, (seconds, accuracy, flipped), strict=True):
                found[name].append(value)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
