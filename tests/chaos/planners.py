"""What the next start of a command finds in its folder, and what of that is wrong."""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig

from src.cli import resumed_arguments
from src.configs import read_config
from src.core.files import remove_partials
from src.errors import InputError
from src.records import find_foreign, finished
from src.resume import make_plan, read_past
from tests.chaos.crash import Crash, State
from tests.chaos.states import Planner


def remember(read: Callable[[Path], DictConfig]) -> Callable[[Path, Crash], DictConfig]:
    """Return a reader of a folder's config that reads the same bytes once: YAML takes ten milliseconds."""
    known: dict[bytes, DictConfig] = {}

    def read_once(folder: Path, crash: Crash) -> DictConfig:
        content = crash.state[folder / ".hydra" / "config.yaml"] or b""
        if content not in known:
            known[content] = read(folder)
        return known[content].copy()

    return read_once


def plan_run(folder: Path) -> Planner:
    """Return a planner of ``resume=FOLDER``, or of the same name where nothing has begun."""
    read = remember(read_config)

    def plan(crash: Crash) -> str | None:
        settings = folder / ".hydra" / "config.yaml"
        if settings not in crash.state:
            if settings in crash.certain:
                return "the run's config is lost"
            foreign = find_foreign(folder) if folder.is_dir() else None
            return f"no command takes the folder: {foreign.name} lies in it" if foreign else None
        resumed_arguments([f"resume={folder}"])
        remove_partials(folder)
        return check_job(folder, read(folder, crash), crash)

    return plan


def check_job(folder: Path, cfg: DictConfig, crash: Crash) -> str | None:
    """Return what is wrong with how a run, or a sweep's job, would go on in its folder."""
    cfg.resume = str(folder)
    past = read_past(cfg, folder)
    least, epochs = count_epochs(folder, crash.certain), past.content["epoch"] + 1 if past else 0
    if epochs < least:
        return f"{least - epochs} epochs are lost"
    was_finished = is_finished(folder, crash.certain)
    stops = past.content["callbacks"].get("EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}") if past else None
    callbacks = [EarlyStopping("val/loss", patience=cfg.callbacks.early_stopping.patience)] if stops else []
    try:
        planned = make_plan(cfg, folder, past, callbacks)
    except InputError as error:
        return None if "is finished" in str(error) and finished(folder) else f"refused: {error}"
    if was_finished:
        return "a finished run would be run again"
    decided = past is not None and past.content["callbacks"]["RunCheckpoint"]["stops"]
    if (decided or epochs == cfg.trainer.max_epochs) and not planned.over:
        return "a run that is over would train on"
    return None


def count_epochs(folder: Path, state: State) -> int:
    """Return how many epochs the checkpoint has that a state has for sure."""
    content = state.get(folder / "checkpoints" / "last.ckpt")
    if not content:
        return 0
    if content not in _EPOCHS:
        import io

        _EPOCHS[content] = torch.load(io.BytesIO(content), weights_only=True)["epoch"] + 1
    return _EPOCHS[content]


_EPOCHS: dict[bytes, int] = {}


def is_finished(folder: Path, state: State) -> bool:
    """Return whether a state has it for sure that a run is finished."""
    return b'"finished"' in (state.get(folder / "status.json") or b"")
