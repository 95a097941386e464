"""The journal of a search: an Optuna journal whose lines have checksums, so that damage is detected."""

import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from src.core.errors import InputError
from src.storage.files import append_bytes, open_atomic, read_bytes

CHECKSUM_LINE = re.compile(rb'(?s)(\{.*),"crc32":(\d+)\}')


class Journal(BaseJournalBackend):
    """An Optuna journal in a file, each line with the CRC-32 of its content as one more entry.

    Other Optuna programs ignore that entry. Lines without it, written by them or by an earlier version of this
    program, are accepted. The caller must have locked the search's folder.

    Args:
        path: the file; it need not exist.

    Raises:
        InputError: if a line other than the last is damaged. A damaged last line is cut off, and the search
            determines its content again.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0  # bytes read so far
        self.logs: list[dict[str, Any]] = []
        if path.exists():
            self._cut_damaged_line()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        content = read_bytes(self.path) if self.path.exists() else b""
        for line in content[self.offset :].split(b"\n")[:-1]:  # the rest is a line that another program may be writing
            self.logs.append(self._parse(line, len(self.logs) + 1))
            self.offset += len(line) + 1
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        append_bytes(self.path, b"".join(map(_format_line, logs)))

    def _cut_damaged_line(self) -> None:
        """Cut off an incomplete last line, as a crash during writing may leave."""
        content = read_bytes(self.path)
        whole = content[: content.rfind(b"\n") + 1]
        last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        if last and _parse_line(last[:-1]) is None:
            print(f"{self.path}: the last line was damaged and is removed; its content is determined again", flush=True)
            whole = whole[: -len(last)]
        if whole != content:
            with open_atomic(self.path) as file:
                file.write(whole)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        entry = _parse_line(line)
        if entry is None:
            raise InputError(f"line {number} is damaged")
        return entry


def _format_line(log: dict[str, Any]) -> bytes:
    """Return an entry of the journal as a line with a checksum."""
    text = json.dumps(log, separators=(",", ":")).encode()[:-1]
    return text + b',"crc32":%d}\n' % zlib.crc32(text)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line of the journal; ``None`` if the line is damaged."""
    checked = CHECKSUM_LINE.fullmatch(line)
    if checked and zlib.crc32(checked[1]) != int(checked[2]):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
