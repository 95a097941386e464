"""Nearest neighbours (Cover & Hart, 1967): store all training samples; a new one gets the label of the nearest."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.core.errors import InputError
from src.models.base import Settings, SupervisedModule

TILE_SIZE = 2**19  # numbers in a tile of differences: 2 MB, which fit in the processor's cache
BLOCK_SIZE = 1000  # samples compared at once; larger blocks take more memory and no less time
TIE_BONUS = 1e-4  # added to the winner's log probability, so that it also wins a tie

State = dict[str, Tensor]


class NearestNeighbor(SupervisedModule):
    """A classifier by majority vote of the k nearest training samples, or a regression on their mean.

    If classes get equally many votes, the one with the nearest neighbour wins. Among samples at equal
    distance the choice is arbitrary.

    For classification the outputs are the logarithms of (n + 1) / (k + K), where n of the k neighbours
    voted for a class of K: Laplace's rule of succession, which keeps the cross entropy finite. For two
    classes the output is the difference of the second's and the first's. For regression it is the mean
    of the k targets. Outputs are zero while no samples are stored.

    There is nothing to optimise: an epoch stores each batch as it comes, augmented if the data set
    augments, and the next epoch starts from an empty memory. The memory is saved in the checkpoint,
    where images of pixels / 255 take one byte per pixel.

    Args:
        in_shape, num_classes, task: as for `SupervisedModule`.
        optimizer, scheduler: accepted as for every model, but not used.
        distance: "l1", the sum of absolute differences, or "l2", the Euclidean distance.
        k: the number of neighbours that vote, ≥ 1.

    Raises:
        InputError: if fewer than k samples are stored; if several processes train, since each
            would store its shard only; if a checkpoint has samples of another size.
    """

    suited_tasks = ("multiclass", "binary", "regression")
    inputs: Tensor  # (N, D): uint8 if all are pixel / 255, else float32
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
    ) -> None:
        super().__init__(in_shape, num_classes, task, optimizer, scheduler)
        self.save_hyperparameters(logger=False)
        self.compute_distances, self.k = DISTANCES[distance], k
        self.buffered_batches: list[tuple[Tensor, Tensor]] = []  # batches that are not appended to the memory yet
        self.register_buffer("inputs", torch.empty(0, math.prod(in_shape)), persistent=False)
        self.register_buffer("targets", torch.empty(0, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.merge_buffered_batches()
        if not len(self.targets):
            return x.new_zeros(len(x), self.out_features)
        if len(self.targets) < self.k:
            raise InputError(f"model.k={self.k}: only {len(self.targets)} training samples are stored")
        x = x.flatten(1).float()  # (B, *in_shape) → (B, D)
        return self.compute_outputs(
            torch.cat([self.find_neighbor_targets(part) for part in x.split(BLOCK_SIZE)])
        )  # (B, out_features)

    def find_neighbor_targets(self, x: Tensor) -> Tensor:
        """Return the targets of the k nearest samples, the nearest first: (B, D) → (B, k)."""
        best, targets = x.new_empty(len(x), 0), self.targets.new_empty(len(x), 0)
        for start in range(0, len(self.targets), BLOCK_SIZE):
            block = to_float32(self.inputs[start : start + BLOCK_SIZE])
            near, index = self.compute_distances(x, block).topk(min(self.k, len(block)), largest=False)
            best, order = torch.cat([best, near], dim=1).sort(dim=1, stable=True)
            targets = torch.cat([targets, self.targets[start + index]], dim=1).gather(1, order)
            best, targets = best[:, : self.k], targets[:, : self.k]
        return targets

    def compute_outputs(self, targets: Tensor) -> Tensor:
        """Return the outputs from the neighbours' targets, the nearest first: (B, k) → (B, out_features)."""
        if self.task == "regression":
            return targets.float().mean(dim=1, keepdim=True)
        votes = F.one_hot(targets, self.num_classes).sum(dim=1)  # (B, K)
        first = votes.gather(1, targets).argmax(dim=1, keepdim=True)  # nearest neighbour whose class has most votes
        logs = ((votes + 1) / (self.k + self.num_classes)).log()
        logs = logs.scatter_add(1, targets.gather(1, first), torch.full_like(logs, TIE_BONUS))
        return logs if self.task == "multiclass" else logs[:, 1:] - logs[:, :1]

    # Storing the training samples

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if self.trainer.world_size > 1:
                raise InputError("NearestNeighbor trains in one process only: use trainer=auto, or trainer.devices=1")
            self.automatic_optimization = False  # only here: Lightning refuses trainer.gradient_clip_val with it

    def configure_optimizers(self) -> list[Any]:
        return []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.buffered_batches.clear()
        self.inputs, self.targets = self.inputs[:0], self.targets[:0]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.buffered_batches.append((to_uint8(inputs.flatten(1).float()), targets))

    def merge_buffered_batches(self) -> None:
        """Append the recent batches to the memory, all at once since each append copies the memory."""
        if not self.buffered_batches:
            return
        batches = [(self.inputs, self.targets), *self.buffered_batches] if len(self.targets) else self.buffered_batches
        inputs = [batch[0] for batch in batches]
        if any(part.dtype != torch.uint8 for part in inputs):
            inputs = [to_float32(part) for part in inputs]
        self.inputs, self.targets = torch.cat(inputs), torch.cat([batch[1] for batch in batches])
        self.buffered_batches.clear()

    def get_extra_state(self) -> State:
        self.merge_buffered_batches()
        return {"inputs": self.inputs, "targets": self.targets}

    def set_extra_state(self, state: State) -> None:
        size, expected = state["inputs"].shape[1], math.prod(self.in_shape)
        if size != expected:
            raise InputError(f"the checkpoint has samples of {size} values, these data have {expected}")
        self.buffered_batches.clear()
        self.inputs, self.targets = state["inputs"].to(self.device), state["targets"].to(self.device)


