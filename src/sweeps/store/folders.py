"""The folder of a sweep: reserved before the sweep starts, or that of an earlier start, which is resumed."""

from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig

from src.cli.folders import ReserveRunFolder, exit_on_callback_error, find_naming_setting, refuse_typed_settings
from src.cli.names import get_swept_keys
from src.cli.presets import check_choices, find_presets
from src.cli.undo import find_missing, record_created
from src.core.checks import BOOLEAN, describe_invalid
from src.core.disk import to_storage_error
from src.core.errors import InputError
from src.core.extras import check_loggers
from src.core.places import check_job_folders, check_locations, check_sweep_folder
from src.storage.strays import refuse_strays
from src.sweeps.store.jobs import record_running_job

RESUMING_LAUNCHERS = ("hydra_plugins.thunderhead.",)  # these can resume an existing sweep
PREVIEWING = {"launcher": "local, vectorized, ray or slurm", "sweeper": "basic, halving or optuna"}


class ReserveFolder(ReserveRunFolder):
    """Hydra callback that makes the folder of a new run or sweep and refuses one that belongs to another."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_callback_error():
            self.reserve_sweep(config)

    def reserve_sweep(self, config: DictConfig) -> None:
        """Check a sweep's settings and paths, and make its folder; an existing sweep is resumed."""
        if "sweep" in get_swept_keys() or [group for group, _ in find_presets(config.hydra)].count("sweep") > 1:
            raise InputError("sweep=… is one preset: give it one value")
        for name, what in (("name", "names the sweep"), ("preview", "is about the whole sweep")):
            if name in get_swept_keys(config.hydra.sweeper.get("params")):
                raise InputError(f"{name}=… {what}: give it one value")
        check_sweep_folder(config, get_swept_keys(config.hydra.sweeper.get("params")))
        refuse_typed_settings(config, ("hydra.run.",), "is for a run: a sweep's folder is name=…, or hydra.sweep.dir=…")
        check_locations(config)
        if config.hydra.launcher._target_.startswith(RESUMING_LAUNCHERS):
            check_job_folders(config)
        check_choices(config.hydra)
        check_loggers(config)
        folder, setting = Path(config.hydra.sweep.dir), find_naming_setting(config, "hydra.sweep.dir")
        refuse_strays(folder)  # before Hydra writes its multirun.yaml there
        resumes = is_sweep_folder(folder) and config.hydra.launcher._target_.startswith(RESUMING_LAUNCHERS)
        if config.get("preview"):
            _check_preview(config)
            if folder.exists() and not resumes:
                raise _make_taken_error(folder, setting)
        elif not resumes:
            _make_sweep_folder(folder, setting)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            record_running_job(config)


def _check_preview(config: DictConfig) -> None:
    """Refuse ``preview=`` with another value than true, and with a launcher or a sweeper that cannot preview.

    Raises:
        InputError: naming the setting, and what is possible.
    """
    if not BOOLEAN.allows(config.preview):
        raise InputError(describe_invalid("preview", config.preview, BOOLEAN))
    for part, choices in PREVIEWING.items():
        if not config.hydra[part]._target_.startswith(RESUMING_LAUNCHERS):
            raise InputError(f"preview=true needs hydra/{part}={choices}")


def _make_sweep_folder(folder: Path, setting: str) -> None:
    """Make a sweep's folder, which must not exist yet.

    Raises:
        InputError: if it exists or cannot be made.
    """
    missing = find_missing(folder)
    try:
        folder.mkdir(parents=True)
        record_created(folder, missing)
    except FileExistsError:
        raise _make_taken_error(folder, setting) from None
    except OSError as error:
        fault = to_storage_error(folder, error, "created")
        how = f"choose another {'paths.outputs' if setting == 'name' else setting}=…"
        raise InputError(f"{fault}: {fault.remedy}, or {how}") from error


def _make_taken_error(folder: Path, setting: str) -> InputError:
    return InputError(f"{folder} already exists: choose another {setting}=…")


def is_sweep_folder(folder: Path) -> bool:
    """Return True if a folder is a sweep's, even if the sweep was stopped when only its lock existed."""
    if (folder / "multirun.yaml").is_file() or any(folder.glob("*/job.json")):
        return True
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())
