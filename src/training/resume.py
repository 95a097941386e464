"""Going on with a run: all that must hold is looked at before anything in its folder is touched."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from lightning import Callback, LightningModule
from omegaconf import DictConfig

from src.core.checks import show
from src.core.devices import is_main_process
from src.core.errors import InputError
from src.storage.configs import APART, changes, read_config
from src.storage.files import pin_folders, remove, remove_partials
from src.storage.records import finished
from src.storage.tensors import open_verified
from src.training.checkpoints import WHOLE_EPOCH, check_fit, read_checkpoint, write_checkpoint
from src.training.ends import EPOCHS, STEPS, Reached, explain, find_ends, is_planned, limit_of

# What does not alter the steps already taken. All else a resumed run keeps: its optimiser's state
# comes from the checkpoint, so another learning rate would be written down and not used.
MAY_CHANGE = (*APART, "callbacks.", "logger.", "test", "trainer.log_every_n_steps", "trainer.max_", "trainer.profiler")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process and those it starts.

    Raises:
        InputError: if another process holds it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    if is_main_process():
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{folder} is being trained by another process") from None
        remove_partials(folder)
    try:
        with pin_folders(folder):
            yield
    finally:
        lock.release()


# What there is to go on from


class Past(NamedTuple):
    """The checkpoint of a run that was begun before.

    Attributes:
        path: the file.
        content: of the file, or of the one that it took the place of.
        changed: the settings that are given another value now: the value before and now.
    """

    path: Path
    content: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]

    @property
    def cut_short(self) -> bool:
        """Whether it is of an epoch that did not come to its end."""
        return WHOLE_EPOCH in self.content

    @property
    def step(self) -> int:
        """How many optimiser steps have been taken."""
        return int(self.content["global_step"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.content["callbacks"]["EpochSeed"]["seed"])

    @property
    def reached(self) -> Reached:
        stops = self.content["callbacks"]["RunCheckpoint"].get("stops", {})
        return Reached(self.content["epoch"] + 1 - self.cut_short, self.step, stops)


def read_past(cfg: DictConfig, folder: Path) -> Past | None:
    """Read what a resumed run goes on from; ``None`` for a run that starts, or starts over.

    A run that was killed as it wrote its first checkpoints has no ``last.ckpt`` yet; its ``best.ckpt`` is as good.

    Raises:
        InputError: if it cannot go on as it began, or what it needs is missing, damaged or another run's.
    """
    if not cfg.resume:
        return None
    changed = changes(read_config(folder), cfg)
    for key, (old, new) in changed.items():
        if not key.startswith(MAY_CHANGE):
            raise InputError(
                f"resume: {key} was {show(old)} when the run began and cannot become {show(new)}; start a new run "
                f"from its weights: ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
            )
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    if not last.is_file() and finished(folder):
        raise InputError(f"{last} is missing: start a new run from best.ckpt beside it, ckpt_path=…")
    path = last if last.is_file() else best
    if not path.is_file():
        return None  # stopped before its first epoch ended
    content = read_checkpoint(path)
    check_content(content, path)
    if path == best and not content["optimizer_states"]:
        return None  # of a job of a stack that was stopped as it wrote its files
    if content["callbacks"]["RunCheckpoint"]["best_model_score"] is not None:
        if not best.is_file():
            raise InputError(f"{best} is missing: start a new run from last.ckpt beside it, ckpt_path=…")
        with open_verified(best):  # now, not after the training
            pass
    return Past(path, content, changed)


def check_content(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that is none of a run here, or lacks what going on takes.

    What else the parts hold, those who take them over look at, see `src.training.restoring`.
    """
    check_parts(content, path)
    for name, is_right in (("EpochSeed", _is_seed), ("History", _is_history), ("RunCheckpoint", _is_choice)):
        if not is_right(content["callbacks"].get(name), content):
            raise _wrong_part(f"callbacks.{name}", path)


