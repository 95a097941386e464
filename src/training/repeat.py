"""Repeat a finished run from its own record, and compare the two to the last digit."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from src.cli.resumed import refuse_foreign_weights
from src.core.errors import InputError
from src.storage import schema
from src.storage.configs import WRITING_SECTIONS, open_config
from src.storage.records import find_damage, read_metrics
from src.storage.schema import DamagedError, read_history
from src.storage.status import read_status
from src.storage.weights import read_checkpoint
from src.training.checkpointing.checkpoint import find_checkpoint
from src.training.python_run import open_python_run
from src.training.run import train

TIMES = ("seconds", "compile_seconds")  # metrics that no two runs have in common
MACHINE = ("system", "cores")  # what provenance.json has of a machine
RUN_SETTINGS = ("name", "resume", "rerun", "trust")  # settings of a start, which another start does not repeat
CPU_THREADS = re.compile(r"CPU, (\d{1,4}) threads?")  # the device of a run on the CPU, as its provenance has it


class Difference(NamedTuple):
    """A metric that two runs do not have in common; ``None``: one of them lacks it."""

    metric: str
    then: Any
    now: Any


class Repetition(NamedTuple):
    """A run and its repetition.

    Attributes:
        folder: the folder of the repetition.
        metrics: the number of metrics that were compared.
        epochs: the number of epochs whose metrics were compared.
        differences: the metrics of the chosen epoch and of the test that differ.
        first_epoch: the first epoch with another metric; ``None`` if all agree.
        changes: what else was not as it was: lines in words.
    """

    folder: Path
    metrics: int
    epochs: int
    differences: list[Difference]
    first_epoch: int | None
    changes: list[str]

    @property
    def is_identical(self) -> bool:
        """True if all metrics agree to the last digit."""
        return not self.differences and self.first_epoch is None


def repeat_run(
    folder: Path, packages: tuple[str, ...] = (), out: Path | None = None, given: Mapping[str, Any] | None = None
) -> Repetition:
    """Run a finished run again, with its own settings and number of threads, into a new folder.

    Args:
        folder: the run's folder, which may be a stranger's.
        packages: the packages that the user trusts, see `src.storage.trust`.
        out: the new folder; ``None``: a new one in ``outputs/runs``.
        given: settings that the user gives, such as where the data are.

    Raises:
        InputError: if there is no finished run, it cannot be repeated here, or it fails.
    """
    refuse_unfinished(folder)
    given = given or {}
    cfg = open_config(folder, packages, given, WRITING_SECTIONS)
    refuse_foreign_weights(cfg, folder, set(given))
    for name in RUN_SETTINGS:
        OmegaConf.update(cfg, name, None)
    if cfg.get("threads") is None and (found := CPU_THREADS.fullmatch(str(read_last_start(folder).get("device")))):
        cfg.threads = int(found[1])  # the order of a sum, and so its last digit, depends on it
    for name, value in given.items():
        OmegaConf.update(cfg, name, value)
    with open_python_run(cfg, out) as (opened, new):
        train(opened, new)
    return compare_runs(folder, new, cfg)


def refuse_unfinished(folder: Path) -> None:
    """Refuse a folder without a finished run in it.

    Raises:
        InputError: saying what there is.
    """
    if not (folder / ".hydra" / "config.yaml").is_file() and any(folder.glob("*/job.json")):
        raise InputError(f"run={folder} is a sweep: give the folder of one of its jobs")
    if damage := find_damage(folder):
        raise InputError(f"{damage}: there is nothing to compare a repetition with")
    if (folder / ".hydra" / "config.yaml").is_file() and (status := read_status(folder))["status"] != "finished":
        raise InputError(f"run={folder}: only a finished run can be repeated, and this one is {status['status']}")


def compare_runs(folder: Path, new: Path, cfg: DictConfig) -> Repetition:
    """Compare a run with its repetition.

    Args:
        folder: the run's folder.
        new: the folder of the repetition.
        cfg: the run's config.
    """
    then, now = (dict(flatten_metrics(read_metrics(each))) for each in (folder, new))
    names = dict.fromkeys([*then, *now])
    rows, new_rows = (read_history(each / "history.csv") for each in (folder, new))
    return Repetition(
        folder=new,
        metrics=len(names),
        epochs=max(len(rows), len(new_rows)),
        differences=[
            Difference(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)
        ],
        first_epoch=find_first_difference(rows, new_rows),
        changes=list(find_changed_conditions(folder, new, str(cfg.data._target_).rpartition(".")[2])),
    )


def flatten_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield metrics that a repetition should have, too; those with a value for each class one by one."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", each) for key, each in value.items())
        elif name not in TIMES:
            yield name, value


def find_first_difference(rows: list[dict[str, float]], new_rows: list[dict[str, float]]) -> int | None:
    """Return the first epoch with other metrics in two histories, or in only one of them; ``None`` if they are alike.

    NaN, which a history has where a metric was not finite, equals NaN.
    """
    for index in range(max(len(rows), len(new_rows))):
        pair = [part[index] if index < len(part) else {} for part in (rows, new_rows)]
        if repr(sorted(pair[0].items())) != repr(sorted(pair[1].items())):
            return int(max(row.get("epoch", 0) for row in pair))
    return None


# What was not as it was


def read_last_start(folder: Path) -> dict[str, Any]:
    """Return what ``provenance.json`` says of a run's last start; empty if it is missing or damaged."""
    try:
        found = schema.read_checked(folder / "provenance.json", schema.PROVENANCE) or {}
    except DamagedError:
        return {}
    return (found.get("resumed") or [found])[-1]


