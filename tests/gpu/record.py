"""Keeps what `make gpu` found, part by part: ``docs/bench_gpu.json``."""

import hashlib
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.storage.files import read_json, write_json
from tests.bench.measuring import ROOT, Table

FILE = ROOT / "docs" / "bench_gpu.json"
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core")
CODE = ("src", "conf", "tests/gpu", "tests/bench")
Entry = dict[str, Any]


class Record:
    """The parts that were measured, each with where that was.

    Args:
        path: the file; what it has of other parts stays.
        place: what tells this device and this code from others, see `describe_place`.
    """

    def __init__(self, path: Path, place: Mapping[str, Any]) -> None:
        self.path, self.place = path, dict(place)

    def has(self, part: str) -> bool:
        """Return whether a part was measured to its end on this very device and code."""
        entry = (read_json(self.path) or {}).get(part, {})
        return bool(entry.get("complete")) and all(entry.get(key) == self.place[key] for key in ("device", "code"))

    def keep(self, part: str, content: Mapping[str, Any], seconds: float, complete: bool) -> None:
        """Put a part in the place of its last measurement; the file is written whole or not at all."""
        found = read_json(self.path) or {}
        found[part] = {**self.place, "seconds": round(seconds, 1), "complete": complete, **content}
        write_json(self.path, dict(sorted(found.items())))


def describe_table(table: Table) -> Entry:
    """Return a table as it is kept: of each row n, median, min, max, its ratio and all values."""
    rows = {}
    for name, found in table.values.items():
        values = [float(f"{value:.5g}") for value in found]
        numbers = {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}
        ratio = {"ratio": round(table.ratio(name), 4)} if table.against else {}
        rows[name] = {**numbers, **ratio, "values": values}
    about = {"title": table.title, "unit": table.unit, "against": table.against, "goal": table.goal}
    return {**about, "notes": list(table.notes), "rows": rows}


def describe_place(device: str) -> Entry:
    """Return what is measured on, and what is measured: device, versions, machine, commit, digest of the code."""
    import torch

    cuda = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "cuda": torch.version.cuda if cuda else None,
        "dry": not cuda,
        "versions": {package: version(package) for package in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "commit": find_commit(),
        "code": digest_code(ROOT),
    }


def find_commit() -> str | None:
    """Return the commit that is checked out; ``None`` where there is no repository."""
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def digest_code(root: Path) -> str:
    """Return a digest of the files that decide what is measured, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(path for part in CODE for path in (root / part).rglob("*") if path.suffix in (".py", ".yaml")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
