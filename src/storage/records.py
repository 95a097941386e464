"""What a run leaves in its folder beside checkpoints and logs: where it comes from, and its settings."""

import logging
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.storage import schema
from src.storage.files import PARTIAL, format_yaml, open_atomic, remove, write_json, write_text
from src.storage.schema import DamagedError

log = logging.getLogger(__name__)
DAMAGED = "damaged"  # the status of a run whose files do not tell how far it came, or what it came to
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "tensorboard", "numpy")


def read_status(folder: Path) -> dict[str, Any]:
    """Return how far the run in a folder came: ``status``, ``reason``, ``message``.

    Where ``status.json`` or ``metrics.json`` is damaged the status is "damaged", the reason the names of the files
    and the message what is wrong with each.
    """
    faults: dict[str, str] = {}
    told = _read(folder / "status.json", schema.STATUS, faults)
    metrics = _read(folder / "metrics.json", schema.check_metrics, faults)
    if not faults and told is None and metrics is not None:
        faults["status.json"] = f"{folder / 'status.json'} is missing, and metrics.json is there"
    if not faults and metrics is None and told is not None and told["status"] == "finished":
        faults["metrics.json"] = f"{folder / 'metrics.json'} is missing, and the run has finished"
    if faults:
        return {"status": DAMAGED, "reason": ", ".join(faults), "message": "; ".join(faults.values())}
    told = told or {"status": "waiting"}
    return {"status": told["status"], "reason": told.get("reason"), "message": told.get("message")}


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return what a run's ``metrics.json`` tells; nothing before its first epoch's end, or where it is damaged."""
    return _read(folder / "metrics.json", schema.check_metrics, {}) or {}


def _read(path: Path, check: schema.Check, faults: dict[str, str]) -> dict[str, Any] | None:
    """Return what a file holds; ``None`` if it is not there or damaged, of which the faults by name tell the latter."""
    try:
        return schema.read(path, check)
    except DamagedError as error:
        faults[path.name] = str(error)
        return None


def find_damage(folder: Path) -> str | None:
    """Return what is damaged of a run's results, which it writes anew when it goes on; ``None`` if nothing is."""
    status = read_status(folder)
    if status["status"] == DAMAGED:
        return str(status["message"])
    epochs = read_metrics(folder).get("epochs") if status["status"] == "finished" else None
    try:
        schema.read_history(folder / "history.csv", epochs)
    except DamagedError as error:
        return str(error)
    return None


def drop_damaged(folder: Path) -> None:
    """Remove a damaged ``metrics.json``: the run that goes on writes it anew."""
    faults: dict[str, str] = {}
    _read(folder / "metrics.json", schema.check_metrics, faults)
    if faults:
        with suppress(OSError):  # a folder of that name, say; that it cannot be written will be told
            remove(folder / "metrics.json")


def finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end, test included, and its results are whole."""
    return read_status(folder)["status"] == "finished" and find_damage(folder) is None


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
    """Write ``provenance.json``; where a run is resumed, add this start to those before it, unless it is damaged."""
    path = folder / "provenance.json"
    now, faults = provenance(device), dict[str, str]()
    if before := _read(path, schema.PROVENANCE, faults):
        before.setdefault("resumed", []).append(now)
        now = before
    for fault in faults.values():
        log.warning("%s: it is written anew, with this start alone", fault)
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
    write_settings(folder, told, exclusive)
    write_text(folder / ".hydra" / "hydra.yaml", format_yaml({"hydra": hydra}))
    write_text(folder / ".hydra" / "overrides.yaml", format_yaml(hydra["overrides"]["task"]))
    return told


def write_settings(folder: Path, told: dict[str, Any], exclusive: bool) -> None:
    """Write ``.hydra/config.yaml``, which makes a folder a run's; the arguments and errors are those of `claim`."""
    with open_atomic(folder / ".hydra" / "config.yaml", exclusive) as file:
        file.write(format_yaml(told).encode())


def find_foreign(folder: Path) -> Path | None:
    """Return something in a folder that no start of a run that was killed at once has left; ``None`` if there is none.

    Such a start leaves folders, temporary files, locks and empty logs, and no links.
    """
    for path in [folder] if folder.is_symlink() else folder.rglob("*"):
        ours = path.name == ".lock" or path.name.endswith(PARTIAL) or folder / ".hydra" in (path, path.parent)
        empty = path.suffix == ".log" and path.is_file() and not path.stat().st_size
        if path.is_symlink() or not (ours or empty):
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
