"""What a run leaves in its folder beside checkpoints and logs: where it comes from, and its settings."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.core.files import read_json, write_json, write_text

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