def find_changed_conditions(folder: Path, new: Path, data: str) -> Iterator[str]:
    """Yield a line for each recorded condition that differs between a run and its repetition.

    Args:
        folder: the run's folder.
        new: the folder of the repetition.
        data: the name of the data module's class.
    """
    then, now = read_last_start(folder), read_last_start(new)
    if not then:
        yield f"{folder} has no record of the code, the versions and the device (provenance.json)"
        return
    yield from describe_code(then.get("git") or {}, now.get("git") or {})
    before, after = then.get("packages") or {}, now.get("packages") or {}
    pairs = {"python": (then.get("python"), now.get("python"))}
    pairs |= {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    pairs["device"] = (then.get("device"), now.get("device"))
    pairs |= {f"the machine's {name}": (_read_machine(then, name), _read_machine(now, name)) for name in MACHINE}
    yield from (f"{name}: {old}, now {current}" for name, (old, current) in pairs.items() if old != current)
    if stack := then.get("stack"):
        count = stack.get("jobs") if isinstance(stack, dict) else stack
        yield f"then it was trained in a stack of {count} jobs, which rounds differently, now alone"
    yield from describe_data(folder, new, data)


def _read_machine(start: Mapping[str, Any], name: str) -> Any:
    machine = start.get("machine")
    return machine.get(name) if isinstance(machine, dict) else None


def describe_code(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line on commits that differ, and one on changes that no commit has."""
    if then.get("commit") is None or now.get("commit") is None:
        yield "code: its commit is not known, so that changes of the code would go unnoticed"
    elif then["commit"] != now["commit"]:
        yield f"code: commit {then['commit'][:10]}, now {now['commit'][:10]}"
    dirty = [word for word, start in (("then", then), ("now", now)) if start.get("dirty")]
    if dirty:
        yield f"code: {' and '.join(dirty)} with changes that were not committed"


def describe_data(folder: Path, new: Path, data: str) -> Iterator[str]:
    """Yield a line if the data's fingerprints in the checkpoints differ."""
    found: list[Any] = []
    for each in (folder, new):
        with suppress(InputError):
            found.append(read_checkpoint(find_checkpoint(each, None)).get(data))
    if len(found) == 2 and found[0] != found[1]:
        yield "data: the samples are others, by their fingerprints"
