"""The rungs of a sweep by successive halving: after how many epochs its jobs are compared, and how many go on."""

import math
import pickle
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig

from src.core.checks import allow_integer, allow_null_or, allow_one_of, check_settings
from src.core.errors import InputError
from src.sweeps.store.jobs import Job

HALVING, ONE_EPOCH = "halving", "one_epoch"
SWEEPER = "hydra/sweeper=halving"
CHECKS = {
    "rule": allow_one_of(HALVING, ONE_EPOCH),
    "min_epochs": allow_integer(1),
    "factor": allow_integer(2, 1000),
    "brackets": allow_integer(1, 1000),
    "keep": allow_null_or(allow_integer(1)),
}
SHARED_SETTINGS = ("trainer.max_epochs", "data._target_", "monitor", "mode")  # jobs that differ in them have no order


class Rung(NamedTuple):
    """A point at which the jobs are compared.

    Attributes:
        epochs: the number of epochs that each job has then.
        factor: one of ``factor`` settings goes on, rounded up; ``None``: as many as ``keep``.
        keep: the number of settings that go on; ``None``: by ``factor``.
    """

    epochs: int
    factor: int | None
    keep: int | None

    def count_kept(self, settings: int) -> int:
        """Return how many of a number of settings go on."""
        return min(settings, self.keep) if self.factor is None else math.ceil(settings / self.factor)  # type: ignore[type-var,return-value]


def plan_rungs(settings: Mapping[str, Any], jobs: Sequence[Job], asked: str = SWEEPER) -> list[Rung]:
    """Return the rungs before the jobs' last epoch.

    Args:
        settings: the settings of the sweeper.
        jobs: the sweep's jobs.
        asked: the setting that asks for them, for error messages.

    Raises:
        InputError: if a setting is invalid, or the jobs cannot be compared at each rung.
    """
    check_settings(settings, CHECKS, "hydra.sweeper.")
    rule, first, factor, keep = (settings[name] for name in ("rule", "min_epochs", "factor", "keep"))
    if (keep is None) != (rule == HALVING):
        how = "give hydra.sweeper.keep=NUMBER" if keep is None else "leave out hydra.sweeper.keep"
        raise InputError(f"hydra.sweeper.rule={rule}: {how}")
    _refuse_incomparable(jobs, asked)
    last = jobs[0].settings["trainer.max_epochs"]
    if last in (None, -1):
        raise InputError(f"trainer.max_epochs={last}: {asked} needs the number of epochs of a whole run")
    if first >= last:
        raise InputError(f"hydra.sweeper.min_epochs={first} must be below trainer.max_epochs={last}")
    epochs = [first] if rule == ONE_EPOCH else _list_powers(first, factor, last)
    most = len(epochs) + (rule == HALVING)
    if (brackets := settings["brackets"]) > most:
        raise InputError(f"hydra.sweeper.brackets={brackets}: with these epochs there are at most {most}")
    _refuse_unmeasured(epochs, jobs, asked)
    return [Rung(each, None if keep else factor, keep) for each in epochs]


def deal_brackets(groups: list[list[Job]], rungs: int, factor: int, brackets: int) -> list[list[list[Job]]]:
    """Divide groups of jobs among Hyperband's brackets; a bracket that starts later gets fewer of them.

    With s rungs left a bracket gets a share of (rungs + 1) / (s + 1) · factorˢ (Li et al., Hyperband, JMLR 2018), drawn
    by the hashes of the settings, so that it spans all axes.
    """
    left = [rungs - bracket for bracket in range(brackets)]
    shares = [math.ceil((rungs + 1) / (count + 1) * factor**count) for count in left]
    ends = [round(len(groups) * end / sum(shares)) for end in accumulate(shares, initial=0)]
    shuffled = sorted(groups, key=lambda group: group[0].identity)
    return [sorted(shuffled[start:end], key=lambda group: group[0].number) for start, end in pairwise(ends)]


def _list_powers(first: int, factor: int, end: int) -> list[int]:
    """Return ``first``, ``first * factor``, ``first * factor ** 2`` … below ``end``."""
    found = [first]
    while found[-1] * factor < end:
        found.append(found[-1] * factor)
    return found


def _refuse_incomparable(jobs: Sequence[Job], asked: str) -> None:
    """Refuse jobs that differ in what makes their metrics comparable."""
    for name in SHARED_SETTINGS:
        values = list(dict.fromkeys(str(job.settings.get(name)) for job in jobs))
        if len(values) > 1:
            raise InputError(
                f"{asked} compares its jobs with each other, and they differ in {name} "
                f"({', '.join(values)}): start a sweep for each"
            )


def _refuse_unmeasured(epochs: list[int], jobs: Sequence[Job], asked: str) -> None:
    """Refuse jobs that are not validated at each rung."""
    for job in jobs:
        every = job.settings.get("trainer.check_val_every_n_epoch")
        if every and (missed := [number for number in epochs if number % every]):
            raise InputError(
                f"trainer.check_val_every_n_epoch={every}: nothing is measured after epoch {missed[0]}, where "
                f"{asked} compares the jobs; make hydra.sweeper.min_epochs a multiple of it"
            )


def find_missing_metric(config: bytes) -> str | None:
    """Return an error message if a job measures nothing to compare it by, else ``None``.

    It imports torch: call it in a subprocess.

    Args:
        config: the job's config, pickled.
    """
    from src.callbacks.monitor import explain_no_validation, resolve_monitor
    from src.training.build import build_data

    cfg = pickle.loads(config)
    HydraConfig.instance().cfg = cfg
    try:
        data = build_data(cfg)
        metric, _ = resolve_monitor(cfg, data)
    except Exception:  # the job itself will report it
        return None
    why = explain_no_validation(cfg, data)
    return None if metric else f"hydra/sweeper=halving needs a validation set to compare its jobs by: {why}"
