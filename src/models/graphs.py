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
from src.data.loading.batches import Chunk
from src.data.loading.samples import Samples
from src.optimizers.settings import FUSED_OPTIMIZERS

log = logging.getLogger(__name__)
GRAPH_DEVICES = ("cuda",)  # that can record graphs
WARMUP_STEPS = 11  # warm-up steps before one is recorded: they select kernels and create the optimiser's state

Prepare = Callable[[Samples], Samples]
StepResult = tuple[Tensor, Tensor, Tensor]  # a step's loss, outputs and targets


class GraphStep:
    """An optimiser step that is recorded after a few warm-up steps, and replayed for each batch of a chunk.

    The recorded step finds its batch in the memory that holds the chunk, writes its loss and outputs to memory for all
    steps of a chunk, and counts on: a replay is all that the CPU has to launch. A batch of another size, such as an
    epoch's last, gets an ordinary step. When a setting of the optimiser other than its learning rates changes, the step
    is recorded again, after as many warm-up steps.

    Args:
        optimizer: an optimiser that `can_record` accepts.
        run_step: takes a step on a batch as it is stored, in separate memory, and appends its loss, outputs and
            targets to ``step_results``.
        step_results: loss, outputs and targets of the steps.
    """

    def __init__(
        self, optimizer: Optimizer, run_step: Callable[[Samples, Prepare], None], step_results: list[StepResult]
    ) -> None:
        self.optimizer, self.run_step, self.step_results = optimizer, run_step, step_results
        self.is_recordable, self.is_logged, self.steps_taken = True, False, 0
        self.settings: list[Any] = []
        self.rates = _LearningRates(optimizer)
        self.memory: _ChunkMemory | None = None
        self.position = 0  # of the next batch in its chunk
        self.replay: Callable[[], Any] | None = None

    def load(self, chunk: Chunk) -> None:
        """Copy a chunk's batches of full size to where recorded steps find them."""
        self.position, count = 0, chunk.samples.size // chunk.batch_size
        if not self.is_recordable:
            return
        whole = chunk.samples.take(slice(0, count * chunk.batch_size))
        batches = Samples(*(part.unflatten(0, (count, chunk.batch_size)) for part in whole))
        if self.memory is None or not self.memory.has_room(batches):
            self.memory, self.replay, self.steps_taken = _ChunkMemory(batches), None, 0
        self.memory.fill(batches)

    def __call__(self, batch: Samples, prepare: Prepare) -> None:
        """Take a step on the next batch of the chunk; ``prepare`` is its transform."""
        index, self.position = self.position, self.position + 1
        self.rates.update()
        if not self.is_recordable or self.memory is None or batch.inputs.shape != self.memory.batches.inputs.shape[1:]:
            self._run_ordinary_step(batch, prepare)
            return
        if (settings := self._read_settings()) != self.settings:
            self.settings, self.steps_taken, self.replay = settings, 0, None
        self.steps_taken += 1
        if self.steps_taken > WARMUP_STEPS and self.replay is None:
            self._record(self.memory, prepare)
        if self.replay is None:
            self._run_ordinary_step(batch, prepare)
            self.memory.shape_results(self.step_results[-1])
            return
        self.memory.point_at(index)
        self.replay()
        self.step_results.append(self.memory.rows[index])  # valid until the next chunk

    def _run_ordinary_step(self, batch: Samples, prepare: Prepare) -> None:
        with self.rates.share():  # rounded as in a recorded step: when steps are recorded does not change a run
            self.run_step(copy_batch(batch), prepare)

    def _read_settings(self) -> list[Any]:
        """Return the optimiser's settings that are constants of a recorded step."""
        groups = self.optimizer.param_groups
        return [value for group in groups for key, value in group.items() if key not in ("params", "lr")]

    def _record(self, memory: "_ChunkMemory", prepare: Prepare) -> None:
        """Record a step; if that fails, log a warning and take ordinary steps from now on."""
        before = len(self.step_results)

        def take_step() -> None:
            self.run_step(memory.read_batch(), prepare)
            memory.write_results(self.step_results.pop())

        try:
            with _mark_capturable(self.optimizer), self.rates.share():
                self.replay = _record_graph(take_step)
        except RuntimeError as error:
            self.is_recordable = False
            message = "steps: launched separately, because they cannot be recorded as a CUDA graph (%s)"
            log.warning(message, str(error).splitlines()[0])
        else:
            if is_main_process() and not self.is_logged:
                log.info("steps: recorded as a CUDA graph after the first %d", WARMUP_STEPS)
            self.is_logged = True
        del self.step_results[before:]  # a failed recording may have left some


