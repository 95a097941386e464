"""Find copies among image files, so that no image is both trained and tested on."""

from collections.abc import Sequence

from src.data.own.listing import ImageFile, Problems

CONFLICTS = {  # why all copies are left out, for tasks of several labels, of masks and of values
    "multilabel": "copies of an image have different labels and are left out",
    "dense": "copies of an image have different masks and are left out",
    "regression": "copies of an image have different values and are left out",
}
PRECEDENCE = ("test", "val", "train", "")  # of copies in several splits the first is kept


def drop_duplicates(files: Sequence[ImageFile], digests: Sequence[str], task: str, problems: Problems) -> list[int]:
    """Return the indices of the files to keep: of copies one, and none if their labels differ.

    Args:
        files: the files.
        digests: a hash of each file's content; a file without one (empty) is not kept.
        task: the task.
        problems: receives the names of files that are left out, by the reason.
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        if digest:
            groups.setdefault(digest, []).append(index)
    kept = []
    for group in groups.values():
        first, *copies = sorted(group, key=lambda index: PRECEDENCE.index(files[index].split))
        if len({files[index].label for index in group}) > 1:
            names = " = ".join(files[index].name for index in group)
            reason = CONFLICTS.get(task, "images have several labels and are left out with all copies")
            problems.setdefault(reason, []).append(names)
            continue
        kept.append(first)
        for copy in copies:
            across = files[copy].split != files[first].split
            reason = "images are copies of one in another split" if across else "images are copies of another"
            problems.setdefault(reason, []).append(f"{files[copy].name} = {files[first].name}")
    return sorted(kept)
