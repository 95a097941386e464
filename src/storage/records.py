"""Read and write a run's records: its metrics, provenance and settings."""

import logging
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.storage import schema
from src.storage.files import PARTIAL_SUFFIX, format_yaml, open_atomic, remove_file, write_json, write_text
from src.storage.schema import DamagedError
from src.storage.status import DAMAGED, METRICS_FILE, read_or_note, read_status

log = logging.getLogger(__name__)
RECORDED_PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "tensorboard", "numpy")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of a run's ``metrics.json``; an empty dict before the first epoch ends or if it is damaged."""
    return read_or_note(folder / METRICS_FILE, schema.check_metrics, {}) or {}


def find_damage(folder: Path) -> str | None:
    """Return a message about damaged results of a run, which resuming it writes again; ``None`` if all are intact."""
    status = read_status(folder)
    if status["status"] == DAMAGED:
        return str(status["message"])
    epochs = read_metrics(folder).get("epochs") if status["status"] == "finished" else None
    try:
        schema.read_history(folder / "history.csv", epochs)
    except DamagedError as error:
        return str(error)
    return None


def drop_damaged_metrics(folder: Path) -> None:
    """Remove ``metrics.json`` if it is damaged; the resumed run writes it again."""
    faults: dict[str, str] = {}
    read_or_note(folder / METRICS_FILE, schema.check_metrics, faults)
    if faults:
        with suppress(OSError):  # for example a folder of that name; writing the file will raise the error
            remove_file(folder / METRICS_FILE)


def is_finished(folder: Path) -> bool:
    """Return True if the run in a folder has finished, including its test, and its results are intact."""
    return read_status(folder)["status"] == "finished" and find_damage(folder) is None


def run_git(*args: str) -> str | None:
    """Return the output of a git command in the project's checkout; ``None`` if it fails, as outside a checkout."""
    try:
        process = subprocess.run(
            ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()


def collect_provenance(device: str) -> dict[str, Any]:
    """Return the origin of a result: command, start time, commit, versions, device and machine."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **find_code_versions(),
        "device": device,
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
    }


@cache  # the code of a process is imported once, whatever is committed or installed later
def find_code_versions() -> dict[str, Any]:
    """Return the commit of the code, and the versions of Python and of packages."""
    from importlib.metadata import version  # slow to import, and not needed for --help

    changes = run_git("status", "--porcelain")
    return {
        "git": {"commit": run_git("rev-parse", "HEAD"), "dirty": bool(changes) if changes is not None else None},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
    }


def write_provenance(folder: Path, device: str, samples: dict[str, int]) -> None:
    """Write ``provenance.json``; for a resumed run append this start to the earlier ones, unless it is damaged.

    Args:
        folder: the run's folder.
        device: what it is trained on.
        samples: the number of samples for "train", "val" and "test", as far as it is known.
    """
    path = folder / "provenance.json"
    now, faults = {**collect_provenance(device), "samples": samples}, dict[str, str]()
    if before := read_or_note(path, schema.PROVENANCE, faults):
        before.setdefault("resumed", []).append(now)
        now = before
    for fault in faults.values():
        log.warning("%s: it is written again, with this start only", fault)
    write_json(path, now)


def reserve_folder(folder: Path, config: DictConfig, exclusive: bool = False) -> dict[str, Any]:
    """Reserve a folder for a job by writing the composed config there; keep Hydra from writing its own copy.

    A folder is a run's folder exactly if it has ``.hydra/config.yaml``, which is written first. The other files in
    ``.hydra`` are only for people to read.

    Args:
        folder: the job's folder.
        config: the job's config, with Hydra's own settings.
        exclusive: refuse a folder that belongs to a run already.

    Returns:
        The job's settings as plain values, with references unresolved.

    Raises:
        FileExistsError: if ``exclusive`` and the folder belongs to a run already.
        StorageError: if the disk cannot be written.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(folder.absolute())
        settings: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        config.hydra.output_subdir = None
    hydra = settings.pop("hydra")
    write_config(folder, settings, exclusive)
    write_text(folder / ".hydra" / "hydra.yaml", format_yaml({"hydra": hydra}))
    write_text(folder / ".hydra" / "overrides.yaml", format_yaml(hydra["overrides"]["task"]))
    return settings


def write_config(folder: Path, settings: dict[str, Any], exclusive: bool) -> None:
    """Write ``.hydra/config.yaml``, which marks a folder as a run's; see `reserve_folder` for arguments and errors."""
    with open_atomic(folder / ".hydra" / "config.yaml", exclusive) as file:
        file.write(format_yaml(settings).encode())


def find_foreign_file(folder: Path) -> Path | None:
    """Return a file in a folder that a run killed during startup cannot have left there; ``None`` if there is none.

    A run killed during startup leaves folders, temporary files, locks and empty logs, but no links.
    """
    for path in [folder] if folder.is_symlink() else folder.rglob("*"):
        ours = path.name == ".lock" or path.name.endswith(PARTIAL_SUFFIX) or folder / ".hydra" in (path, path.parent)
        empty = path.suffix == ".log" and path.is_file() and not path.stat().st_size
        if path.is_symlink() or not (ours or empty):
            return path
    return None


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Save a run's current settings, so that its next start uses them, too."""
    config = folder / ".hydra" / "config.yaml"
    settings = OmegaConf.merge(cfg, {"resume": None, "trust": None})
    write_text(config, OmegaConf.to_yaml(settings))
