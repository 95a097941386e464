"""List the images of a folder with their classes and splits, from the names of its folders or from a CSV file."""

import csv
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from src.core.checks import format_escaped
from src.core.errors import InputError
from src.storage.files import read_text

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_IMAGES = 1_000_000  # more files than this are another kind of folder
COLUMNS = ("file", "label", "split")  # of a CSV file; the last one may be left out
SHOWN_NAMES = 5  # that a message lists

Problems = dict[str, list[str]]  # why files are left out → their names


class ImageFile(NamedTuple):
    """An image: its path below the root, its class, and its split ("train", "val", "test"; empty: to be drawn)."""

    name: str
    label: str
    split: str = ""


def list_images(root: Path, labels: str | None, problems: Problems) -> list[ImageFile]:
    """Return the images of a folder, sorted by name within each class; note in ``problems`` what is left out.

    Args:
        root: the folder.
        labels: a CSV file with the columns `COLUMNS`, relative to the folder; ``None``: the folders name the classes.
        problems: receives the names of files and folders that are left out, by the reason.

    Raises:
        InputError: if the folder or the CSV file cannot be read, or there is no image.
    """
    if not root.is_dir():
        raise InputError(f"data.root={root}: there is no such folder; {MOVED}")
    try:
        found = (
            _list_by_csv(root, root / os.path.expanduser(labels), problems)
            if labels
            else list(_list_by_folder(root, problems))
        )
    except OSError as error:
        raise InputError(f"data.root={root} cannot be read ({error.strerror or error})") from error
    if not found:
        needed = "one of the files that it names" if labels else f"a folder of images for each class ({LAYOUT})"
        raise InputError(f"data.root={root} has no images{_explain(problems)}: it must have {needed}")
    return found


MOVED = "if the images have moved, give data.root=FOLDER (to src.eval: paths.data=FOLDER)"
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
    if "train" in tops and set(tops) <= SPLIT_FOLDERS.keys() and _list_folders(root, "train", {}):
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


# CSV


def _list_by_csv(root: Path, path: Path, problems: Problems) -> list[ImageFile]:
    try:
        text = read_text(path).removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"data.labels: {path} cannot be read ({error.strerror or error})") from error
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
        header = [name.strip() for name in rows.fieldnames or []]
        rows.fieldnames = header
        if not {"file", "label"} <= set(header):
            raise InputError(
                f"data.labels: {path} must begin with a line of columns, file,label or file,label,split; it has "
                f"{format_escaped(','.join(header)[:60]) or 'none'}"
            )
        found = [_read_row(row, path, rows.line_num, "split" in header) for row in rows]
    except csv.Error as error:
        raise InputError(f"data.labels: {path}, line {rows.line_num}: {error}") from error
    if len(found) > MAX_IMAGES:
        raise InputError(f"data.labels: {path} names more than {MAX_IMAGES:,} images, which is the limit")
    return list(_select_existing(root, dict.fromkeys(found), problems))


def _read_row(row: dict[str, str | None], path: Path, line: int, has_split: bool) -> ImageFile:
    """Return the image of a line.

    Raises:
        InputError: if a value is missing or is none of the splits.
    """
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    split = SPLIT_FOLDERS.get(values["split"], "") if has_split else ""
    if not values["file"] or not values["label"] or (has_split and not split):
        needed = "a file, a label and one of train, val and test" if has_split else "a file and a label"
        raise InputError(f"data.labels: {path}, line {line} must have {needed}")
    return ImageFile(values["file"], values["label"], split)


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
