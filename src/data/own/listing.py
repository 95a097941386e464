"""List the images of a folder with their labels and splits: from its folders, a CSV file, or a folder of masks."""

import csv
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from src.core.checks import format_escaped
from src.core.errors import InputError
from src.data.own.labels import LABEL_SIGN, LabelColumns, find_label_columns, join_labels, split_labels
from src.storage.files import read_text

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_IMAGES = 1_000_000  # more files than this are another kind of folder
SHOWN_NAMES = 5  # that a message lists

Problems = dict[str, list[str]]  # why files are left out → their names


class ImageFile(NamedTuple):
    """An image.

    Attributes:
        name: its path below the root.
        label: its class, its value, or its labels as `src.data.own.labels.join_labels` writes them.
        split: "train", "val" or "test"; empty: to be drawn.
        mask: the path of its mask, if it has one.
    """

    name: str
    label: str
    split: str = ""
    mask: str = ""


class Source(NamedTuple):
    """Where the labels of images are; without a file and a folder, folders name the classes.

    Attributes:
        labels: a CSV file with a column of files, relative to the root.
        masks: the name of the folder of masks, next to the folder of images.
        task: the task; ``None``: found from the file.
    """

    labels: str | None = None
    masks: str | None = None
    task: str | None = None


def list_images(root: Path, source: Source, problems: Problems) -> tuple[list[ImageFile], str]:
    """Return the images of a folder, sorted by name within each class, and the task.

    Args:
        root: the folder.
        source: where their labels are.
        problems: receives the names of files and folders that are left out, by the reason.

    Raises:
        InputError: if the folder or the CSV file cannot be read, or there is no image.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root}: there is no such folder; {MOVED}")
    try:
        found, task = _list_by_source(root, source, problems)
    except OSError as error:
        raise InputError(f"data.root={root} cannot be read ({error.strerror or error})") from error
    if not found:
        needed = f"a folder of images for each class ({LAYOUT})"
        if source.labels or source.masks:
            masked = f"images in {IMAGES}/ and a mask for each, with the same name, in {source.masks}/"
            needed = "one of the files that it names" if source.labels else masked
        raise InputError(f"data.root={root} has no images{_explain(problems)}: it must have {needed}")
    return found, task


def _list_by_source(root: Path, source: Source, problems: Problems) -> tuple[list[ImageFile], str]:
    if source.masks:
        if source.labels or source.task:
            other = f"data.labels={source.labels}" if source.labels else f"data.task={source.task}"
            raise InputError(f"{other} has no meaning with data.masks, which give each pixel its class: leave one out")
        return list(_list_by_masks(root, source.masks, problems)), "dense"
    if source.labels:
        return _list_by_csv(root, root / os.path.expanduser(source.labels), source.task, problems)
    if source.task not in (None, "multiclass", "binary"):
        raise InputError(
            f"data.task={source.task} needs a CSV file with the labels of each image: data.labels=FILE.csv"
        )
    return list(_list_by_folder(root, problems)), source.task or "multiclass"


MOVED = "if the images have moved, give data.root=FOLDER (to src.eval: paths.data=FOLDER)"
IMAGES = "images"  # the folder of images next to that of their masks
LAYOUT = "CLASS/IMAGE.jpg, or train/CLASS/IMAGE.jpg with test/ and val/"


def _explain(problems: Problems) -> str:
    return "".join(f"; {line}" for line in describe_problems(problems))


def describe_problems(problems: Problems) -> list[str]:
    """Return one line for each reason why files are left out: their number and the first names."""
    lines = []
    for reason, names in problems.items():
        more = ", …" if len(names) > SHOWN_NAMES else ""
        lines.append(f"{reason} ({len(names):,}): {', '.join(map(format_escaped, names[:SHOWN_NAMES]))}{more}")
    return lines


def sort_classes(labels: Iterable[str]) -> list[str]:
    """Return different class names in their order: as numbers if all are whole numbers, otherwise as text."""
    names = set(labels)
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else sorted(names)


# Folders


def _list_by_folder(root: Path, problems: Problems) -> Iterator[ImageFile]:
    tops = _list_folders(root, "", problems)
    if _are_splits(root, tops):
        folders = [(SPLIT_FOLDERS[top], name) for top in tops for name in _list_folders(root, top, problems)]
    else:
        folders = [("", name) for name in tops]
    count = 0
    for split, folder in folders:
        before = count
        for name in _walk(root, folder, problems):
            yield ImageFile(name, PurePosixPath(folder).name, split)
            count += 1
            if count > MAX_IMAGES:
                raise InputError(f"data.root={root} has more than {MAX_IMAGES:,} images, which is the limit")
        if count == before:
            problems.setdefault("class folders have no images", []).append(folder)


def _are_splits(root: Path, tops: list[str]) -> bool:
    """Return True if the folders in the root are train/, val/ and test/, with folders in them."""
    return "train" in tops and set(tops) <= SPLIT_FOLDERS.keys() and bool(_list_folders(root, "train", {}))


def _list_folders(root: Path, within: str, problems: Problems) -> list[str]:
    """Return the folders directly in a folder, by their paths below the root; images next to them have no class."""
    folders = []
    for entry in _scan(root, within):
        name = f"{within}/{entry.name}" if within else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(name)
        elif entry.is_dir():
            problems.setdefault(LINKED, []).append(name)
        elif entry.name.lower().endswith(SUFFIXES):
            problems.setdefault("images lie outside the class folders", []).append(name)
    return folders


LINKED = "links are not followed, for they lead to folders or out of data.root"


def _scan(root: Path, within: str) -> list[os.DirEntry[str]]:
    with os.scandir(root / within) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _walk(root: Path, within: str, problems: Problems) -> Iterator[str]:
    """Yield the paths of the images below a folder, also of those in folders within it."""
    real_root = root.resolve()
    for entry in _scan(root, within):
        name = f"{within}/{entry.name}"
        if entry.name.startswith("."):
            problems.setdefault("hidden files or folders are left out", []).append(name)
        elif entry.is_symlink() and not _is_inner_file(root / name, real_root):
            problems.setdefault(LINKED, []).append(name)
        elif entry.is_dir():
            yield from _walk(root, name, problems)
        elif not entry.name.lower().endswith(SUFFIXES) or not entry.is_file():
            problems.setdefault("files are no images by their names", []).append(name)
        else:
            yield name


def _is_inner_file(path: Path, real_root: Path) -> bool:
    """Return True if a link leads to a file within the root."""
    try:
        return path.is_file() and path.resolve().is_relative_to(real_root)
    except (OSError, RuntimeError):  # a circle of links
        return False


# Masks


def _list_by_masks(root: Path, masks: str, problems: Problems) -> Iterator[ImageFile]:
    """Yield the images that have a mask: of the same path, but for the folder and the ending."""
    tops = _list_folders(root, "", {})
    parts = [(f"{top}/", SPLIT_FOLDERS[top]) for top in tops] if _are_splits(root, tops) else [("", "")]
    for part, split in parts:
        for name in (IMAGES, masks):
            if f"{part}{name}" not in _list_folders(root, part.rstrip("/"), {}):  # links are not followed
                raise InputError(f"data.masks={masks}: there is no folder {part}{name} in data.root={root}")
        inside = len(f"{part}{masks}/")
        found = {os.path.splitext(name[inside:])[0]: name for name in _walk(root, f"{part}{masks}", problems)}
        for name in _walk(root, f"{part}{IMAGES}", problems):
            if mask := found.pop(os.path.splitext(name[len(f"{part}{IMAGES}/") :])[0], ""):
                yield ImageFile(name, "", split, mask)
            else:
                problems.setdefault("images have no mask", []).append(name)
        if found:
            problems.setdefault("masks have no image", []).extend(found.values())


# CSV


def _list_by_csv(root: Path, path: Path, task: str | None, problems: Problems) -> tuple[list[ImageFile], str]:
    try:
        text = read_text(path).removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"data.labels: {path} cannot be read ({error.strerror or error})") from error
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
        header = rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        columns = find_label_columns(header, task)
        if "file" not in header or columns is None:
            raise InputError(
                f"data.labels: {path} must begin with a line of columns, file,label or file,labels or file and the "
                f"name of each label, and split if you like; it has {format_escaped(','.join(header)[:60]) or 'none'}"
            )
        found = [_read_row(row, columns, path, rows.line_num, "split" in header) for row in rows]
    except csv.Error as error:
        raise InputError(f"data.labels: {path}, line {rows.line_num}: {error}") from error
    if len(found) > MAX_IMAGES:
        raise InputError(f"data.labels: {path} names more than {MAX_IMAGES:,} images, which is the limit")
    if task is None and columns.task == "multiclass":
        _refuse_ambiguous(found, path)
    found = _join_rows(found) if columns.task == "multilabel" else list(dict.fromkeys(found))
    return list(_select_existing(root, found, problems)), columns.task


def _read_row(row: dict[str, str | None], columns: LabelColumns, path: Path, line: int, has_split: bool) -> ImageFile:
    """Return the image of a line.

    Raises:
        InputError: if a value is missing or is none of the splits.
    """
    name, split = ((row.get(key) or "").strip() for key in ("file", "split"))
    known, needed = SPLIT_FOLDERS.get(split, "") if has_split else "", "a label"
    try:
        label = columns.read(row)
    except ValueError as error:
        label, name, needed = "", "", str(error)
    if not name or (has_split and not known):
        needed = f"a file, {needed} and one of train, val and test" if has_split else f"a file and {needed}"
        raise InputError(f"data.labels: {path}, line {line} must have {needed}")
    return ImageFile(name, label, known)


def _refuse_ambiguous(found: Iterable[ImageFile], path: Path) -> None:
    """Refuse classes that look like several labels, if no task is given."""
    if image := next((each for each in found if LABEL_SIGN in each.label), None):
        raise InputError(
            f"data.labels: {path}: {format_escaped(image.label)} is several labels with data.task=multilabel, and one "
            "class with data.task=multiclass: give one of them"
        )


def _join_rows(found: Iterable[ImageFile]) -> list[ImageFile]:
    """Return images with the labels of all their lines."""
    joined: dict[tuple[str, str], list[str]] = {}
    for image in found:
        joined.setdefault((image.name, image.split), []).extend(split_labels(image.label))
    return [ImageFile(name, join_labels(labels), split) for (name, split), labels in joined.items()]


def _select_existing(root: Path, found: Iterable[ImageFile], problems: Problems) -> Iterator[ImageFile]:
    real_root = root.resolve()
    for image in found:
        path = root / image.name
        if not path.is_file():
            problems.setdefault("files in the table do not exist", []).append(image.name)
        elif not _is_inner_file(path, real_root):
            problems.setdefault("files in the table lie outside data.root", []).append(image.name)
        else:
            yield image
