"""The runs of a sweep as their folders tell them, at any time and wherever they lie."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from yaml import YAMLError

from src.errors import InputError
from src.records import read_json

CHOICES = ("experiment", "model", "data")  # settings whose values say what they are


class Run(NamedTuple):
    """A run that has kept metrics: its folder, what was swept (setting → value), and ``metrics.json``."""

    folder: Path
    swept: dict[str, str]
    metrics: dict[str, Any]

    @property
    def label(self) -> str:
        """What makes this run another than the rest, its seeds apart: "hidden size 3, dropout 0.5"."""
        return spoken({key: value for key, value in self.swept.items() if not key.endswith("seed")}) or "all runs"

    @property
    def title(self) -> str:
        """What makes it another with its seeds, which tells it from all the rest."""
        return spoken(self.swept) or self.folder.name

    @property
    def history(self) -> list[dict[str, float]]:
        """Its metrics, epoch by epoch, from ``history.csv``."""
        return read_history(self.folder / "history.csv")


def spoken(settings: dict[str, str]) -> str:
    """Settings as one would say them: {"model.hidden_size": "3"} → "hidden size 3"."""
    return ", ".join(
        value if key in CHOICES else f"{key.split('.')[-1].replace('_', ' ')} {value}"
        for key, value in settings.items()
    )


def folded(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs by their label: those that differ in their seeds alone come together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def read_runs(folder: Path) -> list[Run]:
    """The runs of a sweep in the order of their numbers; those without metrics yet are left out.

    Raises:
        InputError: if there is none, or their settings are damaged.
    """
    jobs = sorted((path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml")), key=number)
    given = {job: overrides(job) for job in jobs}
    keys = dict.fromkeys(key for each in given.values() for key in each)
    varying = [key for key in keys if len({each.get(key) for each in given.values()}) > 1]
    runs = [
        Run(job, {key: each[key] for key in varying if key in each}, metrics)
        for job, each in given.items()
        if (metrics := read_json(job / "metrics.json"))
    ]
    if not runs:
        raise InputError(f"{folder}: there are no runs with metrics in it")
    return runs


def number(job: Path) -> tuple[float, str]:
    """What to sort jobs by: the number that their folder's name begins with."""
    first = job.name.split("_")[0]
    return (int(first) if first.isdecimal() else float("inf"), job.name)


def overrides(job: Path) -> dict[str, str]:
    """The settings that a job was given, by name."""
    given = read_yaml(job / ".hydra" / "overrides.yaml")
    pairs = [str(each).lstrip("+").split("=", 1) for each in (given if isinstance(given, list) else [])]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def read_yaml(path: Path) -> Any:
    """A YAML file's content as it was written, references left unresolved.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a ``history.csv``; what was not measured in an epoch is not in its row.

    Raises:
        InputError: if there is something else than numbers in it.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
