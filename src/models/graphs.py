"""Record an optimiser step as a CUDA graph and repeat it: of a hundred launches on a GPU it makes one.

What is repeated are the very kernels of the step that was recorded, so results differ from those of steps taken one by
one by rounding at most.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from src.core.devices import is_main_process
from src.data.base import Samples
from src.optimizers.settings import FUSED

log = logging.getLogger(__name__)
DEVICES = ("cuda",)  # which can record
AFTER = 11  # steps taken as they are before one is recorded: in them kernels are chosen and states are made

Prepare = Callable[[Tensor], Tensor]
Noted = tuple[Tensor, Tensor, Tensor]  # a step's loss, outputs and targets


class GraphStep:
    """An optimiser step on batches of one shape, recorded once it has been taken a few times.

    A smaller batch, such as an epoch's last, is taken as it is. Where the optimiser's settings change, such as its
    learning rate, the step is recorded anew, after as many steps.

    Args:
        optimizer: one that `can_record` takes.
        take: takes a step on a batch as it is kept, and appends what came out to ``noted``.
        noted: loss, outputs and targets of the steps.
    """

    def __init__(self, optimizer: Optimizer, take: Callable[[Samples, Prepare], None], noted: list[Noted]) -> None:
        self.optimizer, self.take, self.noted = optimizer, take, noted
        self.works, self.told, self.taken = True, False, 0
        self.settings: list[Any] = []
        self.batch: Samples | None = None  # what the recorded step reads
        self.results: Noted | None = None  # where it writes
        self.replay: Callable[[], Any] | None = None

    def __call__(self, batch: Samples, prepare: Prepare) -> None:
        """Take a step on a batch; ``prepare`` is what is done to its inputs first."""
        if self.batch is None:
            self.batch = Samples(*(part.clone() for part in batch))
        if not self.works or batch.inputs.shape != self.batch.inputs.shape:
            self.take(batch, prepare)
            return
        if (settings := self._read_settings()) != self.settings:
            self.settings, self.taken, self.replay = settings, 0, None
        self.taken += 1
        if self.taken > AFTER and self.replay is None:
            self._record(prepare)
        if self.replay is None:
            self.take(batch, prepare)
            return
        for kept, new in zip(self.batch, batch, strict=True):
            kept.copy_(new)
        self.replay()
        assert self.results is not None
        loss, outputs, targets = self.results
        self.noted.append((loss.clone(), outputs.clone(), targets.clone()))

    def _read_settings(self) -> list[Any]:
        """Return what of the optimiser's settings becomes part of a recorded step."""
        return [value for group in self.optimizer.param_groups for key, value in group.items() if key != "params"]

    def _record(self, prepare: Prepare) -> None:
        """Record a step; where that cannot be, say so and take all as they are."""
        before = len(self.noted)
        try:
            with _capturable(self.optimizer):
                self.replay = record(lambda: self._take_recorded(prepare))
        except RuntimeError as error:
            self.works = False
            told = "steps: launched one by one, for this one cannot be recorded as a CUDA graph (%s)"
            log.warning(told, str(error).splitlines()[0])
        else:
            if is_main_process() and not self.told:
                log.info("steps: recorded as a CUDA graph after the first %d", AFTER)
            self.told = True
        del self.noted[before:]

    def _take_recorded(self, prepare: Prepare) -> None:
        assert self.batch is not None
        self.take(self.batch, prepare)
        self.results = self.noted.pop()


def can_record(optimizer: Optimizer, device: torch.device) -> bool:
    """Return whether an optimiser's steps can be recorded: it must ask the device for nothing."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return device.type in DEVICES and fused and isinstance(optimizer, FUSED)


def record(function: Callable[[], None]) -> Callable[[], Any]:
    """Record what a function has the GPU do; returns what repeats it.

    Raises:
        RuntimeError: if the function waits for the GPU, or does anything else that cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Have an optimiser take part in a recording; a fused one does the same either way, and keeps its own settings."""
    before = [(group, group["capturable"]) for group in optimizer.param_groups if "capturable" in group]
    for group, _ in before:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in before:
            group["capturable"] = value
