"""Resume a run: check every precondition before anything in its folder is changed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from lightning import Callback, LightningModule
from omegaconf import DictConfig

from src.core.checks import format_value
from src.core.devices import is_main_process
from src.core.errors import InputError
from src.storage.configs import NON_IDENTIFYING, find_changes, read_config
from src.storage.files import remove_file, remove_partial_files, require_folders
from src.storage.records import is_finished
from src.storage.tensors import open_verified
from src.storage.weights import check_fit, read_checkpoint, write_checkpoint
from src.training.checkpointing.checkpoint import WHOLE_EPOCH
from src.training.checkpointing.limits import (
    MAX_EPOCHS,
    MAX_STEPS,
    RunProgress,
    explain_limits,
    find_reached_limits,
    get_trainer_limit,
    has_step_schedule,
)

# Settings that may change on resume, because they do not affect the steps already taken. All others must stay the same:
# the optimiser's state comes from the checkpoint, so a new learning rate would be saved in the config but not used.
CHANGEABLE_SETTINGS = (
    *NON_IDENTIFYING,
    "callbacks.",
    "logger.",
    "test",
    "trainer.log_every_n_steps",
    "trainer.max_",
    "trainer.profiler",
)


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Lock a run's folder for this process and its child processes.

    Raises:
        InputError: if another process has locked it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    if is_main_process():
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{folder} is being trained by another process") from None
        remove_partial_files(folder)
    try:
        with require_folders(folder):
            yield
    finally:
        lock.release()


# Reading the checkpoint to resume from


class ResumeCheckpoint(NamedTuple):
    """The checkpoint of a run that was started before.

    Attributes:
        path: the checkpoint file.
        content: the content of the file, or of the checkpoint that it replaced.
        changed_settings: the settings whose values differ now: setting → (value before, value now).
    """

    path: Path
    content: dict[str, Any]
    changed_settings: dict[str, tuple[Any, Any]]

    @property
    def cut_short(self) -> bool:
        """True if the checkpoint was written in the middle of an epoch that did not finish."""
        return WHOLE_EPOCH in self.content

    @property
    def step(self) -> int:
        """The number of optimiser steps taken."""
        return int(self.content["global_step"])

    @property
    def seed(self) -> int:
        return int(self.content["callbacks"]["EpochSeed"]["seed"])

    @property
    def progress(self) -> RunProgress:
        stops = self.content["callbacks"]["RunCheckpoint"].get("stops", {})
        return RunProgress(self.content["epoch"] + 1 - self.cut_short, self.step, stops)


def read_resume_checkpoint(cfg: DictConfig, folder: Path) -> ResumeCheckpoint | None:
    """Read the checkpoint that a run resumes from; return ``None`` for a run that starts, or starts over.

    A run that was killed while it wrote its first checkpoints has no ``last.ckpt`` yet; then ``best.ckpt`` is used.

    Raises:
        InputError: if the settings have changed in a way that cannot be resumed, or a needed file is missing, damaged
            or belongs to another run.
    """
    if not cfg.resume:
        return None
    changed = find_changes(read_config(folder), cfg)
    for key, (old, new) in changed.items():
        if not key.startswith(CHANGEABLE_SETTINGS):
            raise InputError(
                f"resume: {key} was {format_value(old)} when the run started and cannot change to "
                f"{format_value(new)}; start a new run "
                f"from its weights: ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
            )
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    if not last.is_file() and is_finished(folder):
        raise InputError(f"{last} is missing: start a new run from best.ckpt next to it, ckpt_path=…")
    path = last if last.is_file() else best
    if not path.is_file():
        return None  # stopped before the end of its first epoch
    content = read_checkpoint(path)
    _check_run_checkpoint(content, path)
    if path == best and not content["optimizer_states"]:
        return None  # a job of a stack that was stopped while it wrote its files
    if content["callbacks"]["RunCheckpoint"]["best_model_score"] is not None:
        if not best.is_file():
            raise InputError(f"{best} is missing: start a new run from last.ckpt next to it, ckpt_path=…")
        with open_verified(best):  # find damage now, not after the training
            pass
    return ResumeCheckpoint(path, content, changed)


def _check_run_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that no run of this project wrote, or that lacks what resuming needs.

    The remaining content is checked when it is restored, see `src.training.checkpointing.restore`.

    Raises:
        InputError: naming the missing or wrong part.
    """
    check_parts(content, path)
    for name, is_right in (("EpochSeed", _is_seed), ("History", _is_history), ("RunCheckpoint", _is_checkpoint_state)):
        if not is_right(content["callbacks"].get(name), content):
            raise _make_part_error(f"callbacks.{name}", path)


