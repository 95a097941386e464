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
from src.optimizers.settings import FUSED_OPTIMIZERS

log = logging.getLogger(__name__)
GRAPH_DEVICES = ("cuda",)  # that can record graphs
WARMUP_STEPS = 11  # warm-up steps before one is recorded: they select kernels and create the optimiser's state

Prepare = Callable[[Tensor], Tensor]
StepResult = tuple[Tensor, Tensor, Tensor]  # a step's loss, outputs and targets


class GraphStep:
    """An optimiser step on batches of one shape that is recorded after a few warm-up steps.

    A batch of another size, such as an epoch's last, gets an ordinary step. When a setting of the optimiser changes,
    such as its learning rate, the step is recorded again, after as many warm-up steps.

    Args:
        optimizer: an optimiser that `can_record` accepts.
        run_step: takes a step on a batch as it is stored, and appends its loss, outputs and targets to
            ``step_results``.
        step_results: loss, outputs and targets of the steps.
    """

    def __init__(
        self, optimizer: Optimizer, run_step: Callable[[Samples, Prepare], None], step_results: list[StepResult]
    ) -> None:
        self.optimizer, self.run_step, self.step_results = optimizer, run_step, step_results
        self.is_recordable, self.is_logged, self.steps_taken = True, False, 0
        self.settings: list[Any] = []
        self.static_batch: Samples | None = None  # the memory that the recorded step reads
        self.static_result: StepResult | None = None  # the memory that it writes
        self.replay: Callable[[], Any] | None = None

    def __call__(self, batch: Samples, prepare: Prepare) -> None:
        """Take a step on a batch; ``prepare`` is the transform of its inputs."""
        if self.static_batch is None:
            self.static_batch = Samples(*(part.clone() for part in batch))
        if not self.is_recordable or batch.inputs.shape != self.static_batch.inputs.shape:
            self.run_step(batch, prepare)
            return
        if (settings := self._read_settings()) != self.settings:
            self.settings, self.steps_taken, self.replay = settings, 0, None
        self.steps_taken += 1
        if self.steps_taken > WARMUP_STEPS and self.replay is None:
            self._record(prepare)
        if self.replay is None:
            self.run_step(batch, prepare)
            return
        # A graph reads and writes fixed memory: copy the batch in, and copy the results out.
        for static, new in zip(self.static_batch, batch, strict=True):
            static.copy_(new)
        self.replay()
        assert self.static_result is not None
        loss, outputs, targets = self.static_result
        self.step_results.append((loss.clone(), outputs.clone(), targets.clone()))

    def _read_settings(self) -> list[Any]:
        """Return the optimiser's settings, which are constants of a recorded step."""
        return [value for group in self.optimizer.param_groups for key, value in group.items() if key != "params"]

    def _record(self, prepare: Prepare) -> None:
        """Record a step; if that fails, log a warning and take ordinary steps from now on."""
        before = len(self.step_results)
        try:
            with _mark_capturable(self.optimizer):
                self.replay = _record_graph(lambda: self._run_static_step(prepare))
        except RuntimeError as error:
            self.is_recordable = False
            message = "steps: launched separately, because they cannot be recorded as a CUDA graph (%s)"
            log.warning(message, str(error).splitlines()[0])
        else:
            if is_main_process() and not self.is_logged:
                log.info("steps: recorded as a CUDA graph after the first %d", WARMUP_STEPS)
            self.is_logged = True
        del self.step_results[before:]  # a failed recording may have left some

    def _run_static_step(self, prepare: Prepare) -> None:
        assert self.static_batch is not None
        self.run_step(self.static_batch, prepare)
        self.static_result = self.step_results.pop()


def can_record(optimizer: Optimizer, device: torch.device) -> bool:
    """Return True if an optimiser's steps can be recorded: it must not read from the device."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return device.type in GRAPH_DEVICES and fused and isinstance(optimizer, FUSED_OPTIMIZERS)


def _record_graph(function: Callable[[], None]) -> Callable[[], Any]:
    """Record the GPU work of a function; return a function that replays it.

    Raises:
        RuntimeError: if the function waits for the GPU, or does something else that cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


@contextmanager
def _mark_capturable(optimizer: Optimizer) -> Iterator[None]:
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
