"""Present predictions: a table in the terminal, a CSV or JSON file, masks as images, and a grid of images."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from src.callbacks.explanations.saliency import Saliency, attach_overlays
from src.callbacks.figures.base import attach_masks, draw_figure, draw_image_grid, format_percent, save_png
from src.core.colours import make_palette
from src.core.errors import InputError
from src.core.formatting import format_html, format_metrics, to_table
from src.data.tasks import count_fractions
from src.storage.files import open_atomic, write_csv, write_json

MAX_ROWS = 50  # of the table
LABEL_SIGN = "|"  # between the labels of a sample
GRID_COLUMNS, GRID_ROWS = 6, 8
TITLE_WIDTH = 22  # characters


class Prediction(NamedTuple):
    """What a network predicts for an input.

    Attributes:
        name: the input's.
        target: the true class, labels or values, as ``value``, if known.
        value: the predicted class; a list of labels; a value, or several by their names; the classes of pixels, uint8
            (H, W).
        top: the most probable classes with their probabilities, the first is predicted; of labels all, in their order;
            of a mask all classes, with the fraction of the pixels that have them; empty for regression.
    """

    name: str
    target: "Value | None"
    value: "Value"
    top: list[tuple[str, float]]


Value = str | list[str] | float | dict[str, float] | np.ndarray


@dataclass(frozen=True, repr=False)
class Predictions:
    """What a network predicts for N inputs, for Python code.

    Attributes:
        predictions: one for each input.
        probabilities: (N, K) float64, a column for each class or label in the order of ``class_names``; ``None`` for
            regression.
        class_names: the K classes or labels; empty for regression.
    """

    predictions: list[Prediction]
    probabilities: np.ndarray | None
    class_names: tuple[str, ...]

    @property
    def values(self) -> list[Value]:
        """What is predicted for each input: a class, a list of labels, a value, or several by their names."""
        return [prediction.value for prediction in self.predictions]

    @property
    def table(self) -> Any:
        """A row for each input, as in the file that ``src.predict`` writes; a data frame if pandas is installed."""
        return to_table(make_rows(self.predictions))

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        return f"{len(self):,} predictions"

    def _repr_html_(self) -> str:
        return format_html(repr(self), make_rows(self.predictions))


def make_rows(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Return predictions as rows of a table: input, target if known, and classes with their probabilities.

    Each label and each of several values has a column. Of a mask the row has the fraction of correct pixels, if that is
    known, and of the pixels of each class.
    """
    rows = []
    for name, target, value, top in predictions:
        row: dict[str, Any] = {"input": name}
        if isinstance(value, np.ndarray):
            row |= {} if target is None else {"accuracy": _rate_mask(value, target)}
            rows.append(row | {f"fraction_{label}": fraction for label, fraction in top})
            continue
        for title, content in (("target", target), ("prediction", value)):
            if isinstance(content, dict):
                row |= {f"{title}_{key}": number for key, number in content.items()}
            elif content is not None:
                row[title] = LABEL_SIGN.join(content) if isinstance(content, list) else content
        if isinstance(value, list):
            row |= {f"probability_{label}": probability for label, probability in top}
            top = []
        for rank, (label, probability) in enumerate(top, start=1):
            row |= {f"prediction_{rank}": label} if rank > 1 else {}
            row["probability" if rank == 1 else f"probability_{rank}"] = probability
        rows.append(row)
    return rows


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as CSV, a row for each, or as JSON, a list of objects with the classes in ``top``.

    Masks become images in the folder NAME_masks next to the file, which has their paths.
    """
    is_dense = isinstance(predictions[0].value, np.ndarray)
    if is_dense or path.suffix == ".csv":
        rows = make_rows(predictions)
        for row, mask in zip(rows, _write_masks(name_mask_folder(path), predictions) if is_dense else [], strict=False):
            row["mask"] = mask
        write_csv(path, rows) if path.suffix == ".csv" else write_json(path, rows)
        return
    content = []
    for name, target, value, top in predictions:
        known = {} if target is None else {"target": target}
        classes = {"top": [{"class": label, "probability": each} for label, each in top]} if top else {}
        content.append({"input": name, **known, "prediction": value, **classes})
    write_json(path, content)


def name_mask_folder(path: Path) -> Path:
    """Return the folder of the masks whose table is written to a path."""
    return path.with_name(f"{path.stem}_masks")


def _write_masks(folder: Path, predictions: Sequence[Prediction]) -> list[str]:
    """Write each mask as a PNG with a palette, whose numbers are the classes; return their paths from the folder's."""
    names: dict[str, None] = {}
    for prediction in predictions:
        stem = re.sub(r"\W+", "_", Path(prediction.name).stem).strip("_") or "mask"
        same = (f"{stem}_{number}" for number in itertools.count(2))
        name = stem if stem not in names else next(each for each in same if each not in names)
        names[name] = None
        image = Image.fromarray(np.asarray(prediction.value)).convert("P")
        image.putpalette(bytes(itertools.chain.from_iterable(make_palette())))
        with open_atomic(folder / f"{name}.png") as file:
            image.save(file, format="png")
    return [f"{folder.name}/{name}.png" for name in names]


