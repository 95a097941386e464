"""What the next start of a command finds in its folder, and what of that is wrong."""

import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning import Callback
from omegaconf import DictConfig, OmegaConf

from src.callbacks.early_stopping import EarlyStopping
from src.core.errors import InputError
from src.storage.configs import CONFIG_FILE, open_config
from src.storage.files import PARTIAL_SUFFIX, remove_partial_files
from src.storage.records import find_foreign_file
from src.sweeps.launchers.sweep import select_pending_jobs
from src.sweeps.launchers.vectorized import find_damaged_states
from src.sweeps.search.space import SearchSpace
from src.sweeps.search.study import STATES, Study
from src.sweeps.store.folders import is_sweep_folder
from src.sweeps.store.jobs import Job, JobRegistry
from src.sweeps.store.leaderboard import write_results
from src.training.checkpointing.resume import plan_resume, read_resume_checkpoint
from tests.chaos.crash import Crash, State
from tests.chaos.stage import Planner

_EPOCHS: dict[bytes, int] = {}  # by a checkpoint's content
_CONFIGS: dict[tuple[Path, str | None, bytes], DictConfig] = {}  # by folder, what is resumed, the content


def plan_run(folder: Path) -> Planner:
    """Return a planner of ``resume=FOLDER``, and of the same name where nothing has begun."""
    known: dict[Any, str | None] = {}

    def plan(crash: Crash) -> str | None:
        settings = folder / ".hydra" / "config.yaml"
        if settings in crash.state:
            remove_partial_files(folder)
            return check_once(known, folder, crash)
        if settings in crash.certain:
            return "the run's config is lost"
        foreign = find_foreign_file(folder) if folder.is_dir() else None
        return f"no command takes the folder: {foreign.name} lies in it" if foreign else None

    return plan


def plan_sweep(folder: Path) -> Planner:
    """Return a planner of the command that started the sweep in a folder."""
    known: dict[Any, str | None] = {}

    def plan(crash: Crash) -> str | None:
        if folder.is_dir() and not is_sweep_folder(folder):
            return "no command takes the folder"
        if not folder.is_dir():
            return None
        remove_partial_files(folder)
        jobs = list(JobRegistry(folder).by_identity.values())
        expected = {path.parent.name for path in crash.certain if path.name == "job.json"}
        if lost := expected - {job.folder.name for job in jobs}:
            return f"the notes of {len(lost)} jobs are lost"
        left = {job.folder for job in select_pending_jobs(jobs, None)}
        if any(is_finished(job.folder, crash.certain) and job.folder in left for job in jobs):
            return "a finished job would be run again"
        if jobs:
            write_results(folder)
        faults = [check_job(job, known, crash) for job in jobs if job.folder in left]
        return next((fault for fault in faults if fault), None)

    return plan


def plan_search(folder: Path) -> Planner:
    """Return a planner of the search in a folder: its trials, and its jobs as those of a sweep."""
    plan_jobs = plan_sweep(folder)
    journal = folder / "study.journal"

    def count_told(content: bytes) -> int:
        whole = content.split(b"\n")[:-1]
        return sum(b'"op_code":6' in line for line in whole)  # states and values of trials that are told

    def plan(crash: Crash) -> str | None:
        study = Study(journal, SearchSpace([]), "random", 0)
        told = sum(STATES[trial.state] == "complete" for trial in study.trials)
        certain = crash.certain.get(journal) or b""
        if told < count_told(certain):
            return f"{count_told(certain) - told} results of trials are lost"
        return plan_jobs(crash)

    return plan


def check_job(job: Job, known: dict[Any, str | None], crash: Crash) -> str | None:
    """Return what is wrong with how a sweep's job would go on."""
    if (state := job.stack) is not None:
        return None if _is_whole(state) else "a stack's state is damaged"
    if job.folder / ".hydra" / "config.yaml" not in crash.state:
        return "a job's checkpoint has no config" if count_epochs(job.folder, crash.certain) else None
    return check_once(known, job.folder, crash)


def check_once(known: dict[Any, str | None], folder: Path, crash: Crash) -> str | None:
    """Check a run's folder, or recall what was wrong with the same content, and as much for sure."""
    within = f"{folder}{os.sep}"
    state = {
        str(path): content for path, content in crash.state.items() if path.suffix != PARTIAL_SUFFIX
    }  # they are removed
    own = frozenset((path, content) for path, content in state.items() if path.startswith(within))
    key = own, count_epochs(folder, crash.certain), is_finished(folder, crash.certain)
    if key not in known:
        known[key] = _check_run(folder, crash)
    return known[key]


def _check_run(folder: Path, crash: Crash) -> str | None:
    """Return what is wrong with how a run would go on from its folder."""
    cfg = _open_config(folder, resume=str(folder))
    try:
        with mock.patch(
            "src.training.checkpointing.resume.read_config", _open_config
        ):  # for each start by itself it is quick enough
            past = read_resume_checkpoint(cfg, folder)
    except InputError as error:
        return f"refused: {error}"
    least, epochs = count_epochs(folder, crash.certain), past.content["epoch"] + 1 if past else 0
    if epochs < least:
        return f"{least - epochs} epochs are lost"
    try:
        planned = plan_resume(cfg, folder, past, _make_stoppers(cfg))
    except InputError as error:
        return None if "is finished" in str(error) and is_finished(folder, crash.state) else f"refused: {error}"
    if is_finished(folder, crash.certain):
        return "a finished run would be run again"
    decided = past is not None and past.content["callbacks"]["RunCheckpoint"]["stops"]
    over = decided or epochs == cfg.trainer.max_epochs or (past and past.step == cfg.trainer.max_steps)
    return "a run that is over would train on" if over and not planned.is_trained else None


def _open_config(folder: Path, resume: str | None = None) -> DictConfig:
    """Open a run's config, which nobody changes; the same content is parsed once."""
    content = (folder / CONFIG_FILE).read_bytes()
    key = folder, resume, content
    if key not in _CONFIGS:
        _CONFIGS[key] = open_config(folder, ())
        _CONFIGS[key].resume = resume
    return _CONFIGS[key]


def _make_stoppers(cfg: DictConfig) -> list[Callback]:
    patience = OmegaConf.select(cfg, "callbacks.early_stopping.patience")
    return [] if patience is None else [_stopper(cfg)]


def _stopper(cfg: DictConfig) -> EarlyStopping:
    settings = cfg.callbacks.early_stopping
    return EarlyStopping(monitor=settings.monitor, mode=settings.mode, patience=settings.patience)


def count_epochs(folder: Path, state: State) -> int:
    """Return how many epochs the checkpoint has that a state has."""
    content = state.get(folder / "checkpoints" / "last.ckpt")
    if not content:
        return 0
    if content not in _EPOCHS:
        _EPOCHS[content] = torch.load(io.BytesIO(content), weights_only=True)["epoch"] + 1
    return _EPOCHS[content]


def is_finished(folder: Path, state: State) -> bool:
    """Return whether a state has it that a run is finished."""
    return b'"finished"' in (state.get(folder / "status.json") or b"")


def _is_whole(path: Path) -> bool:
    return find_damaged_states([path]) == [None]
