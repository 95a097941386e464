"""Read files of tensors: those of safetensors, and those written by ``torch.save`` after verifying their checksums.

The latter is a zip archive with a checksum of each part, but torch's reader ignores the checksums: a flipped bit
becomes a wrong weight. Verifying all parts with ``zipfile`` first about doubles the reading time.
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
from src.core.extras import require_package
from src.storage.files import open_regular_file

OLD_FORMAT_START = b"\x80"  # first byte of a pickle, the format before torch 1.6
TORCH_FLAGS = 0x808  # flags that torch sets on an archive's parts: sizes follow the content, names are UTF-8


def read_tensors(path: Path, digest: str | None = None) -> Any:
    """Load a file's tensors, onto the CPU, and plain values.

    Args:
        path: the file.
        digest: as in `open_verified`.

    Raises:
        InputError: as in `open_verified`, or if the file holds objects other than tensors and plain values.
    """
    with open_verified(path, digest) as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"checkpoint {path} is truncated or not a checkpoint ({type(error).__name__})") from error


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a file in the format of safetensors, which has no code in it and no checksums.

    Raises:
        InputError: if the package is not installed, or the file is missing, damaged or of another kind.
    """
    require_package("safetensors", "safetensors", str(path))
    from safetensors import SafetensorError
    from safetensors.torch import load

    with _open(path) as file:
        try:
            return load(file.read())
        except SafetensorError as error:  # it checks names, types, shapes and places of all tensors
            raise InputError(f"{path} is truncated or not a file of safetensors ({error})") from error


@contextmanager
def open_verified(path: Path, digest: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file written by ``torch.save`` after verifying that it is undamaged.

    Args:
        path: the file.
        digest: the first characters of the file's SHA-256. ``None``: verify the checksums in the file; a file in
            torch's old format, which has none, must have a digest in its name as published files do (NAME-DIGEST.pth).

    Raises:
        InputError: if the file is missing, damaged, of another kind, or cannot be verified.
    """
    with _open(path) as file:
        _verify(file, path, digest)
        file.seek(0)
        yield file


def _open(path: Path) -> IO[bytes]:
    try:
        return open_regular_file(path)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint {path} does not exist") from error
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror})") from error


def _verify(file: IO[bytes], path: Path, digest: str | None) -> None:
    if digest is None and file.read(1) == OLD_FORMAT_START:
        digest = _extract_digest(path)
    file.seek(0)
    if digest is None:
        _verify_parts(file, path)
    elif not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):  # type: ignore[arg-type]
        raise InputError(f"{path} is damaged: its SHA-256 does not begin with {digest}; download it again")


def _extract_digest(path: Path) -> str:
    """Return the digest in a published file's name.

    Raises:
        InputError: if the name has no digest.
    """
    if found := re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name):
        return found[1]
    convert = f"import torch; path = {str(path)!r}; torch.save(torch.load(path, weights_only=True), path)"
    raise InputError(
        f"{path} is in torch's old format, which has no checksums: if you trust the file, convert it with: "
        f"python -c {shlex.quote(convert)}"
    )


def _verify_parts(file: IO[bytes], path: Path) -> None:
    size = os.fstat(file.fileno()).st_size
    try:
        with ZipFile(file) as archive:
            parts = archive.infolist()
            if archive.comment or not parts or not _is_torch_layout(parts, size):
                raise InputError(f"checkpoint {path} is damaged: its layout is not that of torch.save")
            damaged = archive.testzip() is not None
    except InputError:
        raise
    except Exception as error:  # zipfile raises many types for files that are not archives
        reason = "no zip archive" if isinstance(error, BadZipFile) else type(error).__name__
        raise InputError(f"checkpoint {path} is truncated or not a checkpoint ({reason})") from error
    if damaged:
        raise InputError(f"checkpoint {path} is damaged: a part of it does not match its checksum")


def _is_torch_layout(parts: list[ZipInfo], size: int) -> bool:
    """Return True if an archive has the layout that torch writes.

    Only then does torch read exactly the bytes that were verified: for a part marked as a folder, for example, it would
    return uninitialized memory.

    Args:
        parts: the archive's parts.
        size: the file's size in bytes; overlapping or compressed parts could claim to hold any amount.
    """
    fits = parts[0].header_offset == 0 and sum(part.compress_size for part in parts) <= size
    unique = len({part.filename for part in parts}) == len(parts)
    return fits and unique and all(_is_plain_part(part) for part in parts)


def _is_plain_part(part: ZipInfo) -> bool:
    stored = part.compress_type == ZIP_STORED and part.compress_size == part.file_size
    return stored and not part.flag_bits & ~TORCH_FLAGS and not part.external_attr and not part.is_dir()