def check_parts(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint without the parts that Lightning gives one, or with other things in their places."""
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
        if not isinstance(content.get(name), kind) or (name == "loops" and not _is_count(content[name])):
            raise _wrong_part(name, path)


def _wrong_part(name: str, path: Path) -> InputError:
    return InputError(
        f"checkpoint {path} is none that a run goes on from: {name} is missing or wrong; start a new run from its "
        f"weights: ckpt_path={path}"
    )


def _is_count(loops: Any) -> bool:
    """Return whether Lightning's loops, one within the other, count in numbers."""
    if not isinstance(loops, dict):
        return True
    if "ready" in loops:
        return all(isinstance(count, int) for count in loops.values())
    return all(map(_is_count, loops.values()))


def _is_seed(state: Any, content: Mapping[str, Any]) -> bool:
    return isinstance(state, dict) and isinstance(state.get("seed"), int)


def _is_history(state: Any, content: Mapping[str, Any]) -> bool:
    rows = state.get("rows") if isinstance(state, dict) else None
    if not isinstance(rows, list) or len(rows) != content["epoch"] + 1 or not _is_number(state.get("seconds")):
        return False
    return all(isinstance(row, dict) and all(map(_is_number, row.values())) for row in rows)


def _is_choice(state: Any, content: Mapping[str, Any]) -> bool:
    if not isinstance(state, dict) or "best_model_score" not in state:
        return False
    stops = state.get("stops", {})
    numbers = [state["best_model_score"], *(stops.values() if isinstance(stops, dict) else ["none"])]
    return all(number is None or _is_number(number) for number in numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def check_model(past: Past, model: LightningModule, seed: int) -> None:
    """Refuse a checkpoint of another model, or of the same one that learns in another way or from another seed.

    Raises:
        InputError: naming what differs.
    """
    check_fit(model, past.content["state_dict"], past.path)
    here, there = dict(model.hparams), past.content.get("hyper_parameters", {})
    if here and isinstance(there, dict):
        here, there = here | {"seed": seed}, there | {"seed": past.seed}
        for key in [key for key in here if key in there and repr(here[key]) != repr(there[key])]:
            raise InputError(
                f"checkpoint {past.path} is another run's: {key} is {show(there[key])} there, {show(here[key])} here"
            )


# What is left to do


class Plan(NamedTuple):
    """What a run does: it goes on from ``past`` (``None``: it starts); ``over``: all is done but the test."""

    past: Past | None
    over: bool


def make_plan(cfg: DictConfig, folder: Path, past: Past | None, callbacks: Sequence[Callback]) -> Plan:
    """Decide how a run goes on.

    Raises:
        InputError: if it has nothing left to do, or would not go on exactly.
    """
    if past is None:
        return Plan(None, over=False)
    check_limits(cfg, folder, past)
    ends = find_ends(cfg, callbacks, past.reached)
    if ends:
        if finished(folder):
            raise InputError(f"{folder} is finished, with {past.content['epoch'] + 1} epochs: {explain(ends)}")
        return Plan(past, over=True)
    weights = f"start a new run from its weights: ckpt_path={past.path}"
    if is_planned(cfg) and {EPOCHS, STEPS} & set(past.changed):
        raise InputError(
            f"resume: the learning rate's schedule was made for the run's own number of steps; for more {weights}"
        )
    if past.cut_short:
        whole = past.content[WHOLE_EPOCH]
        return Plan(None if whole is None else past._replace(content=whole), over=False)
    return Plan(past, over=False)


def check_limits(cfg: DictConfig, folder: Path, past: Past) -> None:
    """Refuse limits that a run has passed already."""
    for setting, count, what in ((EPOCHS, past.content["epoch"] + 1, "epochs"), (STEPS, past.step, "steps")):
        if count > limit_of(cfg, setting):
            raise InputError(f"{folder} has {count} {what} already: {setting}={limit_of(cfg, setting)} is less")


def clear_way(folder: Path, plan: Plan) -> None:
    """Remove from a run's folder the checkpoints that it does not go on from.

    Those of an epoch cut short give way to those whose place they took. Being killed here changes nothing: the next
    start does the rest.
    """
    for path in (folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt"):
        if plan.over or not path.is_file():
            continue
        content = {} if plan.past is None else read_checkpoint(path)
        before = content.get(WHOLE_EPOCH)
        if before is not None:
            write_checkpoint(before, path)
        elif plan.past is None or WHOLE_EPOCH in content:
            remove(path)
