"""Compare what an exported file computes with the run that it comes from, on the run's own samples."""

import itertools
import logging
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from src.core.errors import InputError
from src.data.base import EVAL_BATCH_SIZE, TensorDataModule
from src.data.own.streaming import StreamedImages
from src.data.preprocessing import IMAGE, Preprocessing
from src.data.tasks import TASKS
from src.inference.exporting.formats import Compute
from src.inference.exporting.network import PROBABILITIES, ExportedNetwork
from src.inference.load import LoadedRun

log = logging.getLogger(__name__)
MAX_SAMPLES = 1000  # that are compared
BATCH_SIZES = (1, 2, 7, 64)  # in which they are given to the file, again and again
SEED = 0  # of random inputs


class RawSamples(NamedTuple):
    """Inputs as a file takes them.

    Attributes:
        inputs: (N, *in_shape).
        targets: classes or values (N,); ``None`` if the inputs are random.
        source: what they are, in words.
        sizes: the number of samples in each split, if the data set is there.
    """

    inputs: Tensor
    targets: Tensor | None
    source: str
    sizes: dict[str, int]


class Parity(NamedTuple):
    """How far the outputs of a file are from those of its run.

    Attributes:
        difference: the largest absolute difference.
        relative: the same, with differences of outputs beyond ±1 divided by the output.
        batches: the number of samples in each batch.
        source: what the samples are, in words.
    """

    difference: float
    relative: float
    batches: list[int]
    source: str

    def __str__(self) -> str:
        sizes = ", ".join(map(str, sorted(set(self.batches))))
        return f"{self.difference:.1e} on {sum(self.batches):,} {self.source}, in batches of {sizes}"


def find_samples(run: LoadedRun, network: ExportedNetwork) -> RawSamples:
    """Return the raw inputs of the run's validation split or, if its data are not there, random ones."""
    try:
        data = run.get_samples("val")
    except InputError as error:
        log.info("note: random inputs are compared, since there are no validation samples here (%s)", error)
        return RawSamples(_draw_inputs(network), None, "random inputs", {})
    assert data.val_set is not None
    val_set = data.val_set
    if isinstance(val_set.inputs, StreamedImages):  # all may be too large for memory
        val_set = val_set.take(slice(0, MAX_SAMPLES))
    parts = {"training": data.train_set, "validation": data.val_set, "test": data.test_set}
    sizes = {name: part.size for name, part in parts.items() if part is not None}
    return RawSamples(
        _restore_inputs(data, val_set.inputs, run).to(network.input_type), val_set.targets, "validation samples", sizes
    )


def _restore_inputs(data: TensorDataModule, inputs: Tensor, run: LoadedRun) -> Tensor:
    """Return stored inputs as they were before any preprocessing: (N, *in_shape)."""
    steps = run.description.preprocessing
    if steps is None:  # unknown: a file takes what the network takes
        return data.transform(inputs)
    return inputs if steps.kind == IMAGE else _scale(inputs, steps)  # values are standardised when they are loaded


def _draw_inputs(network: ExportedNetwork) -> Tensor:
    """Return random raw inputs: (N, *in_shape), pixels or numbers of the training samples' mean and deviation."""
    generator, shape = torch.Generator().manual_seed(SEED), (MAX_SAMPLES, *network.in_shape)
    if network.input_type == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if network.num_tokens:
        return torch.randint(0, network.num_tokens, shape, generator=generator)
    return _scale(torch.randn(shape, generator=generator), network.prepare)


def _scale(inputs: Tensor, steps: Preprocessing) -> Tensor:
    """Return standardised inputs (N, *in_shape) in their own unit, as float32."""
    if not steps.mean:
        return inputs.float()
    sizes = (-1, *[1] * (inputs.dim() - 2))
    mean, std = (torch.tensor(numbers, dtype=torch.float64).view(sizes) for numbers in (steps.mean, steps.std))
    return (inputs.double() * std + mean).float()


def compare_outputs(compute: Compute, samples: RawSamples, network: ExportedNetwork, run: LoadedRun) -> Parity:
    """Compare a file's outputs with those of the run, which `src.predict` shows."""
    raw, difference, relative = samples.inputs[:MAX_SAMPLES], 0.0, 0.0
    batches = list(_cut_batches(len(raw)))
    expected = torch.cat([run.compute_outputs(part, network.prepare) for part in raw.split(EVAL_BATCH_SIZE)])
    if network.activate is not None:
        expected = network.activate(expected.double())
    for part in batches:
        found, wanted = _compute(compute, raw[part]).double(), expected[part].double()
        if found.shape != wanted.shape:
            raise InputError(
                f"the exported file returns outputs of shape {tuple(found.shape)}, {tuple(wanted.shape)} are right"
            )
        apart = (found - wanted).abs()
        difference = max(difference, _find_largest(apart))
        relative = max(relative, _find_largest(apart / wanted.abs().clamp(min=1)))
    return Parity(difference, relative, [len(raw[part]) for part in batches], samples.source)


def _find_largest(values: Tensor) -> float:
    return float(values.nan_to_num(float("inf")).max())


def _cut_batches(count: int) -> Iterator[slice]:
    """Yield a number of samples in batches whose sizes take turns."""
    start = 0
    for size in itertools.cycle(BATCH_SIZES):
        if start >= count:
            return
        yield slice(start, start + size)
        start += size


def _compute(compute: Compute, inputs: Tensor) -> Tensor:
    try:
        with torch.inference_mode():
            return compute(inputs)
    except Exception as error:  # a file may be fixed to the batch size with which it was traced
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the exported file is not kept, since it fails for a batch of {len(inputs)}: {reason}"
        ) from error


def measure_score(compute: Compute, samples: RawSamples, network: ExportedNetwork, task_name: str) -> dict[str, float]:
    """Return the accuracy, or for values the mean squared error, of a file on all samples."""
    assert samples.targets is not None
    task, targets = TASKS[task_name], samples.targets
    outputs = torch.cat([_compute(compute, part) for part in samples.inputs.split(EVAL_BATCH_SIZE)])
    if network.output_name == PROBABILITIES:  # as logits, what is predicted has the largest, or a sign
        outputs = (outputs if task.has_output_per_class else outputs[:, 1:]) - 0.5
    predictions = task.predict(outputs)
    if not task.has_classes:
        return {"val/mse": float((predictions.double() - targets).square().mean())}
    return {"val/acc": float(task.count_correct(predictions, targets)) / len(targets)}
