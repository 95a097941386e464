"""Find copies among image files, so that no image is both trained and tested on."""

from collections.abc import Sequence

from src.data.own.listing import ImageFile, Problems

PRECEDENCE = ("test", "val", "train", "")  # of copies in several splits the first is kept


def drop_duplicates(files: Sequence[ImageFile], digests: Sequence[str], problems: Problems) -> list[int]:
    """Return the indices of the files to keep: of copies one, and none if their labels differ.

    Args:
        files: the files.
        digests: a hash of each file's content; a file without one (empty) is not kept.
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
            problems.setdefault("images have several labels and are left out with all copies", []).append(names)
            continue
        kept.append(first)
        for copy in copies:
            across = files[copy].split != files[first].split
            reason = "images are copies of one in another split" if across else "images are copies of another"
            problems.setdefault(reason, []).append(f"{files[copy].name} = {files[first].name}")
    return sorted(kept)