def check_parts(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint in which a part that Lightning writes is missing or has a wrong type."""
    kinds = {
        "epoch": int,
        "global_step": int,
        "state_dict": dict,
        "loops": dict,
        "callbacks": dict,
        "optimizer_states": list,
        "lr_schedulers": list,
    }
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind) or (name == "loops" and not _has_integer_counts(content[name])):
            raise _make_part_error(name, path)


def _make_part_error(name: str, path: Path) -> InputError:
    return InputError(
        f"checkpoint {path} cannot be resumed: {name} is missing or wrong; start a new run from its "
        f"weights: ckpt_path={path}"
    )


def _has_integer_counts(loops: Any) -> bool:
    """Return True if all counters in the nested states of Lightning's loops are integers."""
    if not isinstance(loops, dict):
        return True
    if "ready" in loops:
        return all(isinstance(count, int) for count in loops.values())
    return all(map(_has_integer_counts, loops.values()))


def _is_seed(state: Any, content: Mapping[str, Any]) -> bool:
    return isinstance(state, dict) and isinstance(state.get("seed"), int)


def _is_history(state: Any, content: Mapping[str, Any]) -> bool:
    rows = state.get("rows") if isinstance(state, dict) else None
    if not isinstance(rows, list) or len(rows) != content["epoch"] + 1 or not _is_number(state.get("seconds")):
        return False
    return all(isinstance(row, dict) and all(map(_is_number, row.values())) for row in rows)


def _is_checkpoint_state(state: Any, content: Mapping[str, Any]) -> bool:
    if not isinstance(state, dict) or "best_model_score" not in state:
        return False
    stops = state.get("stops", {})
    numbers = [state["best_model_score"], *(stops.values() if isinstance(stops, dict) else ["none"])]
    return all(number is None or _is_number(number) for number in numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def check_model(checkpoint: ResumeCheckpoint, model: LightningModule, seed: int) -> None:
    """Refuse a checkpoint of another model, or of the same model with other hyperparameters or another seed.

    Raises:
        InputError: naming the difference.
    """
    check_fit(model, checkpoint.content["state_dict"], checkpoint.path)
    here, there = dict(model.hparams), checkpoint.content.get("hyper_parameters", {})
    if here and isinstance(there, dict):
        here, there = here | {"seed": seed}, there | {"seed": checkpoint.seed}
        for key in [key for key in here if key in there and repr(here[key]) != repr(there[key])]:
            raise InputError(
                f"checkpoint {checkpoint.path} is another run's: {key} is {format_value(there[key])} there, "
                f"{format_value(here[key])} here"
            )


# Planning what is left to do


class ResumePlan(NamedTuple):
    """A plan for a run.

    Attributes:
        checkpoint: the checkpoint to resume from; ``None``: start from the beginning.
        is_trained: True if training is complete and only the test is left.
    """

    checkpoint: ResumeCheckpoint | None
    is_trained: bool


def plan_resume(
    cfg: DictConfig, folder: Path, checkpoint: ResumeCheckpoint | None, callbacks: Sequence[Callback]
) -> ResumePlan:
    """Decide how a run continues.

    Raises:
        InputError: if nothing is left to do, or the run would not continue exactly as if it had never stopped.
    """
    if checkpoint is None:
        return ResumePlan(None, is_trained=False)
    _check_passed_limits(cfg, folder, checkpoint)
    ends = find_reached_limits(cfg, callbacks, checkpoint.progress)
    if ends:
        if is_finished(folder):
            raise InputError(
                f"{folder} is finished, with {checkpoint.content['epoch'] + 1} epochs: {explain_limits(ends)}"
            )
        return ResumePlan(checkpoint, is_trained=True)
    weights = f"start a new run from its weights: ckpt_path={checkpoint.path}"
    if has_step_schedule(cfg) and {MAX_EPOCHS, MAX_STEPS} & set(checkpoint.changed_settings):
        raise InputError(
            f"resume: the learning rate schedule was made for the run's number of steps; to train longer, {weights}"
        )
    # Training cannot resume within an epoch: go back to the checkpoint that the unfinished epoch's one replaced.
    if checkpoint.cut_short:
        whole = checkpoint.content[WHOLE_EPOCH]
        return ResumePlan(None if whole is None else checkpoint._replace(content=whole), is_trained=False)
    return ResumePlan(checkpoint, is_trained=False)


def _check_passed_limits(cfg: DictConfig, folder: Path, checkpoint: ResumeCheckpoint) -> None:
    """Refuse limits of epochs or steps that a run has already passed."""
    for setting, count, what in (
        (MAX_EPOCHS, checkpoint.content["epoch"] + 1, "epochs"),
        (MAX_STEPS, checkpoint.step, "steps"),
    ):
        if count > get_trainer_limit(cfg, setting):
            raise InputError(
                f"{folder} has {count} {what} already: {setting}={get_trainer_limit(cfg, setting)} is less"
            )


def remove_obsolete_checkpoints(folder: Path, plan: ResumePlan) -> None:
    """Remove the checkpoints from a run's folder that it does not resume from.

    Checkpoints of an unfinished epoch are replaced by the earlier ones stored in them. If the process is killed here,
    the next start completes the work.
    """
    for path in (folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt"):
        if plan.is_trained or not path.is_file():
            continue
        content = {} if plan.checkpoint is None else read_checkpoint(path)  # without a past, both files are removed
        before = content.get(WHOLE_EPOCH)
        if before is not None:
            write_checkpoint(before, path)
        elif plan.checkpoint is None or WHOLE_EPOCH in content:
            remove_file(path)
