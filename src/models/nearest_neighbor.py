"""Nearest neighbours (Cover & Hart, 1967): remember all training samples; a new one gets the label of the nearest."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.core.errors import InputError
from src.models.base import Settings, SupervisedModule

TILE = 2**19  # numbers of a tile of differences: 2 MB, which stay in the processor's cache
AHEAD = 1e-4  # added to the logarithm of the winner's share, so that it also wins among equals

State = dict[str, Tensor]


class NearestNeighbor(SupervisedModule):
    """The majority of the k nearest training samples decides; of equal votes the class with the nearer neighbour.

    Of samples equally far away any may be taken.

    For classes the outputs are logarithms of the vote shares (n + 1) / (k + K), where n of the k
    neighbours voted for a class of K: Laplace's rule of succession, which keeps the cross entropy
    finite; for two classes the difference of the second's and the first's. For regression they are
    the mean of the k targets. Before anything is remembered the outputs are zero.

    There is nothing to optimise: an epoch remembers each batch as it comes, augmented where the data
    set augments; the next one forgets and remembers anew. The memory travels in the checkpoint, where
    images of pixels / 255 take a byte per pixel.

    Args:
        in_shape, num_classes, task: as for `SupervisedModule`.
        optimizer, scheduler: taken as every model does, and not used.
        distance: "l1", the sum of absolute differences, or "l2", the Euclidean distance.
        k: how many neighbours decide, ≥ 1.
        block: how many samples, of the memory and of those to predict, are compared at once, ≥ 1;
            more take more memory, block² distances, and no less time.

    Raises:
        InputError: when fewer than k samples are remembered; where several processes train, since
            each would remember its share only; if a checkpoint remembers samples of another size.
    """

    inputs: Tensor  # (N, D): uint8 where all are pixel / 255, else float32
    targets: Tensor  # (N,)

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        task: str,
        optimizer: Settings | None = None,
        scheduler: Settings | None = None,
        distance: str = "l1",
        k: int = 1,
        block: int = 1000,
    ) -> None:
        super().__init__(in_shape, num_classes, task, optimizer, scheduler)
        self.save_hyperparameters(logger=False)
        self.distances, self.k, self.block = DISTANCES[distance], k, block
        self.recent: list[tuple[Tensor, Tensor]] = []  # batches that are not joined to the memory yet
        self.register_buffer("inputs", torch.empty(0, math.prod(in_shape)), persistent=False)
        self.register_buffer("targets", torch.empty(0, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.join()
        if not len(self.targets):
            return x.new_zeros(len(x), self.out_features)
        if len(self.targets) < self.k:
            raise InputError(f"model.k={self.k}: only {len(self.targets)} training samples are remembered")
        x = x.flatten(1).float()  # (B, *in_shape) → (B, D)
        return self.outputs(torch.cat([self.neighbours(part) for part in x.split(self.block)]))  # (B, out_features)

    def neighbours(self, x: Tensor) -> Tensor:
        """The targets of the k nearest samples, the nearest first: (B, D) → (B, k)."""
        best, targets = x.new_empty(len(x), 0), self.targets.new_empty(len(x), 0)
        for start in range(0, len(self.targets), self.block):
            block = unpacked(self.inputs[start : start + self.block])
            near, index = self.distances(x, block).topk(min(self.k, len(block)), largest=False)
            best, order = torch.cat([best, near], dim=1).sort(dim=1, stable=True)
            targets = torch.cat([targets, self.targets[start + index]], dim=1).gather(1, order)
            best, targets = best[:, : self.k], targets[:, : self.k]
        return targets

    def outputs(self, targets: Tensor) -> Tensor:
        """What the targets of the neighbours, the nearest first, say: (B, k) → (B, out_features)."""
        if self.task == "regression":
            return targets.float().mean(dim=1, keepdim=True)
        votes = F.one_hot(targets, self.num_classes).sum(dim=1)  # (B, K)
        first = votes.gather(1, targets).argmax(dim=1, keepdim=True)  # the nearest neighbour of a class with most votes
        logs = ((votes + 1) / (self.k + self.num_classes)).log()
        logs = logs.scatter_add(1, targets.gather(1, first), torch.full_like(logs, AHEAD))
        return logs if self.task == "multiclass" else logs[:, 1:] - logs[:, :1]

    # Remembering

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if self.trainer.world_size > 1:
                raise InputError("NearestNeighbor remembers in one process: use trainer=auto, or trainer.devices=1")
            self.automatic_optimization = False  # only now: Lightning refuses trainer.gradient_clip_val with it

    def configure_optimizers(self) -> list[Any]:
        return []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.recent.clear()
        self.inputs, self.targets = self.inputs[:0], self.targets[:0]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.recent.append((packed(inputs.flatten(1).float()), targets))

    def join(self) -> None:
        """Join the recent batches to the memory: all of them at once, since each joining copies it."""
        if not self.recent:
            return
        batches = [(self.inputs, self.targets), *self.recent] if len(self.targets) else self.recent
        inputs = [batch[0] for batch in batches]
        if any(part.dtype != torch.uint8 for part in inputs):
            inputs = [unpacked(part) for part in inputs]
        self.inputs, self.targets = torch.cat(inputs), torch.cat([batch[1] for batch in batches])
        self.recent.clear()

    def get_extra_state(self) -> State:
        self.join()
        return {"inputs": self.inputs, "targets": self.targets}

    def set_extra_state(self, state: State) -> None:
        size, own = state["inputs"].shape[1], math.prod(self.in_shape)
        if size != own:
            raise InputError(f"the checkpoint remembers samples of {size} numbers, these have {own}")
        self.recent.clear()
        self.inputs, self.targets = state["inputs"].to(self.device), state["targets"].to(self.device)


def packed(inputs: Tensor) -> Tensor:
    """float32 inputs as uint8 where each is exactly pixel / 255, else as they are."""
    pixels = (inputs * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels if torch.equal(unpacked(pixels), inputs) else inputs


def unpacked(inputs: Tensor) -> Tensor:
    """What was packed, as float32."""
    if inputs.dtype != torch.uint8:
        return inputs.float()
    return inputs / torch.full((), 255.0, device=inputs.device)  # a GPU divides by a tensor exactly, not by a number


def l1(x: Tensor, memory: Tensor) -> Tensor:
    """Sums of absolute differences: (B, D), (N, D) → (B, N).

    On a CPU from tiles of differences: for photographs three times as fast as torch.cdist.
    """
    if x.device.type != "cpu":
        return torch.cdist(x, memory, p=1.0)
    distances, side = x.new_empty(len(x), len(memory)), max(1, math.isqrt(TILE // x.shape[1]))
    room = x.new_empty(side, side, x.shape[1])
    for rows, strip in zip(x.split(side), distances.split(side), strict=True):
        for columns, tile in zip(memory.split(side), strip.split(side, dim=1), strict=True):
            differences = torch.sub(rows[:, None], columns, out=room[: len(rows), : len(columns)])
            torch.sum(differences.abs_(), dim=-1, out=tile)
    return distances


def l2(x: Tensor, memory: Tensor) -> Tensor:
    """Euclidean distances: (B, D), (N, D) → (B, N).

    From a matrix product, for photographs fifteen times as fast as from differences; in float64,
    since it subtracts numbers that are nearly equal.
    """
    if x.device.type == "mps":  # has no float64
        return torch.cdist(x, memory, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.cdist(x.double(), memory.double(), compute_mode="use_mm_for_euclid_dist").float()


DISTANCES = {"l1": l1, "l2": l2}
