"""Durable files: whole or refused, whatever happens while they are written."""

import json
import os
from pathlib import Path

import pytest

from src.core.errors import InputError
from src.storage import files
from src.storage.files import (
    Operation,
    StorageError,
    append_bytes,
    open_atomic,
    read_bytes,
    read_json,
    remove_partial_files,
    sync_together,
    write_json,
    write_text,
)


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[Operation]:
    """The operations that the test makes on the disk."""
    seen: list[Operation] = []
    monkeypatch.setattr(files, "OBSERVERS", [seen.append])
    return seen


def test_json_stores_non_finite_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": float("nan"), "all": [1.5, float("inf")], "n": 3})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "all": [1.5, None], "n": 3}


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match=r"a.txt cannot be written \(No space left on device\)"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_open_reader_keeps_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_unserialisable_content_leaves_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1} and len(list(tmp_path.iterdir())) == 1


def test_file_is_synced_before_replacement(tmp_path: Path, operations: list[Operation]) -> None:
    """The folder is synced afterwards."""
    write_text(tmp_path / "new" / "a.txt", "text")
    kinds = ["mkdir", "sync_folder", "write", "sync", "replace", "sync_folder"]
    assert [each.kind for each in operations] == kinds
    assert operations[2].content == b"text" and operations[4].path == tmp_path / "new" / "a.txt"


def test_files_written_together_are_synced_first(tmp_path: Path, operations: list[Operation]) -> None:
    """All are synced before the first one replaces an old file."""
    write_text(tmp_path / "a", "old")
    operations.clear()
    with sync_together():
        write_text(tmp_path / "a", "new")
        with sync_together():
            write_text(tmp_path / "b", "new")
        assert (tmp_path / "a").read_text() == "old" and not (tmp_path / "b").exists()
    kinds = [each.kind for each in operations]
    assert kinds == ["write", "write", "sync_all", "replace", "replace", "sync_all"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"


def test_temporary_files_are_unique(tmp_path: Path, operations: list[Operation]) -> None:
    """They do not follow links."""
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (tmp_path / ".a.txt.partial").symlink_to(other)
    (tmp_path / "a.txt").symlink_to(other)
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    names = {each.path.name for each in operations if each.kind == "write"}
    assert len(names) == 2 and other.read_text() == "mine"
    assert not (tmp_path / "a.txt").is_symlink() and (tmp_path / "a.txt").read_text() == "two"


def test_exclusive_write_keeps_existing_file(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a", exclusive=True) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), open_atomic(tmp_path / "a", exclusive=True) as file:
        file.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


def test_append_does_not_follow_links(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    append_bytes(tmp_path / "journal", b"1\n")
    append_bytes(tmp_path / "journal", b"2\n")
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(StorageError, match="link cannot be written"):
        append_bytes(tmp_path / "link", b"3\n")
    assert (tmp_path / "journal").read_bytes() == b"1\n2\n" and other.read_text() == "mine"


def test_irregular_and_oversized_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="is not a regular file"):
            read_bytes(path)
    with pytest.raises(InputError, match="it has 5 bytes, and such a file has at most 4"):
        read_bytes(tmp_path / "large", max_bytes=4)
    assert read_bytes(tmp_path / "large", max_bytes=5) == b"12345"


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000, b""], ids=lambda each: repr(each[:9]))
def test_damaged_json_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None


def test_leftover_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (".a.0f.partial", "sub/.b.1e.partial", "partial", "c.partial"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c.partial", "partial", "sub"]
