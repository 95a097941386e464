"""What a run leaves in its folder beside checkpoints and logs: where it comes from, and its settings."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.core.files import PARTIAL, format_yaml, open_atomic, read_json, write_json, write_text

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "tensorboard", "numpy")


def finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end, test included."""
    return (read_json(folder / "status.json") or {}).get("status") == "finished"


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


def claim(folder: Path, config: DictConfig, exclusive: bool = False) -> dict[str, Any]:
    """Make a folder a job's: write there how Hydra composed its config, and have Hydra write none.

    A folder is a run's exactly if it has ``.hydra/config.yaml``, which is written first; what else lies in ``.hydra``
    is for people to read.

    Args:
        folder: the job's.
        config: the job's, with Hydra's own settings.
        exclusive: refuse a folder that is a run's.

    Returns:
        The job's settings as plain values, references as they are.

    Raises:
        FileExistsError: if ``exclusive`` and the folder is a run's.
        StorageError: if the disk cannot be written.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(folder.absolute())
        told: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        config.hydra.output_subdir = None
    hydra = told.pop("hydra")
    with open_atomic(folder / ".hydra" / "config.yaml", exclusive) as file:
        file.write(format_yaml(told).encode())
    write_text(folder / ".hydra" / "hydra.yaml", format_yaml({"hydra": hydra}))
    write_text(folder / ".hydra" / "overrides.yaml", format_yaml(hydra["overrides"]["task"]))
    return told


def find_foreign(folder: Path) -> Path | None:
    """Return something in a folder that no start of a run that was killed at once has left; ``None`` if there is none.

    Such a start leaves folders, temporary files, locks and empty logs.
    """
    for path in folder.rglob("*"):
        ours = path.name == ".lock" or path.name.endswith(PARTIAL) or folder / ".hydra" in (path, path.parent)
        empty = path.suffix == ".log" and path.is_file() and not path.stat().st_size
        if not (ours or empty):
            return path
    return None


def keep_settings(cfg: DictConfig, folder: Path) -> None:
    """Keep a run's settings as they are now, so that its next start has them too."""
    config = folder / ".hydra" / "config.yaml"
    kept = OmegaConf.merge(cfg, {"resume": None, "trust": None})
    write_text(config, OmegaConf.to_yaml(kept))


def spelled(metrics: dict[str, float]) -> str:
    """Metrics in one line: accuracies in per cent, the rest with four digits."""
    return ", ".join(
        f"{name} {value:.2%}" if "/acc" in name else f"{name} {value:.4g}" for name, value in metrics.items()
    )
