"""What the labels of images stand for: one class each, any number of labels, or a value."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from src.core.errors import InputError

LABEL_SIGN = ";"  # between the labels of an image
IGNORED = 255  # a pixel of a mask that has no class
TASKS_OF_LABELS = ("multiclass", "binary", "multilabel", "regression")


class LabelColumns(NamedTuple):
    """The columns of a CSV file that say what an image shows.

    Attributes:
        task: one of `TASKS_OF_LABELS`.
        names: the column of classes, values or labels; or one of 0 and 1 for each label.
    """

    task: str
    names: tuple[str, ...]

    def read(self, row: Mapping[str, str | None]) -> str:
        """Return a row's class, its value, or its labels, sorted, with `LABEL_SIGN` between them.

        Raises:
            ValueError: saying what the row must have.
        """
        cells = [(row.get(name) or "").strip() for name in self.names]
        if self.task == "multilabel":
            if len(cells) > 1 and set(cells) - {"0", "1"}:
                raise ValueError("0 or 1 for each label")
            found = list(compress(self.names, map(int, cells))) if len(cells) > 1 else cells[0].split(LABEL_SIGN)
            return join_labels(found)
        if not cells[0]:
            raise ValueError("a label")
        if self.task == "regression" and not _is_number(cells[0]):
            raise ValueError("a number as its label")
        return cells[0]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def join_labels(labels: Iterable[str]) -> str:
    """Return different labels as one text, sorted."""
    return LABEL_SIGN.join(sorted({label.strip() for label in labels} - {""}))


def split_labels(text: str) -> list[str]:
    """Return the labels in a text, see `join_labels`."""
    return text.split(LABEL_SIGN) if text else []


def find_label_columns(header: Sequence[str], task: str | None) -> LabelColumns | None:
    """Return the columns of a CSV file that say what an image shows; ``None`` if there are none.

    A column ``label`` has a class, or what the task says; ``labels`` has several labels with `LABEL_SIGN` between them;
    without either, each other column is a label with 0 or 1.

    Args:
        header: the names of all columns.
        task: the task; ``None``: found from the columns.

    Raises:
        InputError: if the columns do not suit the task.
    """
    each = tuple(name for name in header if name not in ("file", "split"))
    if "label" in header:
        return LabelColumns(task or "multiclass", ("label",))
    several = ("labels",) if "labels" in header else each if len(each) > 1 else ()
    if not several or any(not name or LABEL_SIGN in name for name in several):
        return None
    if task not in (None, "multilabel"):
        raise InputError(f"data.task={task} needs a column label; the file has several labels: {', '.join(several)}")
    return LabelColumns("multilabel", several)


def list_classes(labels: Iterable[str], task: str) -> set[str]:
    """Return the classes, or labels, that occur; none for a regression."""
    if task == "regression":
        return set()
    return {each for text in labels for each in split_labels(text)} if task == "multilabel" else set(labels)


def encode_labels(labels: Sequence[str], task: str, class_names: Sequence[str]) -> Tensor:
    """Return the targets of N images: int64 classes (N,), labels of 0 and 1 (N, K), or float32 values (N,)."""
    if task == "regression":
        return torch.tensor([float(text) for text in labels])
    places = {name: number for number, name in enumerate(class_names)}
    if task != "multilabel":
        return torch.tensor([places[text] for text in labels], dtype=torch.int64)
    targets = torch.zeros(len(labels), len(places), dtype=torch.int64)
    for row, text in zip(targets, labels, strict=True):
        row[[places[label] for label in split_labels(text)]] = 1
    return targets
