"""What jobs take, time and disk, estimated from finished runs that differ from them only in cheap settings."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from src.core.errors import InputError
from src.storage import schema
from src.storage.configs import flatten_config, is_identifying, read_config
from src.storage.schema import DamagedError
from src.storage.status import METRICS_FILE, STATUS_FILE, read_results
from src.sweeps.launchers.vectorized import can_differ
from src.sweeps.store.jobs import JOB_FILE, STACK_FILE, read_job, read_jobs

MAX_READ = 200  # runs outside the sweep that are read, the newest ones
FREE_SETTINGS = ("trainer.max_epochs", "data.split_seed", "data.fold", "monitor", "mode", "test")  # beside numbers


class Cost(NamedTuple):
    """What a finished run took.

    Attributes:
        epoch_seconds: seconds per epoch.
        other_seconds: seconds besides its epochs: starting, testing, drawing; 0: unknown.
        size: bytes of its folder.
        device: what it was trained on.
    """

    epoch_seconds: float
    other_seconds: float
    size: int
    device: str


class Costs(NamedTuple):
    """What finished runs took.

    Attributes:
        by_kind: their costs by their kind, see `describe_kind`.
        noun: what these runs are.
        where: where they are.
    """

    by_kind: dict[str, list[Cost]]
    noun: str
    where: str

    @property
    def all(self) -> list[Cost]:
        return [cost for costs in self.by_kind.values() for cost in costs]

    def estimate(self, kind: str) -> Cost:
        """Return the mean cost of the runs of a kind; of all runs if there are none of that kind."""
        costs = self.by_kind.get(kind) or self.all
        epoch_seconds, other_seconds = (
            fmean(values) for values in zip(*((cost.epoch_seconds, cost.other_seconds) for cost in costs), strict=True)
        )
        return Cost(epoch_seconds, other_seconds, round(fmean(cost.size for cost in costs)), costs[0].device)


def describe_kind(settings: dict[str, Any], is_stacked: bool) -> str:
    """Return a text that is equal for runs that take equally long: they differ in numbers of training alone."""
    own = {key: value for key, value in settings.items() if is_identifying(key, settings)}
    kind = {key: value for key, value in own.items() if not (can_differ(key, value) or key in FREE_SETTINGS)}
    kind["model.dropout"] = bool(settings.get("model.dropout"))  # with 0 the network has no dropout layer
    kind["trainer.accelerator"] = settings.get("trainer.accelerator")
    return json.dumps([kind, is_stacked], sort_keys=True, default=str)


def find_costs(folder: Path, kinds: set[str], outputs: Path) -> Costs:
    """Return what finished runs took: the jobs in a sweep's folder, else the newest runs of these kinds.

    Args:
        folder: the sweep's.
        kinds: the kinds of runs to look for outside the folder.
        outputs: where these are.
    """
    own = _group_costs((job.folder, job.settings) for job in read_jobs(folder) if job.damage is None)
    if own:
        return Costs(own, "finished job", "of this sweep")
    others = _group_costs(_read_others(outputs))
    return Costs({kind: costs for kind, costs in others.items() if kind in kinds}, "earlier run", f"in {outputs}")


def _group_costs(runs: Iterable[tuple[Path, dict[str, Any]]]) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {}
    for folder, settings in runs:
        if cost := measure_cost(folder):
            is_stacked = (folder / STACK_FILE).exists()
            found.setdefault(describe_kind(settings, is_stacked), []).append(cost)
    return found


def _read_others(outputs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield folder and settings of the newest runs and jobs; those that cannot be read are left out."""
    paths = [*outputs.glob(f"runs/*/{METRICS_FILE}"), *outputs.glob(f"sweeps/*/*/{METRICS_FILE}")]
    for path in islice(sorted(paths, key=lambda path: -path.lstat().st_mtime), MAX_READ):
        folder = path.parent
        try:
            is_job = (folder / JOB_FILE).exists()
            yield folder, read_job(folder).settings if is_job else flatten_config(read_config(folder))
        except (InputError, ValueError):
            continue


def measure_cost(folder: Path) -> Cost | None:
    """Return what the run in a folder took; ``None`` if it has not finished."""
    status, metrics = read_results(folder)
    if status["status"] != "finished" or not metrics.get("epochs") or "seconds" not in metrics:
        return None
    is_stacked = (folder / STACK_FILE).exists()  # its seconds are its share of the stack's, all included
    other = 0.0 if is_stacked else _measure_wall(folder) - metrics["seconds"]
    return Cost(metrics["seconds"] / metrics["epochs"], max(0.0, other), _measure_size(folder), _read_device(folder))


def _measure_wall(folder: Path) -> float:
    """Return the seconds from a run's start to its end by the times of its files; 0 if they tell nothing."""
    try:
        return (folder / STATUS_FILE).stat().st_mtime - (folder / ".hydra" / "config.yaml").stat().st_mtime
    except OSError:
        return 0.0


def _measure_size(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(os.lstat(os.path.join(home, name)).st_size for home, _, names in os.walk(folder) for name in names)


def _read_device(folder: Path) -> str:
    try:
        provenance = schema.read_checked(folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError:
        provenance = {}
    return str(provenance.get("device") or "an unknown device")
