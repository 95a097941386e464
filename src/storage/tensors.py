"""Read the tensors that ``torch.save`` has written, once the file's checksums hold.

The file is a zip archive with a checksum of each part, and torch's own reader looks at none of them: it takes a
flipped bit for another weight. Reading all parts once with ``zipfile``, which does look, costs about as much again.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch

from src.core.errors import InputError
from src.storage.files import open_plain

OLD_FORMAT = b"\x80"  # a pickle: what torch wrote before version 1.6
FLAGS = 0x808  # of an archive's part that torch sets: sizes follow the content, names are UTF-8


def read_tensors(path: Path, digest: str | None = None) -> Any:
    """Read a file's tensors, to the CPU, and plain values.

    Args:
        path: the file.
        digest: as in `open_verified`.

    Raises:
        InputError: as `open_verified`, or if the file holds anything else.
    """
    with open_verified(path, digest) as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"checkpoint {path} is truncated or not a checkpoint ({type(error).__name__})") from error


@contextmanager
def open_verified(path: Path, digest: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file that ``torch.save`` has written, all of it as it was then.

    Args:
        path: the file.
        digest: what the file's SHA-256 begins with. ``None``: the file's own checksums count; one in torch's old
            format, which has none, must have the digest that published files have in their names (NAME-DIGEST.pth).

    Raises:
        InputError: if the file is missing, damaged, something else, or can not be verified.
    """
    with _open(path) as file:
        _verify(file, path, digest)
        file.seek(0)
        yield file


def _open(path: Path) -> IO[bytes]:
    try:
        return open_plain(path)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {path} does not exist") from error
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror})") from error


def _verify(file: IO[bytes], path: Path, digest: str | None) -> None:
    if digest is None and file.read(1) == OLD_FORMAT:
        digest = _digest_in_name(path)
    file.seek(0)
    if digest is None:
        _verify_parts(file, path)
    elif not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):  # type: ignore[arg-type]
        raise InputError(f"{path} is damaged: its SHA-256 does not begin with {digest}; download it again")


def _digest_in_name(path: Path) -> str:
    """Return the digest in a published file's name.

    Raises:
        InputError: if there is none.
    """
    if found := re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name):
        return found[1]
    convert = f"import torch; path = {str(path)!r}; torch.save(torch.load(path, weights_only=True), path)"
    raise InputError(
        f"{path} is in torch's old format, which has no checksums: if you trust the file, write it anew with: "
        f"python -c {shlex.quote(convert)}"
    )


def _verify_parts(file: IO[bytes], path: Path) -> None:
    size = os.fstat(file.fileno()).st_size
    try:
        with ZipFile(file) as archive:
            parts = archive.infolist()
            if archive.comment or not parts or not _is_torchs(parts, size):
                raise InputError(f"checkpoint {path} is damaged: it is not as torch writes such a file")
            damaged = archive.testzip() is not None
    except InputError:
        raise
    except Exception as error:  # zipfile has many for what is no archive
        reason = "no zip archive" if isinstance(error, BadZipFile) else type(error).__name__
        raise InputError(f"checkpoint {path} is truncated or not a checkpoint ({reason})") from error
    if damaged:
        raise InputError(f"checkpoint {path} is damaged: a part of it does not match its checksum")


def _is_torchs(parts: list[ZipInfo], size: int) -> bool:
    """Return whether an archive is laid out as torch does it.

    Then torch reads the bytes that have been verified and no others: where a part is marked as a folder, for
    example, it would take what happens to be in memory for the content.

    Args:
        parts: of the archive.
        size: the file's, in bytes; parts that overlap or are compressed could claim to hold any amount.
    """
    whole = parts[0].header_offset == 0 and sum(part.compress_size for part in parts) <= size
    single = len({part.filename for part in parts}) == len(parts)
    return whole and single and all(_is_plain(part) for part in parts)


def _is_plain(part: ZipInfo) -> bool:
    stored = part.compress_type == ZIP_STORED and part.compress_size == part.file_size
    return stored and not part.flag_bits & ~FLAGS and not part.external_attr and not part.is_dir()