def to_uint8(inputs: Tensor) -> Tensor:
    """Return float32 inputs as uint8 if all are exactly pixel / 255, else unchanged."""
    pixels = (inputs * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels if torch.equal(to_float32(pixels), inputs) else inputs


def to_float32(inputs: Tensor) -> Tensor:
    """Return inputs as float32, undoing `to_uint8`."""
    if inputs.dtype != torch.uint8:
        return inputs.float()
    return inputs / torch.full((), 255.0, device=inputs.device)  # a GPU divides by a tensor exactly, not by a number


def compute_l1(x: Tensor, memory: Tensor) -> Tensor:
    """Return the sums of absolute differences: (B, D), (N, D) → (B, N)."""
    if x.device.type != "cpu":
        return torch.cdist(x, memory, p=1.0)
    # On a CPU, tiles of differences that fit in the cache are three times as fast as torch.cdist for photographs.
    distances, side = x.new_empty(len(x), len(memory)), max(1, math.isqrt(TILE_SIZE // x.shape[1]))
    buffer = x.new_empty(side, side, x.shape[1])
    for rows, strip in zip(x.split(side), distances.split(side), strict=True):
        for columns, tile in zip(memory.split(side), strip.split(side, dim=1), strict=True):
            differences = torch.sub(rows[:, None], columns, out=buffer[: len(rows), : len(columns)])
            torch.sum(differences.abs_(), dim=-1, out=tile)
    return distances


def compute_l2(x: Tensor, memory: Tensor) -> Tensor:
    """Return the Euclidean distances: (B, D), (N, D) → (B, N)."""
    if x.device.type == "mps":  # has no float64
        return torch.cdist(x, memory, compute_mode="donot_use_mm_for_euclid_dist")
    # A matrix product is fifteen times as fast as differences for photographs. It needs float64, since it subtracts
    # nearly equal numbers.
    return torch.cdist(x.double(), memory.double(), compute_mode="use_mm_for_euclid_dist").float()


DISTANCES = {"l1": compute_l1, "l2": compute_l2}
