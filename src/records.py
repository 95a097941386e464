"""What a run leaves in its folder beside checkpoints and logs: JSON files and tables, whole at every moment."""

import csv
import io
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

MANY: list[None] = []  # not empty while `many_files` are written
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "tensorboard", "numpy")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinities become ``null``."""
    write_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


def finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end, test included."""
    return (read_json(folder / "status.json") or {}).get("status") == "finished"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content; ``None`` if there is none or it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; the columns are all the keys there are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    with whole_or_not(path) as file:
        file.write(text.encode())


class Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    """Writes what `OmegaConf.to_yaml` does, seven times as fast where PyYAML has its C library."""


Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def as_yaml(content: Any) -> str:
    """Plain values as `OmegaConf.to_yaml` writes them."""
    return yaml.dump(content, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


@contextmanager
def whole_or_not(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place in one step, forced to the disk; after an error it leaves no trace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            if not MANY:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def many_files() -> Iterator[None]:
    """Files that are written here are forced to the disk all at once, in the end: to wait for each takes longer."""
    MANY.append(None)
    try:
        yield
    finally:
        MANY.pop()
        if not MANY:
            os.sync()


def finite(content: Any) -> Any:
    """The content with NaN and infinities as ``null``, which is all that JSON can say of them."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def git(*args: str) -> str | None:
    """What a git command says of the project's checkout; ``None`` outside one."""
    try:
        done = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance(device: str) -> dict[str, Any]:
    """Where a result comes from: command, commit, versions, device, time."""
    from importlib.metadata import version  # it takes a while, and --help needs none

    changes = git("status", "--porcelain")
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes) if changes is not None else None},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": device,
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
    }


def write_provenance(folder: Path, device: str) -> None:
    """Write ``provenance.json``; where a run is resumed, add this start to those before it."""
    path = folder / "provenance.json"
    now = provenance(device)
    if before := read_json(path):
        before.setdefault("resumed", []).append(now)
        now = before
    write_json(path, now)


def keep_settings(cfg: DictConfig, folder: Path) -> None:
    """Keep a run's settings as they are now, so that its next start has them too."""
    config = folder / ".hydra" / "config.yaml"
    kept = OmegaConf.merge(cfg, {"resume": None})
    write_text(config, OmegaConf.to_yaml(kept))


def spelled(metrics: dict[str, float]) -> str:
    """Metrics in one line: accuracies in per cent, the rest with four digits."""
    return ", ".join(
        f"{name} {value:.2%}" if "/acc" in name else f"{name} {value:.4g}" for name, value in metrics.items()
    )
