"""A file of tensors is read as it was written, or refused by name: whatever has become of it since."""

import hashlib
import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import InputError
from src.storage.tensors import read_tensors
from tests.command_line import is_identical

CONTENT: dict[str, Any] = {
    "state_dict": {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)},
    "epoch": 3,
    "parts": {"names": ["a", "b"], "rate": 0.1, "none": None, "yes": True},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.ckpt"
    torch.save(CONTENT, path)
    return path


def read_or_get_error(path: Path) -> Any:
    """Return what is read, or the line that refuses it."""
    try:
        return read_tensors(path)
    except InputError as error:
        line = str(error)
        assert str(path) in line and line.isprintable(), line
        return line


def test_tensors_are_read_as_written(path: Path) -> None:
    assert is_identical(read_tensors(path), CONTENT)


def test_flipped_bit_is_refused_or_harmless(path: Path) -> None:
    """Five hundred drawn from all bits, and all those of a part's header that mark it as a folder."""
    content = path.read_bytes()
    headers = [at for at in range(len(content)) if content.startswith(b"PK\1\2", at)]
    marks = [8 * (at + 38) + bit for at in headers for bit in range(32)]  # external attributes
    drawn = random.Random(0).sample(range(8 * len(content)), 500)
    refused = 0
    for bit in [*drawn, *marks]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = read_or_get_error(path)
        assert isinstance(found, str) or is_identical(found, CONTENT), f"bit {bit}"
        refused += isinstance(found, str)
    assert refused > 250


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_is_refused(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "is truncated or not a checkpoint" in read_or_get_error(path)


def rewrite_parts(path: Path, change: Callable[[zipfile.ZipFile, list[tuple[str, bytes]]], None]) -> None:
    """Write a file's parts anew, as ``change`` does it."""
    with zipfile.ZipFile(path) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        change(archive, parts)


def test_compressed_parts_are_refused(path: Path) -> None:
    def compress(archive: zipfile.ZipFile, parts: list[tuple[str, bytes]]) -> None:
        for name, content in [*parts, ("a/data/9", bytes(10**7))]:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)

    rewrite_parts(path, compress)
    assert path.stat().st_size < 10**5
    assert "its layout is not that of torch.save" in read_or_get_error(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_parts_are_refused(path: Path) -> None:
    def repeat(archive: zipfile.ZipFile, parts: list[tuple[str, bytes]]) -> None:
        for name, content in [*parts, parts[0]]:
            archive.writestr(zipfile.ZipInfo(name), content)

    rewrite_parts(path, repeat)
    assert "its layout is not that of torch.save" in read_or_get_error(path)


def test_overlapping_parts_are_refused(path: Path) -> None:
    def overlap(archive: zipfile.ZipFile, parts: list[tuple[str, bytes]]) -> None:
        archive.writestr(zipfile.ZipInfo("a/data/0"), bytes(10**5))
        first = archive.infolist()[0]
        for number in range(1, 50):
            again = zipfile.ZipInfo(f"a/data/{number}")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            archive.filelist.append(again)

    rewrite_parts(path, overlap)
    assert "its layout is not that of torch.save" in read_or_get_error(path)


def test_extra_bytes_are_refused_or_harmless(path: Path) -> None:
    """Extra bytes before or after the archive are refused or change nothing."""
    content = path.read_bytes()
    for other in (b"#!/bin/sh\n" + content, content + b"more"):
        path.write_bytes(other)
        found = read_or_get_error(path)
        assert isinstance(found, str) or is_identical(found, CONTENT)


def test_irregular_files_are_refused_immediately(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    assert read_or_get_error(tmp_path / "pipe.ckpt").endswith("is not a regular file")
    assert read_or_get_error(tmp_path / "folder.ckpt").endswith("is not a regular file")
    assert read_or_get_error(tmp_path / "none.ckpt").endswith("does not exist")


def test_pickled_code_is_not_run(path: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"state_dict": Evil()}, path)
    assert "not a checkpoint" in read_or_get_error(path)
    assert not (tmp_path / "made").exists()


# Files without checksums


def test_legacy_format_is_refused_with_instructions(tmp_path: Path) -> None:
    """The message has a command that converts the file."""
    path = tmp_path / "it's old.pth"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    line = read_or_get_error(path)
    assert "old format" in line
    command = line.split("python -c ")[1]
    assert os.system(f"true {command}") == 0  # quoted for the shell
    exec(compile(os.popen(f"printf %s {command}").read(), "command", "exec"))
    assert is_identical(read_tensors(path), CONTENT)


def test_legacy_format_requires_digest_in_name(tmp_path: Path) -> None:
    """The old format of torch.save is read only if the file's name has its digest."""
    content = io.BytesIO()
    torch.save(CONTENT, content, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    path = tmp_path / f"net-{digest}.pth"
    path.write_bytes(content.getvalue())
    assert is_identical(read_tensors(path), CONTENT)
    path.write_bytes(content.getvalue()[:-1] + b"x")
    assert f"its SHA-256 does not begin with {digest}" in read_or_get_error(path)


def test_digest_like_name_is_harmless(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "run-20261124.ckpt")
    assert is_identical(read_tensors(tmp_path / "run-20261124.ckpt"), CONTENT)


def test_requested_digest_must_match(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert is_identical(read_tensors(path, digest), CONTENT)
    with pytest.raises(InputError, match="does not begin with 0badc0de"):
        read_tensors(path, "0badc0de")
