"""The way from a raw input to a network's input, and what else a checkpoint says about its data, as plain values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from src.core.errors import InputError
from src.data.loading.samples import Samples

DATA_KEY = "data_description"  # of a checkpoint
IMAGE, VALUES, ROW = "image", "values", "row"
MAX_VALUES = 2**28  # numbers of one input, in a checkpoint that may be a stranger's
MAX_CLASSES = 1_000_000
MAX_TOKENS = 2**24  # up to which float32 has each whole number


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a raw input to a network's input.

    A data set with further steps adds its own ``kind``, with their plain values in ``options``.

    Attributes:
        kind: what a raw input is. "image": a picture of any size and mode, to be fitted to the input's shape as uint8
            (C, H, W); "values": numbers, already in the input's shape; "row": a row of a table, to be encoded by its
            columns' names as ``options`` say.
        mean, std: what is subtracted, and what is divided by then, per channel or feature; one number: for all of
            them; empty: nothing.
        options: further values of the kind.
    """

    kind: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return a network's inputs: (B, *in_shape), uint8 pixels or other numbers → (B, *in_shape) float32."""
        values = inputs if inputs.is_floating_point() else inputs.float()
        if self.mean:
            sizes = (-1, *[1] * (inputs.dim() - 2))
            mean, std = (values.new_tensor(numbers).view(sizes) for numbers in (self.mean, self.std))
            values = (values - mean) / std
        return values.float()


@dataclass(frozen=True)
class DataDescription:
    """What is known about the data on which a model was trained.

    Attributes:
        task: a name in `src.data.tasks.TASKS`.
        in_shape: one input's shape, without the batch.
        class_names: the classes; empty for regression.
        preprocessing: how a raw input becomes a network's input; ``None``: unknown.
        value_names: the values of a regression that has several.
        num_tokens: the inputs are tokens from 0 to below this number; 0: they are numbers.
    """

    task: str
    in_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | None
    value_names: tuple[str, ...] = ()
    num_tokens: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_values(self) -> int:
        return len(self.value_names) or 1


def describe_data(data: Any) -> DataDescription | None:
    """Return the description of a data module that is set up; ``None`` if it does not say what it holds."""
    if not all(hasattr(data, name) for name in ("task", "in_shape", "class_names")):
        return None
    describe = getattr(data, "describe_preprocessing", None)
    classes, values = (tuple(map(str, getattr(data, name, ()))) for name in ("class_names", "value_names"))
    steps = describe() if describe else None
    tokens = int(getattr(data, "num_tokens", 0))
    return DataDescription(str(data.task), tuple(data.in_shape), classes, steps, values, tokens)


def count_samples(data: Any) -> dict[str, int]:
    """Return how many samples a data module has for training, validation and test, as far as it knows."""
    parts = {stage: getattr(data, f"{stage}_set", None) for stage in ("train", "val", "test")}
    return {stage: part.size for stage, part in parts.items() if isinstance(part, Samples)}


def write_description(checkpoint: dict[str, Any], data: Any) -> None:
    """Add the description of a data module to a checkpoint, as plain values; nothing if there is none."""
    if found := describe_data(data):
        checkpoint[DATA_KEY] = _to_plain(asdict(found))


def read_description(checkpoint: Mapping[str, Any], path: str | Path) -> DataDescription | None:
    """Return the description in a checkpoint; ``None`` in one of earlier code.

    Raises:
        InputError: if it is damaged; the message names ``path``.
    """
    content = checkpoint.get(DATA_KEY)
    if content is None:
        return None
    try:
        return _parse_description(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {path} is damaged: what it says about its data is no description") from error


def _to_plain(value: Any) -> Any:
    """Return a value with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _to_plain(each) for key, each in value.items()}
    return [_to_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _parse_description(content: Any) -> DataDescription:
    """Return a description from plain values; raise `KeyError`, `TypeError` or `ValueError` for any others."""
    shape, names, steps = tuple(content["in_shape"]), tuple(content["class_names"]), content["preprocessing"]
    values, tokens = tuple(content.get("value_names", ())), content.get("num_tokens", 0)  # earlier code has neither
    if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) > MAX_VALUES:
        raise ValueError
    if not all(isinstance(text, str) for text in (content["task"], *names, *values)):
        raise ValueError
    if max(len(names), len(values)) > MAX_CLASSES or type(tokens) is not int or not 0 <= tokens <= MAX_TOKENS:
        raise ValueError
    parsed = None if steps is None else _parse_steps(steps, shape)
    return DataDescription(content["task"], shape, names, parsed, values, tokens)


def _parse_steps(content: Any, shape: tuple[int, ...]) -> Preprocessing:
    mean, std = (tuple(map(float, content[name])) for name in ("mean", "std"))
    fits = len(mean) == len(std) and len(mean) in {0, 1, *shape[:1]}
    if not fits or not all(map(math.isfinite, (*mean, *std))) or not all(number > 0 for number in std):
        raise ValueError
    if not isinstance(content["kind"], str) or not isinstance(content["options"], dict):
        raise TypeError
    if content["kind"] == IMAGE and len(shape) != 3:
        raise ValueError
    return Preprocessing(content["kind"], mean, std, content["options"])


def flatten_numbers(values: Tensor) -> tuple[float, ...]:
    """Return a tensor's numbers, exactly."""
    return tuple(values.detach().flatten().tolist())
