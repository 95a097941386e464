"""Record an optimiser step as a CUDA graph and replay it, which replaces a hundred kernel launches by one.

The replay runs the kernels of the recorded step: its results differ from those of separate steps by rounding at most.
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
DEVICES = ("cuda",)  # that can record graphs
AFTER = 11  # warm-up steps before one is recorded: they select kernels and create the optimiser's state

Prepare = Callable[[Tensor], Tensor]
Noted = tuple[Tensor, Tensor, Tensor]  # a step's loss, outputs and targets


class GraphStep:
    """An optimiser step on batches of one shape that is recorded after a few warm-up steps.

    A batch of another size, such as an epoch's last, gets an ordinary step. When a setting of the optimiser changes,
    such as its learning rate, the step is recorded again, after as many warm-up steps.

    Args:
        optimizer: an optimiser that `can_record` accepts.
        take: takes a step on a batch as it is stored, and appends its loss, outputs and targets to ``noted``.
        noted: loss, outputs and targets of the steps.
    """

    def __init__(self, optimizer: Optimizer, take: Callable[[Samples, Prepare], None], noted: list[Noted]) -> None:
        self.optimizer, self.take, self.noted = optimizer, take, noted
        self.works, self.told, self.taken = True, False, 0
        self.settings: list[Any] = []
        self.batch: Samples | None = None  # the memory that the recorded step reads
        self.results: Noted | None = None  # the memory that it writes
        self.replay: Callable[[], Any] | None = None

    def __call__(self, batch: Samples, prepare: Prepare) -> None:
        """Take a step on a batch; ``prepare`` is the transform of its inputs."""
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
        # A graph reads and writes fixed memory: copy the batch in, and copy the results out.
        for static, new in zip(self.batch, batch, strict=True):
            static.copy_(new)
        self.replay()
        assert self.results is not None
        loss, outputs, targets = self.results
        self.noted.append((loss.clone(), outputs.clone(), targets.clone()))

    def _read_settings(self) -> list[Any]:
        """Return the optimiser's settings, which are constants of a recorded step."""
        return [value for group in self.optimizer.param_groups for key, value in group.items() if key != "params"]

    def _record(self, prepare: Prepare) -> None:
        """Record a step; if that fails, log a warning and take ordinary steps from now on."""
        before = len(self.noted)
        try:
            with _capturable(self.optimizer):
                self.replay = record(lambda: self._take_recorded(prepare))
        except RuntimeError as error:
            self.works = False
            message = "steps: launched one by one, for this one cannot be recorded as a CUDA graph (%s)"
            log.warning(message, str(error).splitlines()[0])
        else:
            if is_main_process() and not self.told:
                log.info("steps: recorded as a CUDA graph after the first %d", AFTER)
            self.told = True
        del self.noted[before:]  # a failed recording may have left some

    def _take_recorded(self, prepare: Prepare) -> None:
        assert self.batch is not None
        self.take(self.batch, prepare)
        self.results = self.noted.pop()


def can_record(optimizer: Optimizer, device: torch.device) -> bool:
    """Return True if an optimiser's steps can be recorded: it must not read from the device."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return device.type in DEVICES and fused and isinstance(optimizer, FUSED)


def record(function: Callable[[], None]) -> Callable[[], Any]:
    """Record the GPU work of a function; return a function that replays it.

    Raises:
        RuntimeError: if the function waits for the GPU, or does something else that cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Mark an optimiser as capturable while a step is recorded, then restore its settings."""
    # A fused optimiser computes the same with and without this mark, which torch checks while it records.
    before = [(group, group["capturable"]) for group in optimizer.param_groups if "capturable" in group]
    for group, _ in before:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in before:
            group["capturable"] = value
