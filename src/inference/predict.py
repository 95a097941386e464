"""Predict with a finished run, and print, write and draw what it predicts."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import compress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from src.callbacks.explanations.saliency import require_captum
from src.callbacks.figures.predictions import compute_class_probabilities
from src.core.errors import InputError
from src.core.formatting import to_relative_path
from src.core.places import expand_home, resolve_data_dir
from src.data.loading.samples import Samples
from src.data.preprocessing import DataDescription
from src.data.tasks import TASKS
from src.inference.inputs import Reader, batch_items
from src.inference.load import LoadedRun
from src.inference.outputs import (
    GRID_COLUMNS,
    GRID_ROWS,
    Prediction,
    Predictions,
    draw_grid,
    name_mask_folder,
    print_predictions,
    summarize,
    write_predictions,
)
from src.training.recorder import explain_memory_errors

log = logging.getLogger(__name__)
EXPLAINED = "explained.png"  # what explain=true draws into if it is given no grid=
MAX_ERRORS = 20  # that are printed
PROGRESS_DELAY = 2.0  # seconds before the progress bar appears


class Batch(NamedTuple):
    """Inputs with what the network makes of them.

    Attributes:
        names: one per input.
        raw: the inputs (B, *in_shape) as they were read.
        outputs: the network's, (B, out_features).
        targets: true classes, labels or values (B, …), if known.
    """

    names: list[str]
    raw: Tensor
    outputs: Tensor
    targets: Tensor | None


@explain_memory_errors()
def predict(cfg: DictConfig, paths: Sequence[str] = ()) -> list[str]:
    """Predict files or the samples of a split; print the predictions and write the files that the config asks for.

    Args:
        cfg: the config of ``src.predict``.
        paths: images, folders, arrays, rows of numbers, or "-" for standard input.

    Returns:
        A line for each input that could not be read; the others have been predicted.

    Raises:
        InputError: if nothing can be predicted.
    """
    resolve_data_dir()
    expand_home(cfg)
    if cfg.explain:
        require_captum("explain=true")
        cfg.grid = cfg.grid or EXPLAINED
    _check_request(cfg, paths)
    run = LoadedRun(cfg)
    if cfg.explain and run.description.task == "dense":
        raise InputError("explain=true explains one prediction for each image, and a mask has one for each pixel")
    if cfg.out and run.description.task == "dense":
        _keep_apart(name_mask_folder(Path(cfg.out)), paths)
    if cfg.grid and len(run.description.in_shape) != 3:
        raise InputError(f"grid={cfg.grid}: the inputs of {run.folder} are no images")
    reader = None if cfg.split else Reader(run.description)
    batches = _predict_split(run, cfg.split) if reader is None else _predict_files(run, reader, paths)
    predictions, images = _collect(batches, run.description, cfg.top, bool(cfg.grid))
    errors = [] if reader is None else reader.errors
    if predictions:
        _present(cfg, run, predictions, images)
    more = [f"… and {len(errors) - MAX_ERRORS:,} more"] if len(errors) > MAX_ERRORS else []
    return [*errors[:MAX_ERRORS], *more]


@explain_memory_errors()
def predict_inputs(run: LoadedRun, inputs: Any, split: str | None = None, top: int = 3) -> Predictions:
    """Predict what Python code holds, or the samples of a split.

    Args:
        run: the run.
        inputs: one input or several, as an array or a tensor; a data frame for a network that takes rows of a table; or
            a path or several, of what `predict` takes. ``None`` with a split.
        split: "train", "val" or "test"; ``None``: the inputs.
        top: the number of classes with their probabilities in each prediction.

    Raises:
        InputError: if nothing can be predicted, or one of the inputs cannot be read.
    """
    if (inputs is None) == (split is None):
        raise InputError("give either the inputs to predict or a split")
    if split not in (None, "train", "val", "test"):
        raise InputError(f"split={split} must be train, val or test")
    reader = Reader(run.description) if split is None else None
    batches = _predict_split(run, str(split)) if reader is None else _predict_values(run, reader, inputs)
    outputs: list[Tensor] = []

    def keep_outputs() -> Iterator[Batch]:
        for batch in batches:
            outputs.append(batch.outputs)
            yield batch

    predictions, _ = _collect(keep_outputs(), run.description, top, with_images=False)
    if reader is not None and reader.errors:
        more = f" (and {len(reader.errors) - 1:,} more)" if len(reader.errors) > 1 else ""
        raise InputError(f"{reader.errors[0]}{more}")
    if not predictions:
        raise InputError("there is nothing to predict: the inputs are empty")
    probabilities = _compute_probabilities(torch.cat(outputs), run.description.task)
    found = None if probabilities is None else probabilities.numpy()
    return Predictions(predictions, found, run.description.class_names)


def _predict_values(run: LoadedRun, reader: Reader, inputs: Any) -> Iterator[Batch]:
    """Yield the batches of arrays, a data frame or paths."""
    paths = [inputs] if isinstance(inputs, (str, PathLike)) else inputs
    if isinstance(paths, (list, tuple)) and paths and all(isinstance(path, (str, PathLike)) for path in paths):
        yield from _predict_files(run, reader, [str(path) for path in paths])
        return
    prepare = run.description.preprocessing
    assert prepare is not None  # the reader has checked it
    for items in batch_items(reader.read_python(inputs)):
        raw = torch.stack([item.raw for item in items])
        yield Batch([item.name for item in items], raw, run.compute_outputs(raw, prepare), None)


def _compute_probabilities(outputs: Tensor, task: str) -> Tensor | None:
    """Return the probability of each class or label (N, K), or (N, K, H, W), float64; ``None`` for regression."""
    if task == "regression":
        return None
    return outputs.double().sigmoid() if task == "multilabel" else compute_class_probabilities(outputs)


def _check_request(cfg: DictConfig, paths: Sequence[str]) -> None:
    """Refuse a request for nothing, for files and a split at once, or to write over what is read."""
    if OmegaConf.is_missing(cfg, "run"):
        folder = next((path for path in paths if (Path(path) / ".hydra").is_dir()), None)
        raise InputError(f"run=… is missing: {f'did you mean run={folder}?' if folder else 'the folder of a run'}")
    if not paths and not cfg.split:
        raise InputError("there is nothing to predict: give images, folders, .npy or .csv files, - or split=test")
    if paths and cfg.split:
        raise InputError(f"split={cfg.split} predicts the run's own samples, and {paths[0]} is a file: give only one")
    for setting in ("out", "grid"):
        written = cfg[setting] and Path(cfg[setting]).resolve()
        if written and any(written == Path(path).expanduser().resolve() for path in paths):
            raise InputError(f"{setting}={cfg[setting]} is one of the files to predict: choose another")


def _keep_apart(folder: Path, paths: Sequence[str]) -> None:
    """Refuse to write masks into a folder from which images are read, since names may be the same."""
    for path in map(Path, paths):
        read = path.expanduser().resolve()
        if folder.resolve() in (read, *read.parents):
            raise InputError(f"masks would be written into {folder}, where {path} is read: choose another out=")


def _predict_split(run: LoadedRun, split: str) -> Iterator[Batch]:
    """Yield the batches of a split, in the order and the batches of an evaluation."""
    data = run.get_samples(split)
    samples: Samples = getattr(data, f"{split}_set")
    with _open_progress(samples.size, "samples") as progress:
        for batch in data.make_batches(samples):
            outputs = run.compute_outputs(batch.inputs.to(run.device), data.transform)
            names = [f"{split}[{progress.n + index}]" for index in range(batch.size)]
            progress.update(batch.size)
            yield Batch(names, batch.inputs, outputs, batch.targets)


def _predict_files(run: LoadedRun, reader: Reader, paths: Sequence[str]) -> Iterator[Batch]:
    """Yield the batches of what the paths lead to."""
    prepare = run.description.preprocessing
    assert prepare is not None  # the reader has checked it
    files = reader.find_files(paths)
    with _open_progress(len(files), "files") as progress:
        for items in reader.read_batches(files, progress.update):
            raw = torch.stack([item.raw for item in items])
            yield Batch([item.name for item in items], raw, run.compute_outputs(raw, prepare), None)


def _open_progress(total: int, unit: str) -> "tqdm[None]":
    """Return a progress bar, which appears in a terminal if it takes long."""
    return tqdm(total=total, unit=f" {unit}", delay=PROGRESS_DELAY, leave=False, disable=None)


def _collect(
    batches: Iterator[Batch], description: DataDescription, top: int, with_images: bool
) -> tuple[list[Prediction], Tensor | None]:
    """Return the predictions of all batches and, if asked for, the first images."""
    predictions: list[Prediction] = []
    images: list[Tensor] = []
    with ExitStack() as stack:
        stack.callback(batches.close)  # type: ignore[attr-defined]  # removes the progress bar also after an error
        for batch in batches:
            if with_images and len(predictions) < GRID_COLUMNS * GRID_ROWS:
                images.append(batch.raw[: GRID_COLUMNS * GRID_ROWS - len(predictions)].cpu())
            predictions += _interpret(batch, description, top)
    return predictions, torch.cat(images) if images else None


def _interpret(batch: Batch, description: DataDescription, top: int) -> Iterator[Prediction]:
    """Yield the predictions of a batch: the most probable classes, the labels, the values, or the masks."""
    namers = {"regression": _name_values, "multilabel": _name_labels, "dense": _name_pixels}
    name_all = namers.get(description.task, _name_classes)
    targets = [None] * len(batch.names) if batch.targets is None else name_all(batch.targets, description)
    values = name_all(TASKS[description.task].predict(batch.outputs), description)
    tops = _rank_classes(batch.outputs, description, top)
    for name, target, value, ranked in zip(batch.names, targets, values, tops, strict=True):
        yield Prediction(name, target, ranked[0][0] if isinstance(value, str) else value, ranked)


def _name_classes(classes: Tensor, description: DataDescription) -> list[Any]:
    return [description.class_names[number] for number in classes.tolist()]


def _name_labels(labels: Tensor, description: DataDescription) -> list[Any]:
    return [list(compress(description.class_names, row)) for row in labels.tolist()]


def _name_pixels(masks: Tensor, description: DataDescription) -> list[Any]:
    return list(masks.byte().numpy())


def _name_values(values: Tensor, description: DataDescription) -> list[Any]:
    names = description.value_names
    return [dict(zip(names, row, strict=True)) if names else row for row in values.tolist()]


def _rank_classes(outputs: Tensor, description: DataDescription, top: int) -> list[list[tuple[str, float]]]:
    """Return each input's most probable classes with their probabilities; all labels in their order; no values.

    Of masks these are all classes, with the fraction of the pixels that have them.
    """
    names = description.class_names
    if description.task == "dense":
        masks = TASKS["dense"].predict(outputs).flatten(1)
        counts = torch.stack([mask.bincount(minlength=len(names)) for mask in masks])
        return [list(zip(names, row, strict=True)) for row in (counts / masks.shape[1]).tolist()]
    probabilities = _compute_probabilities(outputs, description.task)
    if probabilities is None:
        return [[] for _ in outputs]
    if description.task == "multilabel":
        return [list(zip(names, row, strict=True)) for row in probabilities.tolist()]
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :top]
    pairs = zip(order.tolist(), probabilities.gather(1, order).tolist(), strict=True)
    return [[(names[number], value) for number, value in zip(*pair, strict=True)] for pair in pairs]


def _present(cfg: DictConfig, run: LoadedRun, predictions: list[Prediction], images: Tensor | None) -> None:
    """Print predictions, and write and draw them where the config says."""
    print_predictions(predictions)
    if cfg.split:
        log.info("%s of %s: %s", run.path.name, run.folder, summarize(predictions, cfg.split))
    if cfg.out:
        write_predictions(Path(cfg.out), predictions)
        log.info("written: %s (%s predictions)", to_relative_path(Path(cfg.out)), f"{len(predictions):,}")
    if cfg.grid and images is not None:
        described: Any = run.data if cfg.split else run.description
        prepare = described.transform if cfg.split else described.preprocessing
        saliency = run.compute_saliency(images, prepare) if cfg.explain else None
        draw_grid(Path(cfg.grid), images, predictions[: len(images)], saliency)
        addition = f"; next to each what its prediction rests on: {saliency.method}" if saliency else ""
        total = f"{len(predictions):,} images{addition}"
        log.info("drawn: %s (%d of %s)", to_relative_path(Path(cfg.grid)), len(images), total)