class _ChunkMemory:
    """The device's memory that recorded steps read and write: a chunk's batches, and the results of its steps.

    Args:
        batches: those of a chunk, (n, B, …); later chunks may have fewer.
    """

    def __init__(self, batches: Samples) -> None:
        self.batches = Samples(*map(torch.empty_like, batches))
        self.results: tuple[Tensor, Tensor] | None = None  # losses (n,), outputs (n, B, …)
        self.rows: list[StepResult] = []  # each step's part of them, with its targets
        self.counter = torch.zeros(1, dtype=torch.long, device=batches.device)  # the batch that the next step reads
        self.counted = 0  # the counter's value

    def has_room(self, batches: Samples) -> bool:
        """Return True if a chunk's batches have the shape of those in memory, and are no more."""
        alike = all(new.shape[1:] == old.shape[1:] for new, old in zip(batches, self.batches, strict=True))
        return alike and batches.size <= self.batches.size

    def fill(self, batches: Samples) -> None:
        for static, new in zip(self.batches, batches, strict=True):
            static[: len(new)].copy_(new)

    def shape_results(self, result: StepResult) -> None:
        """Make room for the results of steps like the one with this result."""
        if self.results is None:
            losses, outputs = [part.new_zeros(self.batches.size, *part.shape) for part in result[:2]]
            self.results = losses, outputs
            self.rows = list(zip(losses, outputs, self.batches.targets, strict=True))

    def point_at(self, index: int) -> None:
        """Have the next recorded step read the batch with this index."""
        if self.counted != index:
            self.counter.fill_(index)
        self.counted = index + 1

    def read_batch(self) -> Samples:
        return Samples(*(part.index_select(0, self.counter).squeeze(0) for part in self.batches))

    def write_results(self, result: StepResult) -> None:
        """Write a step's loss and outputs, and count on."""
        assert self.results is not None
        for static, new in zip(self.results, result, strict=False):
            static.index_copy_(0, self.counter, new.unsqueeze(0))
        self.counter.add_(1)


class _LearningRates:
    """The learning rates of an optimiser's groups in the device's memory, where a recorded step reads them.

    Args:
        optimizer: its groups keep plain numbers, which schedules change.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.groups = [group for group in optimizer.param_groups if not isinstance(group["lr"], Tensor)]
        self.values: list[float] = [group["lr"] for group in self.groups]
        device = optimizer.param_groups[0]["params"][0].device
        # The fused kernels of CUDA read float32.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.tensors = [torch.tensor(value, dtype=dtype, device=device) for value in self.values]

    def update(self) -> None:
        """Copy the rates that have changed to the device."""
        for index, group in enumerate(self.groups):
            if group["lr"] != self.values[index]:
                self.values[index] = group["lr"]
                self.tensors[index].fill_(group["lr"])

    @contextmanager
    def share(self) -> Iterator[None]:
        """Have the groups name the device's memory while a step is taken or recorded."""
        before = [group["lr"] for group in self.groups]
        for group, tensor in zip(self.groups, self.tensors, strict=True):
            group["lr"] = tensor
        try:
            yield
        finally:
            for group, value in zip(self.groups, before, strict=True):
                group["lr"] = value


def copy_batch(batch: Samples) -> Samples:
    """Return a batch in separate memory, since sums over a tensor with another alignment are rounded differently."""
    return Samples(*(part.clone() for part in batch))


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