def _rate_mask(value: Any, target: Any) -> float:
    """Return the fraction of a mask's pixels that are correct, of those that have a class."""
    return float(count_fractions(torch.from_numpy(value)[None], torch.from_numpy(target)[None]))


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """Print the first predictions as a table; lines are wrapped only in a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    rows = make_rows(predictions[:MAX_ROWS])
    ranked = isinstance(predictions[0].value, str)  # columns whose titles would tell nothing
    for name in rows[0]:
        is_rank = ranked and (name.startswith("prob") or name[-1].isdigit())
        table.add_column("" if is_rank else name, overflow="fold")
    for row in rows:
        table.add_row(*[Text(_format_cell(name, value)) for name, value in row.items()])
    console.print(table)
    if (more := len(predictions) - MAX_ROWS) > 0:
        print(f"… and {more:,} more: out=FILE.csv writes all of them")


def _format_cell(name: str, value: Any) -> str:
    if name.startswith(("probability", "fraction", "accuracy")) and isinstance(value, float):
        return format_percent(value, 1)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def summarize(predictions: Sequence[Prediction], split: str) -> str:
    """Return the accuracy, or for regression the mean squared error, of predictions whose targets are known.

    Labels are predicted correctly if all of a sample's are; of a mask the fraction of its pixels counts.
    """
    if isinstance(predictions[0].value, np.ndarray):
        measure = {f"{split}/acc": sum(_rate_mask(each.value, each.target) for each in predictions) / len(predictions)}
    elif predictions[0].top:
        measure = {f"{split}/acc": sum(each.target == each.value for each in predictions) / len(predictions)}
    else:
        pairs = [pair for each in predictions for pair in zip(_list(each.value), _list(each.target), strict=True)]
        measure = {f"{split}/mse": sum((value - target) ** 2 for value, target in pairs) / len(pairs)}
    return f"{format_metrics(measure)} of {len(predictions):,} samples"


def _list(value: Any) -> list[float]:
    """Return the numbers of a predicted or true value of a regression."""
    return list(value.values()) if isinstance(value, dict) else [value]


def draw_grid(path: Path, images: Tensor, predictions: Sequence[Prediction], saliency: Saliency | None = None) -> None:
    """Draw images (N, C, H, W) with what is predicted, and with the true class where that is wrong.

    If ``saliency`` is given, each image has its map next to it.

    Raises:
        InputError: if the images have neither one nor three channels.
    """
    if images.shape[1] not in (1, 3):
        raise InputError(f"grid={path}: images of {images.shape[1]} channels cannot be drawn")
    titles = [_format_title(each) for each in predictions]
    is_dense = isinstance(predictions[0].value, np.ndarray)
    if is_dense:
        images = attach_masks(images, torch.from_numpy(np.stack([np.asarray(each.value) for each in predictions])))
    elif saliency is not None:
        images = attach_overlays(images, saliency)
    wide = 2 if is_dense or saliency else 1  # images that are drawn for each
    columns = min(GRID_COLUMNS // wide, len(titles))
    size = (columns * 1.6 * wide, -(-len(titles) // columns) * 1.8 + 0.1)

    def draw(figure: Figure) -> None:
        draw_image_grid(figure, images, titles, columns)

    save_png(draw_figure(size, draw), path)


def _format_title(prediction: Prediction) -> str:
    name, target, value, top = prediction
    if isinstance(value, np.ndarray):
        rate = "" if target is None else f"\n{format_percent(_rate_mask(value, target), 1)} correct"
        return f"{Path(name).name[-TITLE_WIDTH:]}{rate}"
    if isinstance(value, str):
        shown = f"{value} {format_percent(top[0][1], 0)}"
    else:
        shown = ", ".join(value) if isinstance(value, list) else ", ".join(f"{each:.4g}" for each in _list(value))
    true = ", ".join(target) if isinstance(target, list) else target
    wrong = f"\n(true: {true})" if top and target not in (None, value) else ""
    return "\n".join(line[:TITLE_WIDTH] for line in f"{shown}{wrong}".split("\n"))
